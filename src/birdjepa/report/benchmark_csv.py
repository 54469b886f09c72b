"""Results and leaderboards as tables for other programs: a row for each number."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from birdjepa.benchmark.published import published
from birdjepa.benchmark.result import Result
from birdjepa.report.leaderboard import Cell, Leaderboard, Missing, layer_of

RESULT_HEADER = (
    "suite", "task", "model", "classifier", "n_train", "seed", "layer", "metric", "is_headline", "value", "low", "high",
    "counts", "notes", "seconds", "key", "experiment",
)  # fmt: skip
BOARD_HEADER = (
    "board", "source", "trust", "kind", "metric", "model", "classifier", "layer", "n_train", "pooling", "settings",
    "column", "is_mean", "value", "low", "high", "sd", "n_seeds", "is_best", "is_tied", "missing", "note",
)  # fmt: skip


def result_rows(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """A row for each metric of each result; numbers as they were stored, blank where they are not defined."""
    for result in results:
        for name, each in result.metrics.items():
            yield {
                "suite": result.suite,
                "task": result.task,
                "model": result.model,
                "classifier": result.classifier,
                "n_train": _count(result.n_train),
                "seed": result.seed,
                "layer": layer_of(result),
                "metric": name,
                "is_headline": int(name == result.metric),
                "value": _number(each.value),
                "low": _number(each.low),
                "high": _number(each.high),
                "counts": json.dumps(result.counts),
                "notes": " | ".join(result.notes),
                "seconds": f"{result.seconds:.3f}",
                "key": result.key,
                "experiment": json.dumps(result.experiment, sort_keys=True),
            }


def board_rows(boards: Sequence[Leaderboard]) -> Iterator[dict[str, Any]]:
    """A row for each cell of each leaderboard, then what others published for the boards that there are; shares."""
    blank = dict.fromkeys(BOARD_HEADER, "")
    for board in boards:
        if board.metric is None:
            continue  # the same numbers stand under their metrics' names
        for i, row in enumerate(board.rows):
            for column in board.columns:
                cell = row.cells.get(column) or row.means.get(column)
                if cell is None:
                    continue
                yield {
                    **blank,
                    "board": board.board.name,
                    "source": "ours",
                    "kind": board.kind,
                    "metric": board.metric,
                    "model": row.model,
                    "classifier": row.classifier,
                    "layer": "" if row.layer is None else row.layer,
                    "n_train": _count(row.n_train),
                    "pooling": row.pooling,
                    "settings": "; ".join(f"{name}={value}" for name, value in row.settings),
                    "column": column,
                    "is_mean": int(column not in board.tasks),
                    **_values(cell),
                    "is_best": int(board.best(column) == i),
                    "is_tied": int(i in board.tied.get(column, ())),
                }
    names = {board.board.name for board in boards}
    for each in published():
        if each.board in names:
            yield {
                **blank,
                "board": each.board,
                "source": each.source,
                "trust": each.trust,
                "kind": each.kind,
                "metric": each.metric,
                "model": each.model,
                "classifier": each.head,
                "column": each.task,
                "is_mean": int(each.task.startswith(("mean", "average"))),
                "value": _number(each.value),
                "note": "; ".join(filter(None, (each.note, each.regime, _range(each.upper)))),
            }


def _values(cell: Cell | Missing) -> dict[str, Any]:
    if isinstance(cell, Missing):
        return {"missing": " ".join(cell.tasks)}
    numbers = {"value": cell.value, "low": cell.low, "high": cell.high, "sd": cell.sd}
    return {**{name: _number(value) for name, value in numbers.items()}, "n_seeds": cell.n_seeds}


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _count(n_train: int | None) -> str:
    return "all" if n_train is None else str(n_train)


def _range(upper: float | None) -> str:
    return "" if upper is None else f"up to {upper:.6g}"
