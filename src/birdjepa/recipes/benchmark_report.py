"""The report job of benchmark results: opens what `birdjepa benchmark` stored, and writes a page and two tables."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from birdjepa.benchmark.results import Store
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.core.telling import tell
from birdjepa.report.benchmark_contents import gather_benchmark
from birdjepa.report.benchmark_csv import BOARD_HEADER, RESULT_HEADER, board_rows, result_rows
from birdjepa.report.benchmark_page import benchmark_page
from birdjepa.report.leaderboard import Leaderboard

SUFFIX = ".sqlite"
SPOOL = ".spool"
"""What the name of a store ends with besides, where it is a folder of files."""


class Reported(NamedTuple):
    """What was written, and the leaderboards in it."""

    page: Path
    boards: tuple[Leaderboard, ...]
    n_results: int


def results_of(path: Path) -> Path | None:
    """The file of results that a path means: itself, or the one in a folder; None where it means none, but a run.

    Raises:
      UsageError: if a folder holds several.
    """
    if path.name.endswith(f"{SUFFIX}{SPOOL}"):
        return path.with_name(path.name.removesuffix(SPOOL))
    if path.suffix == SUFFIX:
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted({each.with_name(each.name.removesuffix(SPOOL)) for each in path.iterdir() if _is_store(each)})
    if len(found) > 1:
        raise UsageError(f"{path} holds several files of results; name one: {', '.join(each.name for each in found)}")
    return found[0] if found else None


def benchmark_report(
    results: Path, out: Path | None = None, *, n_resamples: int = 1000, say: Callable[[str], None] = tell
) -> Reported:
    """Writes report.html, results.csv and leaderboard.csv into `out`, by default a folder beside the results.

    n_resamples are drawn to mark rows that cannot be told from the best; 0 marks none.

    Raises:
      UsageError: if there are no results at the path, or the folder cannot be made.
    """
    folder = results.with_name(f"{results.name}.report") if out is None else out
    with Store.open(results, make=False) as store:
        contents = gather_benchmark(results.name, store.all(), store.read_scores, n_resamples=n_resamples, say=say)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error.strerror}): name another folder with --out") from None
    files.write_csv(folder / "results.csv", RESULT_HEADER, result_rows(contents.results), durable=False)
    files.write_csv(folder / "leaderboard.csv", BOARD_HEADER, board_rows(contents.boards), durable=False)
    files.write_text(folder / "report.html", benchmark_page(contents), durable=False)
    return Reported(folder / "report.html", contents.boards, len(contents.results))


def _is_store(path: Path) -> bool:
    return path.name.endswith((SUFFIX, f"{SUFFIX}{SPOOL}"))
