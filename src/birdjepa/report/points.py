"""A plot of lines through points: a learning rate, examples or layers across, a score with its interval upwards.

Several values at one place (seeds) are points of their own; the line goes through their mean, and a band covers them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from birdjepa.report.charts import Axis, number
from birdjepa.report.html import Html, tag

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 10, 40
N_COLOURS = 8
"""Colours of page.css; further lines are dashed."""


class Point(NamedTuple):
    """One score."""

    x: float
    value: float
    low: float
    """NaN where there is no interval."""
    high: float


class Across(NamedTuple):
    """The axis across."""

    title: str
    texts: Mapping[float, str]
    """What stands below each place; places without a text have only a line."""
    log: bool = False


def points_chart(
    title: str,
    lines: Mapping[str, Sequence[Point]],
    names: Sequence[str],
    across: Across,
    *,
    share: bool,
    reference: tuple[str, float] | None = None,
    band: bool = False,
) -> Html:
    """The plot. The place of a line's name among `names` gives its colour, so that plots of one page agree."""
    points = [point for line in lines.values() for point in line]
    bounds = [bound for point in points for bound in (point.value, point.low, point.high) if math.isfinite(bound)]
    bounds += [reference[1]] if reference else []
    pad = 0.05 * (max(bounds) - min(bounds))
    x = _x_axis(points, log=across.log)
    y = Axis(min(bounds) - pad, max(bounds) + pad, HEIGHT - BOTTOM, TOP)
    marks = []
    for tick in y.ticks(5):
        marks.append(tag("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y(tick), "y2": y(tick)}))
        at = {"class": "tick", "x": LEFT - 6, "y": y(tick) + 3.5, "text-anchor": "end"}
        marks.append(tag("text", at, number(tick, share=share)))
    for place in sorted({point.x for point in points}):
        marks.append(tag("line", {"class": "grid", "x1": x(place), "x2": x(place), "y1": TOP, "y2": HEIGHT - BOTTOM}))
        at = {"class": "tick", "x": x(place), "y": HEIGHT - BOTTOM + 14, "text-anchor": "middle"}
        marks.append(tag("text", at, across.texts.get(place, "")))
    middle = {"class": "tick", "x": (LEFT + WIDTH - RIGHT) / 2, "y": HEIGHT - 8, "text-anchor": "middle"}
    marks.append(tag("text", middle, across.title))
    if reference:
        at = {"class": "reference", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y(reference[1]), "y2": y(reference[1])}
        marks.append(tag("line", at, tag("title", {}, f"{reference[0]}: {number(reference[1], share=share)}")))
    for i, name in enumerate(names):
        if name in lines:
            marks += [_band(lines[name], i, x, y)] if band else []
            marks += _drawn(lines[name], name, i, x, y, across, share=share)
    spoken = "; ".join(f"{name} {number(max(p.value for p in line), share=share)}" for name, line in lines.items())
    told = f"{title} by {across.title}, most: {spoken}"
    return tag("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": told}, *marks)


def lines_legend(lines: Mapping[str, Sequence[Point]], names: Sequence[str]) -> Html:
    """What the colours stand for."""
    items = [
        tag("li", {"style": "display:inline-block;margin-right:1.2rem"}, tag("b", {"style": _ink(i)}, _sample(i)), name)
        for i, name in enumerate(names)
        if name in lines
    ]
    return tag("ul", {"style": "list-style:none;padding:0;margin:.3rem 0"}, *items)


def _x_axis(points: Sequence[Point], *, log: bool) -> Axis:
    low, high = min(point.x for point in points), max(point.x for point in points)
    pad = 0.04 * (high - low)
    first, last = (low / 1.15, high * 1.15) if log else (low - pad, high + pad)
    return Axis(first, last, LEFT, WIDTH - RIGHT, log=log)


def _drawn(points: Sequence[Point], name: str, i: int, x: Axis, y: Axis, across: Across, *, share: bool) -> list[Html]:
    """A line through the means at each place, and every point as a dot with its interval."""
    means = [f"{x(place):.1f},{y(sum(values) / len(values)):.1f}" for place, values in _stacked(points)]
    path = {"d": "M" + "L".join(means), "fill": "none", "stroke-width": "1.8", "style": _ink(i)}
    marks = [tag("path", {**path, "stroke-dasharray": "5 3" if i >= N_COLOURS else None})]
    for point in points:
        if math.isfinite(point.low):
            at = {"x1": x(point.x), "x2": x(point.x), "y1": y(point.low), "y2": y(point.high), "opacity": "0.45"}
            marks.append(tag("line", {**at, "stroke-width": "1.4", "style": _ink(i)}))
        told = f"{name} at {across.texts.get(point.x) or f'{point.x:.3g}'}: {number(point.value, share=share)}"
        dot = {"cx": x(point.x), "cy": y(point.value), "r": 3.4, "class": f"c{i % N_COLOURS}"}
        marks.append(tag("circle", dot, tag("title", {}, told)))
    return marks


def _band(points: Sequence[Point], i: int, x: Axis, y: Axis) -> Html:
    """From the lowest to the highest value at each place."""
    stacked = _stacked(points)
    edge = [f"{x(place):.1f},{y(max(values)):.1f}" for place, values in stacked]
    edge += [f"{x(place):.1f},{y(min(values)):.1f}" for place, values in reversed(stacked)]
    return tag("path", {"d": "M" + "L".join(edge) + "Z", "class": f"c{i % N_COLOURS}", "opacity": "0.16"})


def _stacked(points: Sequence[Point]) -> list[tuple[float, list[float]]]:
    """Values by place, from left to right."""
    return [(place, [p.value for p in points if p.x == place]) for place in sorted({p.x for p in points})]


def _sample(i: int) -> str:
    return "― " if i < N_COLOURS else "- - "


def _ink(i: int) -> str:
    colour = f"var(--c{i % N_COLOURS})"
    return f"stroke:{colour};color:{colour}"
