"""SVG charts: a line over steps, and dots with intervals. Units are those of the viewBox, colours are in page.css."""

import dataclasses
import math
from collections.abc import Sequence

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.html import Html, join, tag

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 8, 22
"""Margins of a line chart, for the labels of its axes."""
Real = int | float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One quantity over steps."""

    name: str
    """Key in metrics.jsonl."""
    title: str
    hint: str
    """What to look for."""
    steps: Sequence[int]
    values: Sequence[float]
    """As long as steps; all finite."""
    share: bool = False
    """Between 0 and 1, shown in percent."""
    reference: tuple[str, float] | None = None
    """A dashed level to compare with, and its name."""


class Axis:
    """A range of numbers on a stretch of the picture, linear or logarithmic."""

    def __init__(self, low: Real, high: Real, start: Real, end: Real, *, log: bool = False) -> None:
        self.log = log
        if high <= low:
            pad = abs(low) * 0.05 or 0.5
            low, high = (low / 1.5, high * 1.5) if log else (low - pad, high + pad)
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: Real) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(max(value, 1e-300)) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, n: int) -> list[float]:
        """About n round numbers inside the range."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
                inside = [f * 10.0**p for p in powers for f in factors if self.low <= f * 10.0**p <= self.high]
                if len(inside) >= 2:
                    return inside[:: math.ceil(len(inside) / n)]
        rough = (self.high - self.low) / n
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(line: Line, steps: tuple[int, int], alarms: Sequence[tuple[int, str]]) -> Html:
    """A line with its axes. All charts of a page share the range of steps; alarms are drawn as vertical lines."""
    x = Axis(*steps, LEFT, WIDTH - RIGHT)
    y = _value_axis(line)
    marks = [_gridline(y, tick, number(tick, share=line.share)) for tick in y.ticks(4)]
    marks += [_step_label(x, tick) for tick in x.ticks(4) if tick == round(tick)]
    if line.reference is not None and y.low <= line.reference[1] <= y.high:
        name, level = line.reference
        marks.append(
            _rule(
                "reference",
                y(level),
                tag("title", {}, f"{name}: {number(level, share=line.share)}"),
            )
        )
    for step, text in alarms:
        at = {"class": "alarm", "x1": x(step), "x2": x(step), "y1": TOP, "y2": HEIGHT - BOTTOM}
        marks.append(tag("line", at, tag("title", {}, f"step {step}: {text}")))
    points = [(x(step), y(value)) for step, value in zip(line.steps, line.values, strict=True)]
    smooth = _running_mean(line.values)
    marks.append(_path("curve faint" if smooth else "curve", points))
    if smooth:
        marks.append(_path("curve", [(point[0], y(value)) for point, value in zip(points, smooth, strict=True)]))
    if len(points) == 1:
        marks.append(tag("circle", {"class": "dot", "cx": points[0][0], "cy": points[0][1], "r": 3}))
    ends = f"{number(line.values[0])} to {number(line.values[-1])}"
    summary = f"{line.title} from step {line.steps[0]} to {line.steps[-1]}: {ends}"
    cursor = join(
        (
            tag("line", {"class": "cursor", "y1": TOP, "y2": HEIGHT - BOTTOM}),
            tag("circle", {"class": "cursor", "r": 3.2}),
        )
    )
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": summary}
    return tag("svg", box, *marks, cursor)


def interval_chart(
    rows: Sequence[tuple[str, Estimate]], *, chance: float | None, what: str = "Accuracy", left: int = 190
) -> Html:
    """A line per row: a dot at its value, a bar over its interval, on an axis of shares; chance dashed where near.

    `left` is the room for names; longer ones are cut. A share may be above 1 (an error rate).
    """
    right, pitch, bottom = 70, 30, 24
    width, height = 640, pitch * len(rows) + bottom + 6
    bounds = [bound for _, row in rows for bound in (row.value, row.low, row.high) if math.isfinite(bound)]
    least = min(bounds)
    if chance is not None and least - 0.15 < chance < least:
        least = chance
    most = max(bounds)
    low = least - 0.04 if least < 0 else max(0.0, least - 0.04)
    x = Axis(low, max(1.0, most) if most > 0.96 else most + 0.04, left, width - right)
    marks = []
    for tick in x.ticks(6):
        marks.append(tag("line", {"class": "grid", "x1": x(tick), "x2": x(tick), "y1": 4, "y2": height - bottom}))
        below = {"class": "tick", "x": x(tick), "y": height - 8, "text-anchor": "middle"}
        marks.append(tag("text", below, number(tick, share=True)))
    if chance is not None and x.low <= chance <= x.high:
        at = {"class": "reference", "x1": x(chance), "x2": x(chance), "y1": 4, "y2": height - bottom}
        marks.append(tag("line", at, tag("title", {}, f"chance: {chance:.1%}")))
    for i, (name, row) in enumerate(rows):
        y = 4 + pitch * (i + 0.5)
        kind = "ours" if i == 0 else "floor"
        at = {"class": f"name {kind}", "x": left - 12, "y": y + 4.5, "text-anchor": "end"}
        marks.append(tag("text", at, _cut(name, left), tag("title", {}, name)))
        if math.isfinite(row.low):
            marks.append(tag("line", {"class": f"bar {kind}", "x1": x(row.low), "x2": x(row.high), "y1": y, "y2": y}))
        marks.append(tag("circle", {"class": f"dot {kind}", "cx": x(row.value), "cy": y, "r": 5.5}))
        marks.append(tag("text", {"class": f"name {kind}", "x": width - right + 10, "y": y + 4.5}, f"{row.value:.1%}"))
    spoken = "; ".join(f"{name} {row.value:.1%}" for name, row in rows)
    return tag(
        "svg",
        {"class": "intervals", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": f"{what}: {spoken}"},
        *marks,
    )


def _cut(name: str, room: int) -> str:
    most = room // 8
    return name if len(name) <= most else f"{name[: most - 1]}…"


def number(value: Real, *, share: bool = False) -> str:
    """A number as short as it can be read."""
    if share:
        return f"{100 * value:.3g}%"
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _value_axis(line: Line) -> Axis:
    """Holds the line's values, and its reference where that is near; logarithmic where the values span decades."""
    low, high = min(line.values), max(line.values)
    middle = sorted(line.values)[len(line.values) // 2]
    log = low > 0 and not line.share and high > 30 * middle and middle < 3 * low * 30
    if line.reference is not None and not log:
        level = line.reference[1]
        if line.share or low - (high - low) <= level <= high + (high - low):
            low, high = min(low, level), max(high, level)
    pad = 0.0 if log else 0.06 * (high - low)
    bottom = max(0.0, low - pad) if low >= 0 else low - pad
    return Axis(bottom if not log else low, high + pad, HEIGHT - BOTTOM, TOP, log=log)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Centred means over a fortieth of the line; empty for short lines, which need none."""
    half = len(values) // 80
    if half < 1:
        return []
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(total[high] - total[low]) / (high - low) for low, high in ends]


def _gridline(y: Axis, tick: float, text: str) -> Html:
    label = tag("text", {"class": "tick", "x": LEFT - 6, "y": y(tick) + 3.5, "text-anchor": "end"}, text)
    return join((_rule("grid", y(tick)), label))


def _step_label(x: Axis, tick: float) -> Html:
    text = f"{tick / 1000:g}k" if tick >= 10_000 else f"{tick:g}"
    return tag("text", {"class": "tick", "x": x(tick), "y": HEIGHT - 6, "text-anchor": "middle"}, text)


def _rule(kind: str, y: float, *children: str) -> Html:
    """A horizontal line from edge to edge."""
    return tag("line", {"class": kind, "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}, *children)


def _path(kind: str, points: Sequence[tuple[float, float]]) -> Html:
    drawn = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("path", {"class": kind, "d": f"M{drawn}"})
