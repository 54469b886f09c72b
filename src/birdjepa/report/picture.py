"""Spectrograms as pictures: low frequencies at the bottom, axes in s and kHz, windows drawn on them, a play button.

Axes: t frames | m mel bands
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from birdjepa.report.contents import HeardClip, Outline, Scale, SeenPanel
from birdjepa.report.html import Html, join, tag
from birdjepa.report.png import data_uri, encode_png

RANGE_DB = 65.0
"""Between the darkest and the brightest shade."""
KHZ = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0)
THUMBNAIL = (220, 64)
"""Most columns and rows of a thumbnail."""


class Levels(NamedTuple):
    """Decibels of the darkest and the brightest shade."""

    low: float
    high: float


def levels(frames: Float[np.ndarray, "t m"]) -> Levels:
    """Shades that suit a spectrogram: from its loudest thousandth down to its quiet background, `RANGE_DB` at most.
    What is hidden (NaN) does not count.
    """
    high = float(np.nanquantile(frames, 0.999))
    low = float(np.nanquantile(frames, 0.05))
    return Levels(max(high - RANGE_DB, min(low, high - 20.0)), high)


def spectrogram(
    frames: Float[np.ndarray, "t m"], shades: Levels, alt: str, *, most: tuple[int, int] | None = None
) -> Html:
    """A picture element that fills the width it is given, of at most so many columns and rows; NaN is drawn in the tone
    of what is hidden."""
    columns, rows = most or frames.shape
    image = _pool(_pool(frames, columns).T, rows)[::-1]
    source = data_uri(encode_png(np.ascontiguousarray(image, dtype=np.float64), *shades), "image/png")
    return tag(
        "img",
        {
            "src": source,
            "alt": alt,
            "decoding": "async",
            "width": image.shape[1],
            "height": image.shape[0],
        },
    )


def annotated(clip: HeardClip, views: Sequence[SeenPanel], shades: Levels, scale: Scale, sound: int) -> Html:
    """A large spectrogram with both axes, a box for each view that shows a part of it, and a play button."""
    shown_s = len(clip.frames) / scale.frame_rate
    boxes = [_box(view, number, shown_s) for number, view in enumerate(view for view in views if view.is_window)]
    alt = f"Spectrogram of {described(clip)}, {shown_s:.1f} s"
    picture = tag(
        "div",
        {"class": "picture"},
        spectrogram(clip.frames, shades, alt),
        *boxes,
        _playhead(),
        play_button(sound, described(clip)),
    )
    grid = (
        tag("div", {"class": "khz"}, *_khz_ticks(scale)),
        picture,
        tag("div", {"class": "seconds"}, *_second_ticks(shown_s)),
    )
    return tag("div", {"class": "spectrogram"}, *grid)


def playable(clip: HeardClip, sound: int) -> Html:
    """A thumbnail with a play button."""
    alt = f"Spectrogram of {described(clip)}, {clip.duration_s:.1f} s"
    image = spectrogram(clip.frames, levels(clip.frames), alt, most=THUMBNAIL)
    return tag("div", {"class": "picture"}, image, _playhead(), play_button(sound, described(clip)))


def view_picture(view: SeenPanel, shades: Levels, sound: int) -> Html:
    """A view as the encoder saw it; its button plays the stretch of sound that it was made from."""
    end_s = view.start_s + view.duration_s
    alt = f"View {view.name}: {view.start_s:.2f} to {end_s:.2f} s, augmented"
    button = play_button(sound, f"the sound under view {view.name}", stretch=(view.start_s, end_s))
    picture = tag("div", {"class": "picture"}, spectrogram(view.frames, shades, alt), _playhead(), button)
    kind = "local" if view.is_local else "global"
    caption = tag("figcaption", {}, tag("b", {"class": kind}, view.name), f" {view.start_s:.2f} to {end_s:.2f} s")
    return tag("figure", {"class": "view", "style": f"flex-grow:{view.duration_s:.4g}"}, picture, caption)


def panel_picture(panel: SeenPanel, shades: Levels, sound: int, when: str) -> Html:
    """A picture of the whole clip, with what is hidden in one tone and blocks outlined; when tells two of one name
    apart. Its button plays the clip.
    """
    shown = float(np.isfinite(panel.frames).mean())
    share = f"{shown:.0%} of the clip" if shown < 1 else ""
    said = ", ".join(filter(None, (panel.caption, share)))
    alt = f"{panel.name}{when}{f': {said}' if said else ''}"
    blocks = [_outline(outline, number) for number, outline in enumerate(panel.outlines, start=1)]
    button = play_button(sound, f"the clip under {panel.name}{when}", stretch=(0.0, panel.duration_s))
    picture = tag("div", {"class": "picture"}, spectrogram(panel.frames, shades, alt), *blocks, _playhead(), button)
    caption = tag("figcaption", {}, tag("b", {}, panel.name), f" {said}" if said else "")
    return tag("figure", {"class": "panel"}, picture, caption)


def play_button(sound: int, what: str, *, stretch: tuple[float, float] | None = None) -> Html:
    """A button for one of the page's sounds, or for a stretch of it in seconds."""
    attributes = {"class": "play", "type": "button", "data-sound": sound, "aria-label": f"Play {what}"}
    if stretch is not None:
        attributes |= {"data-from": float(stretch[0]), "data-to": float(stretch[1])}
    return tag("button", attributes)


def described(clip: HeardClip) -> str:
    """A clip in words: its label if it has one, and its recording."""
    return f"{clip.label} ({clip.recording})" if clip.label else clip.recording


def _box(view: SeenPanel, number: int, shown_s: float) -> Html:
    """A view's window; boxes are inset one into the other so that edges and names stay apart."""
    inset = 2 + 3 * (number % 8)
    left, width = 100 * view.start_s / shown_s, 100 * view.duration_s / shown_s
    at = f"left:{left:.3f}%;width:{width:.3f}%;top:{inset}px;bottom:{inset}px"
    kind = "local" if view.is_local else "global"
    name = tag("span", {"style": f"top:{13 * (number % 8)}px"}, view.name)
    title = f"{view.name}: {view.start_s:.2f} to {view.start_s + view.duration_s:.2f} s"
    return tag("div", {"class": f"box {kind}", "style": at, "title": title}, name)


def _outline(outline: Outline, number: int) -> Html:
    """A block's edges; its number stands in its upper left corner."""
    left, right, low, high = (100 * share for share in outline)
    at = f"left:{left:.3f}%;width:{right - left:.3f}%;bottom:{low:.3f}%;height:{high - low:.3f}%"
    return tag("div", {"class": "block", "style": at}, tag("span", {}, str(number)))


def _playhead() -> Html:
    return tag("i", {"class": "playhead", "hidden": True})


def _khz_ticks(scale: Scale) -> list[Html]:
    """Round frequencies at their height in percent, not closer than a tenth of the picture."""
    hz, bands = scale.band_hz, np.arange(len(scale.band_hz))
    ticks, last = [], -1.0
    for khz in KHZ:
        if not hz[0] <= 1000 * khz <= hz[-1]:
            continue
        height = 100 * (float(np.interp(1000 * khz, hz, bands)) + 0.5) / len(hz)
        if height - last >= 10 and height <= 88:
            ticks.append(tag("span", {"style": f"bottom:{height:.2f}%"}, f"{khz:g}"))
            last = height
    return [*ticks, tag("span", {"class": "unit"}, "kHz")]


def _second_ticks(shown_s: float) -> list[Html]:
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30) if shown_s / step <= 8), 60)
    seconds = [i * step for i in range(int(shown_s / step) + 1) if i * step <= 0.96 * shown_s]
    spans = [tag("span", {"style": f"left:{100 * second / shown_s:.2f}%"}, f"{second:g}") for second in seconds]
    return [*spans, tag("span", {"class": "unit"}, "s")]


def _pool(values: Float[np.ndarray, "n k"], most: int) -> Float[np.ndarray, "_ k"]:
    """At most so many rows: each the mean of its neighbours."""
    if len(values) <= most:
        return values
    edges = np.linspace(0, len(values), most + 1).round().astype(int)
    return np.add.reduceat(values, edges[:-1], axis=0) / np.diff(edges)[:, None]


def legend(*, hidden: bool) -> Html:
    """The shades, from quiet to loud, and the tone of what is hidden where there is any."""
    shades = ("quiet ", _swatch("ramp", np.linspace(0, 1, 64)[None], "from dark (quiet) to bright (loud)"), " loud")
    return join((*shades, ", ", _swatch("hidden", np.full((1, 1), np.nan), "grey"), " hidden") if hidden else shades)


def _swatch(kind: str, values: Float[np.ndarray, "h w"], alt: str) -> Html:
    source = data_uri(encode_png(values, 0.0, 1.0), "image/png")
    return tag("img", {"class": f"swatch {kind}", "src": source, "alt": alt})
