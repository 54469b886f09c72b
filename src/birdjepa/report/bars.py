"""Counts as bars: a list of them for names, a histogram for numbers, and ranks for very many classes.

Lists are HTML, so that their text keeps its size on a phone; the others are SVG.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from birdjepa.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, number
from birdjepa.report.html import Html, note, tag

N_BINS = 24


def bar_list(counts: Mapping[str, int], *, most: int | None = None) -> Html:
    """A bar for each name, in their order; `most` is the count of a full bar, by default the largest."""
    if not counts:
        return note("Nothing is known.")
    most = most or max(counts.values())
    rows = [
        tag(
            "tr",
            {},
            tag("th", {"scope": "row"}, name),
            tag("td", {}, tag("i", {"style": f"width:{max(0.4, 100 * n / most):.1f}%"})),
            tag("td", {"class": "number"}, f"{n:,}"),
        )
        for name, n in counts.items()
    ]
    return tag("table", {"class": "bars"}, tag("tbody", {}, *rows))


def histogram(values: Float[np.ndarray, " n"], what: str, text: Callable[[float], str], *, log: bool = False) -> Html:
    """How often values lie where; `text` writes one on the axis. Logarithmic where they span more than a decade, if
    that is allowed."""
    values = values[np.isfinite(values)]
    if log:
        values = values[values > 0]
    if not len(values):
        return note("Nothing is known.")
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-3 * abs(high):
        return note(f"All {len(values):,}: {text(high)}.")
    log = log and high > 10 * low
    edges = np.geomspace(low, high, N_BINS + 1) if log else np.linspace(low, high, N_BINS + 1)
    edges[0], edges[-1] = low, high
    counts, _ = np.histogram(values, edges)
    x, y = Axis(low, high, LEFT, WIDTH - RIGHT, log=log), Axis(0, int(counts.max()), HEIGHT - BOTTOM, TOP)
    marks = _count_lines(y)
    for n, first, last in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if n:
            told = f"{text(first)} to {text(last)}: {n:,}"
            marks.append(_bar(x(first), x(last), y(n), tag("title", {}, told)))
    marks += [_below(x(tick), text(tick)) for tick in x.ticks(4)]
    median = float(np.median(values))
    spoken = f"Histogram of {what}: {len(values):,} from {text(low)} to {text(high)}, median {text(median)}"
    svg = tag("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": spoken}, *marks)
    caption = tag("figcaption", {}, f"median {text(median)}, from {text(low)} to {text(high)}")
    return tag("div", {}, svg, caption)


def ranks(counts: Sequence[int], what: str) -> Html:
    """Counts in falling order as one step curve, logarithmic: for more classes than bars have room."""
    x = Axis(0, len(counts), LEFT, WIDTH - RIGHT)
    y = Axis(0.8, max(counts) * 1.1, HEIGHT - BOTTOM, TOP, log=True)
    marks = _count_lines(y)
    steps = "".join(f"V{y(n):.1f}H{x(i + 1):.1f}" for i, n in enumerate(counts))
    marks.append(tag("path", {"class": "area", "d": f"M{x(0):.1f},{HEIGHT - BOTTOM}{steps}V{HEIGHT - BOTTOM}Z"}))
    marks += [_below(x(tick), f"{tick:,.0f}") for tick in x.ticks(4) if tick == round(tick)]
    spoken = f"{what}, sorted: {len(counts):,} from {max(counts):,} down to {min(counts):,}"
    svg = tag("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": spoken}, *marks)
    half = sorted(counts)[len(counts) // 2]
    caption = f"{max(counts):,} down to {min(counts):,}, median {half:,}; across: number of the class; logarithmic"
    return tag("div", {}, svg, tag("figcaption", {}, caption))


def _count_lines(y: Axis) -> list[Html]:
    marks = []
    for tick in y.ticks(4):
        if tick == round(tick):
            marks.append(tag("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y(tick), "y2": y(tick)}))
            at = {"class": "tick", "x": LEFT - 6, "y": y(tick) + 3.5, "text-anchor": "end"}
            marks.append(tag("text", at, number(tick)))
    return marks


def _bar(left: float, right: float, top: float, title: Html) -> Html:
    gap = min(1.0, 0.2 * (right - left))
    box = {"x": left + gap / 2, "width": right - left - gap, "y": top, "height": HEIGHT - BOTTOM - top}
    return tag("rect", {"class": "area", **box}, title)


def _below(x: float, text: str) -> Html:
    return tag("text", {"class": "tick", "x": x, "y": HEIGHT - 6, "text-anchor": "middle"}, text)
