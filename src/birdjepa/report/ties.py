"""Which rows of a leaderboard cannot be told from the best one, by the scores that were stored.

Rows are compared on the same resamples of the same recordings, and corrected by Holm's method. Only the few rows are
looked at whose interval reaches that of the best: the others differ from it anyway, so they would be rejected first and
change nothing for the rest. A row of several seeds is the mean of their metrics, as the table shows it; a mean over
tasks is compared where all its tasks can be.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from birdjepa.benchmark import comparing
from birdjepa.benchmark.bootstrap import Resampled
from birdjepa.benchmark.comparing import Predictions
from birdjepa.benchmark.result import Result
from birdjepa.core.errors import UserError
from birdjepa.report.leaderboard import Cell, Leaderboard

ReadScores = Callable[[Result], Mapping[str, np.ndarray]]
ALPHA = 0.05
MOST = 6
"""Rows of a column that are compared with each other: the best ones."""


def with_ties(board: Leaderboard, read: ReadScores, *, n_resamples: int, say: Callable[[str], None]) -> Leaderboard:
    """The leaderboard with its ties. Columns whose scores are not there, or do not fit together, have none."""
    means = {mean.name: mean.tasks for mean in board.board.means}
    rivals = {column: _rivals(board, column, means.get(column, (column,))) for column in board.columns}
    wanted = {
        task: sorted({i for column, rows in rivals.items() if task in means.get(column, (column,)) for i in rows})
        for task in board.tasks
    }
    drawn: dict[str, dict[int, Resampled]] = {}
    for number, (task, rows) in enumerate(wanted.items()):
        results = {i: board.rows[i].cells[task].results for i in rows}
        if len(results) > 1:
            say(f"comparing {len(results)} rows of {task}")
            try:
                drawn[task] = _resampled(board, results, read, seed=number, n_resamples=n_resamples)
            except UserError as error:
                say(f"{task}: no ties are marked: {error}")
    tied = {}
    for column, rows in rivals.items():
        tasks = means.get(column, (column,))
        found = {i: parts for i in rows if (parts := [drawn[task][i] for task in tasks if i in drawn.get(task, ())])}
        whole = {i: comparing.mean_over_tasks(parts) for i, parts in found.items() if len(parts) == len(tasks)}
        best = board.best(column)
        if best in whole and len(whole) > 1:
            tied[column] = _level(whole, best)
    return dataclasses.replace(board, tied=tied)


def _rivals(board: Leaderboard, column: str, tasks: Sequence[str]) -> list[int]:
    """The best row and those whose intervals reach its own, of which scores were kept; none where the best has none."""
    best = board.best(column)
    cell = None if best is None else board.rows[best].column(column)
    if cell is None or not math.isfinite(cell.low):
        return []
    found = [(i, each) for i, row in enumerate(board.rows) if (each := row.column(column)) and _meet(each, cell)]
    nearest = [i for i, _ in sorted(found, key=lambda pair: abs(pair[1].value - cell.value))]
    kept = [i for i in nearest if all(_is_comparable(x) for task in tasks for x in board.rows[i].cells[task].results)]
    return kept[:MOST] if best in kept and len(kept) > 1 else []


def _meet(one: Cell, other: Cell) -> bool:
    return one.low <= other.high and other.low <= one.high


def _is_comparable(result: Result) -> bool:
    """Whether scores were kept, and the metric is one of an example's classes."""
    return result.scores is not None and result.experiment.get("protocol", "classify") == "classify"


def _resampled(
    board: Leaderboard, results: Mapping[int, Sequence[Result]], read: ReadScores, *, seed: int, n_resamples: int
) -> dict[int, Resampled]:
    """The metric of each row in every resample.

    One result is in memory at a time, for those of a large test set do not fit together. The draws depend on the seed
    and the recordings only, so they are the same for all.

    Raises:
      UserError: if results were not tested on the same examples.
    """
    found: dict[int, Resampled] = {}
    tested: set[tuple[str, ...]] = set()
    for i, group in results.items():
        parts = []
        for result in group:
            predictions = _predictions(result, read)
            tested.add((str(result.experiment.get("data")), *sorted(predictions.ids)))
            if len(tested) > 1:
                raise UserError(f"{board.label(board.rows[i])} was not tested on the same examples as others")
            resampled = comparing.resample_models({"": predictions}, seed=seed, n_resamples=n_resamples)[""]
            if (part := resampled.get(board.metric or result.metric)) is not None:
                parts.append(part)
        if len(parts) == len(group):
            found[i] = comparing.mean_over_tasks(parts)
    return found


def _predictions(result: Result, read: ReadScores) -> Predictions:
    arrays = read(result)
    try:
        return Predictions(
            kind=result.experiment["task_type"],
            scores=arrays["scores"],
            truth=arrays["truth"],
            ids=tuple(map(str, arrays["ids"])),
            groups=tuple(map(str, arrays["groups"])),
            classes=tuple(map(str, arrays["classes"])),
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{result.model}: its scores cannot be compared ({error})") from None


def _level(models: Mapping[int, Resampled], best: int) -> frozenset[int]:
    """All but the best that were not shown to be unlike it."""
    others = [i for i in models if i != best]
    p = comparing.holm([comparing.p_value(models[i] - models[best]) for i in others])
    return frozenset(i for i, corrected in zip(others, p, strict=True) if corrected > ALPHA)
