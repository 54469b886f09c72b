"""What a page of benchmark results shows, as plain data: leaderboards, and the classes of each task's best result."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from birdjepa.benchmark.result import Result
from birdjepa.core.errors import UserError
from birdjepa.core.telling import tell
from birdjepa.report.contents import Absent
from birdjepa.report.examined import Examined, examine
from birdjepa.report.leaderboard import Leaderboard, leaderboards
from birdjepa.report.ties import ReadScores, with_ties


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BenchmarkContents:
    """All of a page. `benchmark_page` is a pure function of it."""

    name: str
    results: tuple[Result, ...]
    boards: tuple[Leaderboard, ...]
    examined: Mapping[str, Examined | Absent]
    """By task: the best result whose scores are at hand."""


def gather_benchmark(
    name: str,
    results: Sequence[Result],
    read_scores: ReadScores,
    *,
    n_resamples: int = 0,
    say: Callable[[str], None] = tell,
) -> BenchmarkContents:
    """Reads the scores of few results at a time; what is not there says so on the page. n_resamples are drawn to mark
    what cannot be told from the best (0: nothing is marked).
    """
    boards = leaderboards(results)
    if n_resamples:
        boards = [
            with_ties(each, read_scores, n_resamples=n_resamples, say=say) if each.is_headline else each
            for each in boards
        ]
    tasks = {task: board for board in reversed(boards) if board.is_headline for task in board.tasks}
    examined = {task: _best_examined(board, task, read_scores) for task, board in tasks.items()}
    return BenchmarkContents(name=name, results=tuple(results), boards=tuple(boards), examined=examined)


def _best_examined(board: Leaderboard, task: str, read_scores: ReadScores) -> Examined | Absent:
    sign = 1 if board.less_is_better(task) else -1
    scored = [(sign * cell.value, i) for i, row in enumerate(board.rows) if (cell := row.column(task))]
    reason = f"{task}: no number is defined"
    for _, i in sorted(scored):
        row = board.rows[i]
        for result in row.cells[task].results:
            if result.scores is None:
                reason = f"{task}: no scores were kept beside the results"
                continue
            try:
                found = examine(result, board.label(row), read_scores(result))
            except UserError as error:
                reason = str(error)
                continue
            if isinstance(found, Examined):
                return found
            reason = found.reason
    return Absent(reason)
