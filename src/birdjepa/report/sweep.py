"""A sweep as one HTML page: learning rate against probe and against final loss, and a row for each run."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.build import page
from birdjepa.report.charts import number
from birdjepa.report.html import Html, note, section, table, tag
from birdjepa.report.points import Across, Point, lines_legend, points_chart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swept:
    """One run of a sweep."""

    index: int
    values: Mapping[str, str]
    """What tells it from the others, by dotted name."""
    line: str
    """Name of its line in the plots: all that differs but learning rate and seed."""
    objective: str
    lr: float
    status: str
    """done, failed, unfinished or not started."""
    reason: str
    """Why it failed; else empty."""
    folder: str
    loss: float | None
    """Mean over the last logged steps; None for what is not finished."""
    accuracy: Estimate | None
    """Of the linear probe, with its interval over groups of recordings; None where there is none yet."""
    floor: Estimate | None
    """The same of random weights."""
    step_s: float | None
    """Median time of a step."""
    n_refused: int
    """Recordings that could not be read."""

    def to_json(self) -> dict[str, Any]:
        estimates = {"accuracy": self.accuracy, "floor": self.floor}
        shown = {name: each.to_json() if each else None for name, each in estimates.items()}
        return {**dataclasses.asdict(self), **shown}


def header_of(rows: Sequence[Swept]) -> tuple[str, ...]:
    """Columns of the table: what differs, then what came of it."""
    return ("run", *map(_short, _names(rows)), "final loss", "probe accuracy", "ms a step", "status")


def cells_of(row: Swept, rows: Sequence[Swept]) -> tuple[str, ...]:
    """A row as text, in the order of `header_of`."""
    return (
        str(row.index),
        *(row.values.get(name, "") for name in _names(rows)),
        "" if row.loss is None else number(row.loss),
        "" if row.accuracy is None else str(row.accuracy),
        "" if row.step_s is None else f"{1000 * row.step_s:,.0f}",
        f"{row.status}: {row.reason}" if row.reason else row.status,
    )


def sweep_page(rows: Sequence[Swept], described: Mapping[str, Any]) -> str:
    """The page. The same arguments give the same bytes."""
    n_names = len(_names(rows))
    lead = "The best rate lies inside the range, not at its edge: where it does not, widen the range."
    scores = table(header_of(rows), [cells_of(row, rows) for row in rows], numeric=(0, n_names + 1, n_names + 3))
    body = section("sweep", "Runs", lead, *_charts(rows, described), scores)
    origin = described["provenance"]
    told = f"{described['file']}; birdjepa {origin['birdjepa']} {origin['commit']}, {origin['cpu']}"
    title = tag("header", {}, tag("h1", {}, "Sweep"), tag("p", {"class": "note"}, told))
    return page("sweep · birdjepa", (title, tag("main", {}, body)))


def _charts(rows: Sequence[Swept], described: Mapping[str, Any]) -> list[Html]:
    """A plot of the probe, and one of the loss for each objective: losses of two say nothing beside each other."""
    lines = list(dict.fromkeys(row.line for row in rows))
    shown = []
    probed = _lines(rows, lines, lambda row: row.accuracy)
    if _is_worth_drawing(probed):
        floors = [row.floor.value for row in rows if row.floor]
        floor = ("random weights", sum(floors) / len(floors)) if floors else None
        shown.append(_figure("Probe accuracy", probed, lines, share=True, reference=floor))
        shown.append(
            note(
                f"Linear probe on {described['probe_data']}; bars are 95 % intervals over groups of recordings, the "
                "dashed line is an encoder of random weights. Lines go through the mean over seeds."
            )
        )
    for objective in dict.fromkeys(row.objective for row in rows):
        mine = [row for row in rows if row.objective == objective]
        losses = _lines(mine, lines, lambda row: None if row.loss is None else Estimate(row.loss, math.nan, math.nan))
        if _is_worth_drawing(losses):
            shown.append(_figure(f"Final loss, {objective}", losses, lines, share=False, reference=None))
    return shown


def _is_worth_drawing(lines: Mapping[str, Sequence[Point]]) -> bool:
    return len({point.x for points in lines.values() for point in points}) > 1


def _lines(
    rows: Sequence[Swept], names: Sequence[str], of: Callable[[Swept], Estimate | None]
) -> dict[str, list[Point]]:
    """Points by line, ascending in the learning rate; those without a finite value are left out."""
    found: dict[str, list[Point]] = {name: [] for name in names}
    for row in rows:
        estimate = of(row)
        if estimate is not None and math.isfinite(estimate.value):
            found[row.line].append(Point(row.lr, estimate.value, estimate.low, estimate.high))
    return {name: sorted(points) for name, points in found.items() if points}


def _figure(
    title: str,
    lines: Mapping[str, Sequence[Point]],
    names: Sequence[str],
    *,
    share: bool,
    reference: tuple[str, float] | None,
) -> Html:
    rates = {point.x: f"{point.x:.3g}" for points in lines.values() for point in points}
    across = Across("learning rate", rates, log=True)
    chart = points_chart(title, lines, names, across, share=share, reference=reference)
    head = tag("div", {"class": "chart-head"}, tag("b", {}, title))
    return tag("figure", {"class": "chart", "style": "max-width:54rem"}, head, chart, lines_legend(lines, names))


def _names(rows: Sequence[Swept]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.values))


def _short(name: str) -> str:
    """The last part of a dotted name, or what a kind is the kind of."""
    first, _, last = name.rpartition(".")
    return first.rpartition(".")[2] if last == "kind" else last
