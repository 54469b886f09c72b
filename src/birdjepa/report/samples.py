"""The section of what a codec sounds like: originals and what came back, to be seen and heard, and what codes cost."""

from collections.abc import Sequence

import numpy as np

from birdjepa.report.charts import number
from birdjepa.report.contents import (
    Absent,
    HeardClip,
    Reconstructed,
    ReportContents,
    SampleClip,
    Scale,
    SeenPanel,
)
from birdjepa.report.html import Html, breakable, join, note, section, table, tag
from birdjepa.report.picture import annotated, legend, levels, panel_picture

TITLE = "What it sounds like"
LEAD = (
    "From left to right the sound should come nearer to the original above it, and its mel distance fall towards 0, "
    "which is a copy."
)


def heard_of(contents: ReportContents) -> list[HeardClip]:
    """Sounds of the section, in the order of its buttons."""
    made = contents.reconstructed
    if not isinstance(made, Reconstructed) or isinstance(made.clips, Absent):
        return []
    return [sound for clip in made.clips for sound in (clip.original, *(look.clip for look in clip.looks))]


def samples_section(contents: ReportContents, first_sound: int) -> Html:
    """Sounds are numbered from first_sound on.

    Raises:
      ValueError: if the run learns no codec.
    """
    made = contents.reconstructed
    if made is None:
        raise ValueError("a run that learns no codec has no such section")
    if isinstance(made, Absent) or contents.scale is None:
        reason = made.reason if isinstance(made, Absent) else "no front end is at hand"
        return section("samples", TITLE, LEAD, note(f"Nothing to hear: {reason}."))
    if isinstance(made.clips, Absent):
        return section("samples", TITLE, LEAD, note(f"Nothing to hear: {made.clips.reason}."), *_cost(made))
    shown, sound = [], first_sound
    for clip in made.clips:
        shown.append(_clip(clip, contents.scale, sound))
        sound += 1 + len(clip.looks)
    origin = (
        "Sounds are those of samples/: the first clips of the run's first batch, which it has heard in training, "
        "decoded by the averaged weights where there are any. In this page each is brought to the same peak; shades "
        "are those of the original: ",
        legend(hidden=False),
        ". Only other recordings say how good the codec is: birdjepa codec eval RUN/codec DATA.",
    )
    return section("samples", TITLE, LEAD, *_finding(made.clips), *shown, note(*origin), *_cost(made))


def _finding(clips: Sequence[SampleClip]) -> list[Html]:
    first, last = (float(np.mean([clip.looks[i].mel for clip in clips])) for i in (0, -1))
    steps = [clips[0].looks[i].step for i in (0, -1)]
    if steps[0] == steps[1]:
        return []
    change = "fell" if last < first else "did not fall"
    told = f"The mel distance {change}: {number(first)} after step {steps[0]}, {number(last)} after step {steps[1]}."
    return [tag("p", {"class": "finding"}, told)]


def _clip(clip: SampleClip, scale: Scale, sound: int) -> Html:
    original = clip.original
    shades = levels(original.frames)
    label = (tag("b", {}, original.label), " ") if original.label else ()
    heading = tag("figcaption", {}, *label, tag("span", {"class": "path"}, breakable(original.recording)), ", original")
    pictures = []
    for place, look in enumerate(clip.looks, start=1):
        panel = SeenPanel(
            name=f"step {look.step}",
            caption=f"mel distance {look.mel:.3f}",
            start_s=0.0,
            duration_s=look.clip.duration_s,
            is_window=False,
            frames=look.clip.frames,
        )
        pictures.append(panel_picture(panel, shades, sound + place, ""))
    panels = tag("div", {"class": "panels", "style": f"--columns:{len(pictures)}"}, *pictures)
    return tag("figure", {"class": "clip"}, join((heading, annotated(original, [], shades, scale, sound), panels)))


def _cost(made: Reconstructed) -> list[Html]:
    """What codes cost, and how much of them is used."""
    rates = made.rates
    levels = ", ".join(map(str, sorted(set(made.levels))))
    rows = [
        ("frames a second (Hz)", number(rates["frame_hz"])),
        (f"packed codes a second, of {len(made.levels)} dimensions of {levels} levels", number(rates["tokens_per_s"])),
        ("bit a second, levels equally likely", number(rates["nominal_bit_s"])),
        ("bit a second as files store them", number(rates["stored_bit_s"])),
    ]
    told = "Fewer bits are cheaper; levels that no sound uses, and an entropy far below the nominal rate, are wasted. "
    if isinstance(made.used, Absent):
        return [_table(rows), note(f"{told}Use of the codes was not counted: {made.used.reason}.")]
    used, summary = made.used, made.used.summary
    rows += [
        ("levels used, in the least used dimension", f"{summary['least_used']:.0%}"),
        ("levels used, mean over dimensions", f"{used.levels_used:.0%}"),
        ("entropy in bit a second, each dimension by itself", number(summary["entropy_bit_s"])),
        ("entropy in bit a second, of packed codes", number(summary["entropy_bit_s_packed"])),
    ]
    told += (
        f"Counted on {summary['n_frames']:,.0f} frames of {used.n_clips} clips of the first batch; that of packed "
        "codes cannot exceed log2 of the frames for each, and is too low where these are few."
    )
    return [_table(rows), note(told)]


def _table(rows: Sequence[tuple[str, str]]) -> Html:
    return join((tag("h3", {}, "What its codes cost"), table(("", ""), rows, numeric=(1,))))
