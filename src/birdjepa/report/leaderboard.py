"""Results as leaderboards: which of them make a row, what a cell says of several seeds, which means may be taken.

A row is a model and how it was used: classifier, layer, training examples. Results that differ in anything else that
decides numbers (weights, hyper-parameters, version of the metrics) never share a row, and what they differ in is named
in the row. Results of one task on other data than most have rows of their own too. So a mean is over one model under
one recipe, and exists only where every task of it does.
"""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from birdjepa.benchmark.published import Kind
from birdjepa.benchmark.result import Result
from birdjepa.benchmark.suites import BOARDS, Board, Mean, board_of, is_error

KINDS: Mapping[str, Kind] = {"FinetunedConfig": "trained", "RestrictedConfig": "own head"}
"""By the kind of the classifier's configuration, for its name is the user's; all others are probes."""
OF_THE_TASK = ("task", "suite", "metric", "task_type", "protocol", "data")
"""Parts of an experiment that may differ between the tasks of one row."""


class Cell(NamedTuple):
    """One number of a row: of one result, or of the same experiment with several seeds."""

    results: tuple[Result, ...]
    """Ordered by seed; empty for a mean over tasks."""
    value: float
    """Mean over seeds; NaN where no seed has a number."""
    low: float
    """Interval over test recordings, averaged over seeds; of a mean over tasks, combined as of independent ones."""
    high: float
    sd: float
    """Standard deviation over seeds; NaN for fewer than two."""
    values: tuple[float, ...]
    """Of each seed that has a number."""

    @property
    def n_seeds(self) -> int:
        return len(self.values)


class Missing(NamedTuple):
    """A mean that cannot be taken, and the tasks it lacks."""

    tasks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """A model and how it was used."""

    model: str
    classifier: str
    layer: int | None
    n_train: int | None
    pooling: str
    """Empty where the experiments say nothing of it."""
    settings: tuple[tuple[str, str], ...]
    """What tells it from rows that are alike otherwise."""
    cells: Mapping[str, Cell]
    """By task."""
    means: Mapping[str, Cell | Missing]
    """By the name of the mean."""

    @property
    def told(self) -> tuple[str, ...]:
        """The settings as short texts."""
        return tuple(f"{name.rpartition('.')[2]}={_short(value)}" for name, value in self.settings)

    @property
    def line(self) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
        """What stays the same along a curve over layers or training examples."""
        return self.model, self.classifier, self.pooling, self.settings

    def column(self, name: str) -> Cell | None:
        """A task's cell, or a mean's; None where there is no number."""
        found = self.cells.get(name) or self.means.get(name)
        return found if isinstance(found, Cell) and math.isfinite(found.value) else None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Leaderboard:
    """One metric of a board, for one way of using models."""

    board: Board
    metric: str | None
    """None: each task's headline, where tasks have several."""
    kind: Kind
    is_headline: bool
    """Whether this is the metric that counts, or one beside it."""
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    """Best first."""
    tied: Mapping[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    """By column, the rows that cannot be told from the best one."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The headline means, tasks, other means."""
        headline = [mean.name for mean in self.board.means if mean.is_headline]
        return (*headline, *self.tasks, *(mean.name for mean in self.board.means if not mean.is_headline))

    def label(self, row: Row, *, without: str = "") -> str:
        """A row in few words: its model and classifier, and what else differs between the rows of this table."""
        parts = [self._short_model(row.model), row.classifier]
        if without != "layer" and row.layer is not None and len({each.layer for each in self.rows}) > 1:
            parts.append(f"layer {row.layer}")
        if without != "n_train" and len({each.n_train for each in self.rows}) > 1:
            parts.append(self.shots(row))
        if len({each.pooling for each in self.rows}) > 1:
            parts.append(row.pooling)
        return " · ".join((*(part for part in parts if part), *row.told))

    def _short_model(self, model: str) -> str:
        """An encoder folder's run, where no other model of the table is called that."""
        names = [_run_of(each) for each in {row.model for row in self.rows}]
        return short if names.count(short := _run_of(model)) == 1 else model

    def shots(self, row: Row) -> str:
        """How much a row learnt from, in words."""
        if row.n_train is None:
            return "all"
        return f"k={row.n_train}" if self.board.shots == "k" else f"{row.n_train} {self.board.shots}"

    def less_is_better(self, task: str) -> bool:
        return any(
            is_error(self.metric or cell.results[0].metric) for row in self.rows if (cell := row.cells.get(task))
        )

    def best(self, column: str) -> int | None:
        """The row with the best number in a column; None where fewer than two have one."""
        values = [(cell.value, i) for i, row in enumerate(self.rows) if (cell := row.column(column))]
        if len(values) < 2:
            return None
        lowest = self.less_is_better(column if column in self.tasks else self.tasks[0])
        return min(values, key=lambda each: each[0] if lowest else -each[0])[1]


def leaderboards(results: Iterable[Result]) -> list[Leaderboard]:
    """All of them: by board, the headline metric first, frozen backbones before fine-tuned ones and own heads."""
    by_board: dict[Board, list[Result]] = defaultdict(list)
    for result in results:
        by_board[board_of(result.suite, result.task)].append(result)
    known = {board.name: i for i, board in enumerate(BOARDS)}
    boards = sorted(by_board, key=lambda board: (known.get(board.name, len(known)), board.name))
    return [each for board in boards for each in _of_board(board, by_board[board])]


def kind_of(result: Result) -> Kind:
    """What a result's numbers may be compared with."""
    config = result.experiment.get("classifier_config")
    return KINDS.get(config.get("kind", ""), "probe") if isinstance(config, Mapping) else "probe"


def layer_of(result: Result) -> int | None:
    """The layer that was heard, also where it was the model's own choice."""
    known = result.experiment.get("layer")
    return known if result.layer is None and isinstance(known, int) else result.layer


def settings_of(result: Result) -> dict[str, str]:
    """An experiment as a flat list of settings: dotted names, values as text."""

    def walk(value: Any, name: str) -> Iterable[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else str(key))
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, sort_keys=True)

    return dict(walk(result.experiment, ""))


def _of_board(board: Board, results: Sequence[Result]) -> list[Leaderboard]:
    groups: dict[Kind, list[Result]] = {"probe": [], "trained": [], "own head": []}
    for result in results:
        groups[kind_of(result)].append(result)
    headlines = dict.fromkeys(result.metric for result in results)
    others = dict.fromkeys(name for result in results for name in result.metrics if name not in headlines)
    metrics = [*([None] if len(headlines) > 1 else []), *headlines, *others]
    found = []
    for metric in metrics:
        for kind, group in groups.items():
            having = [result for result in group if metric is None or metric in result.metrics]
            if having:
                found.append(_leaderboard(board, metric, kind, having, is_headline=metric == metrics[0]))
    return found


def _leaderboard(
    board: Board, metric: str | None, kind: Kind, results: Sequence[Result], *, is_headline: bool
) -> Leaderboard:
    there = {result.task for result in results}
    tasks = tuple(task for task in board.tasks or sorted(there) if task in there)
    rows = [_row(board, metric, label, group) for label, group in _rows(results).items()]
    made = Leaderboard(board=board, metric=metric, kind=kind, is_headline=is_headline, tasks=tasks, rows=tuple(rows))
    sign = {task: 1 if made.less_is_better(task) else -1 for task in tasks}

    def rank(row: Row) -> tuple[Any, ...]:
        """By the headline mean; rows without one follow, those with more tasks first."""
        headline = next((row.column(mean.name) for mean in board.means if mean.is_headline), None)
        if headline is not None:
            return (0, sign[tasks[0]] * headline.value)
        values = [sign[task] * cell.value for task in tasks if (cell := row.column(task))]
        return (1, -len(values), float(np.mean(values)) if values else 0.0)

    return dataclasses.replace(made, rows=tuple(sorted(rows, key=rank)))


class _Label(NamedTuple):
    """Of a row."""

    model: str
    classifier: str
    layer: int | None
    n_train: int | None
    settings: tuple[tuple[str, str], ...] = ()


def _rows(results: Sequence[Result]) -> dict[_Label, list[Result]]:
    """Results by row, each with the settings that tell it from others."""
    settings = [settings_of(result) for result in results]
    odd = _odd_data(results, settings)
    alike: dict[_Label, list[int]] = defaultdict(list)
    for i, result in enumerate(results):
        alike[_Label(result.model, result.classifier, layer_of(result), result.n_train)].append(i)
    rows: dict[_Label, list[Result]] = defaultdict(list)
    for label, members in alike.items():
        names = dict.fromkeys(name for i in members for name in settings[i] if not _is_of_the_task(name))
        told = [
            name for name in names
            if name != "seed" and len({settings[i].get(name) for i in members}) > 1
        ]  # fmt: skip
        for i in members:
            own = tuple((name, settings[i].get(name, "not set")) for name in told) + odd[i]
            rows[label._replace(settings=own)].append(results[i])
    return rows


def _odd_data(results: Sequence[Result], settings: Sequence[dict[str, str]]) -> list[tuple[tuple[str, str], ...]]:
    """For each result the settings of its task in which it differs from most results of that task."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for result, flat in zip(results, settings, strict=True):
        for name, value in flat.items():
            if _is_of_the_task(name):
                counts[result.task, name][value] += 1
    return [
        tuple(
            (name, value) for name, value in flat.items()
            if _is_of_the_task(name) and value != counts[result.task, name].most_common(1)[0][0]
        )
        for result, flat in zip(results, settings, strict=True)
    ]  # fmt: skip


def _is_of_the_task(name: str) -> bool:
    """Whether a setting is free to differ between the tasks of one row: what they are, and their data."""
    return name.partition(".")[0] in OF_THE_TASK


def _row(board: Board, metric: str | None, label: _Label, results: Sequence[Result]) -> Row:
    by_task: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_task[result.task].append(result)
    cells = {task: _cell(group, metric) for task, group in by_task.items()}
    return Row(
        **label._asdict(),
        pooling=_named(settings_of(results[0]), "pooling"),
        cells=cells,
        means={mean.name: _mean(mean, cells) for mean in board.means},
    )


def _cell(results: Sequence[Result], metric: str | None) -> Cell:
    ordered = tuple(sorted(results, key=lambda result: result.seed))
    found = [result.metrics[metric or result.metric] for result in ordered]
    known = [each for each in found if math.isfinite(each.value)]
    values = [each.value for each in known]
    bounded = [each for each in known if math.isfinite(each.low) and math.isfinite(each.high)]
    return Cell(
        ordered,
        float(np.mean(values)) if values else math.nan,
        float(np.mean([each.low for each in bounded])) if bounded else math.nan,
        float(np.mean([each.high for each in bounded])) if bounded else math.nan,
        float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        tuple(values),
    )


def _mean(mean: Mean, cells: Mapping[str, Cell]) -> Cell | Missing:
    """Unweighted, of all its tasks; its seeds vary only where every task has the same ones."""
    lacking = tuple(task for task in mean.tasks if task not in cells or not math.isfinite(cells[task].value))
    if lacking:
        return Missing(lacking)
    parts = [cells[task] for task in mean.tasks]
    value = float(np.mean([part.value for part in parts]))
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    seeds = {tuple(result.seed for result in part.results) for part in parts}
    complete = len(seeds) == 1 and all(part.n_seeds == len(part.results) for part in parts)
    values = np.mean([part.values for part in parts], axis=0) if complete else np.array([value])
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Cell((), value, value - below, value + above, sd, tuple(values.tolist()))


def _named(settings: Mapping[str, str], what: str) -> str:
    """The first setting of a name, at whatever depth."""
    return next((value for name, value in settings.items() if name.rpartition(".")[2] == what), "")


def _run_of(model: str) -> str:
    return model.rstrip("/").removesuffix("/encoder").rpartition("/")[2] or model


def _short(value: str) -> str:
    """Enough of a value to tell it from others; hashes are long."""
    return value if len(value) <= 20 else f"{value[:8]}…"
