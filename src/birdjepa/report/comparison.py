"""A comparison of objectives as one HTML page: scores with their intervals, leads over random weights, losses."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.build import page
from birdjepa.report.charts import Line, interval_chart, line_chart
from birdjepa.report.html import note, paragraph, section, table, tag


@dataclasses.dataclass(frozen=True)
class Compared:
    """One objective or floor: a line of the table."""

    name: str
    accuracy: Estimate
    """Mean over seeds, and its interval over them."""
    ahead: Estimate | None
    """The seeds' mean minus that of random weights, its interval over recordings; None for the floors."""
    seeds: tuple[float, ...]
    """Accuracy of each seed."""
    steps: int
    step_s: float
    """Median time of a step; NaN for the floors."""
    memory_mib: float
    """Largest peak of resident memory of a run; NaN for the floors."""

    def to_json(self) -> dict[str, Any]:
        """JSON object; NaN becomes null."""
        ahead = self.ahead.to_json() if self.ahead else None
        costs = {name: None if math.isnan(cost := getattr(self, name)) else cost for name in ("step_s", "memory_mib")}
        return {**dataclasses.asdict(self), **costs, "accuracy": self.accuracy.to_json(), "ahead": ahead}


HEADER = ("", "accuracy", "minus random weights", "each seed", "steps", "ms a step", "peak MiB")


def comparison_page(
    rows: Sequence[Compared],
    differences: Sequence[str],
    described: Mapping[str, Any],
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> str:
    """The page. The same arguments give the same bytes."""
    n_seeds = described["n_seeds"]
    cells = [cells_of(row) for row in rows]
    caption = (
        f"Linear probe on {described['n_examples']} examples of {described['n_groups']} groups. Accuracy: mean over "
        f"{n_seeds} seeds and its 95 % interval over them (Student's t). Minus random weights: interval over groups."
    )
    chart = interval_chart([(row.name, row.accuracy) for row in rows], chance=None)
    lead = "An objective is worth its time where its lead over random weights excludes 0."
    terms = paragraph(
        f"Every run: {described['budget']}, batches of {described['batch_size']} clips, the same recordings in "
        f"the same order ({', '.join(described['data'])}), the same encoder ({described['encoder']['size']}) and probe "
        f"({described['probe_data']}, folds: {described['folds'] or 'made here'}). Objectives that learn from labels "
        "never hear a recording of the probe."
    )
    told = [note(f"Not shared: {line}") for line in differences]
    scores = table(HEADER, cells, numeric=range(1, 7))
    body = section("compared", "Objectives compared", lead, chart, scores, note(caption), terms, *told)
    figures = [_figure(name, points) for name, points in curves.items() if len(points) > 1]
    losses = section(
        "losses",
        "Losses",
        "Each objective has a loss of its own: only the shape of a curve says something.",
        tag("div", {"class": "charts"}, *figures),
        note("The first seed of each objective."),
    )
    title = tag("header", {}, tag("h1", {}, "Objectives compared"), tag("p", {"class": "note"}, _origin(described)))
    return page("objectives compared · birdjepa", (title, tag("main", {}, body, losses)))


def cells_of(row: Compared) -> tuple[str, ...]:
    """A row as text, in the order of `HEADER`."""
    seeds = " ".join(f"{value:.3f}" for value in row.seeds)
    floor = math.isnan(row.step_s)
    costs = ("", "", "") if floor else (str(row.steps), f"{1000 * row.step_s:,.0f}", f"{row.memory_mib:,.0f}")
    return (row.name, str(row.accuracy), str(row.ahead) if row.ahead else "", seeds, *costs)


def _figure(name: str, points: Sequence[tuple[int, float]]):
    steps, values = zip(*points, strict=True)
    line = Line(name=name, title=name, hint="", steps=steps, values=values)
    head = tag("div", {"class": "chart-head"}, tag("b", {}, name))
    return tag("figure", {"class": "chart"}, head, line_chart(line, (steps[0], steps[-1]), ()))


def _origin(described: Mapping[str, Any]) -> str:
    origin = described["provenance"]
    code = f"birdjepa {origin['birdjepa']} {origin['commit']}".strip()
    return f"{code}, {origin['cpu']}, {origin['n_cores']} cores, torch {origin['packages']['torch']}"
