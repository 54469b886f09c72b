"""`birdjepa report RUN` and `birdjepa report results.sqlite [--out FOLDER]`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.benchmark.suites import metric_title
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, UsageError
from birdjepa.recipes import benchmark_report, report
from birdjepa.report.contents import ReportConfig
from birdjepa.report.leaderboard import Leaderboard
from birdjepa.report.leaderboard_tables import KINDS, task_title

DESCRIPTION = (
    "Shows a run as one self-contained HTML file; or the results of benchmarks (a .sqlite file, or a folder with one) "
    "as leaderboards beside published numbers: report.html, leaderboard.csv and results.csv."
)

MOST_ROWS = 8
"""Rows of a leaderboard that the console shows."""
MOST_LETTERS = 8
"""Of a task's name there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArguments:
    run: tyro.conf.Positional[Path]
    """Run folder, such as runs/first; or results of benchmarks, such as results.sqlite."""
    out: Path | None = None
    """Folder for what is written of benchmarks; by default RESULTS.report beside the results."""
    resamples: int = 1000
    """Of the recordings of a benchmark's test set, to mark what cannot be told from the best; 0 marks nothing and is
    faster."""
    report: tyro.conf.OmitArgPrefixes[ReportConfig] = dataclasses.field(default_factory=ReportConfig)


def run(argv: Sequence[str]) -> int:
    arguments = parse(ReportArguments, argv, prog="birdjepa report", description=DESCRIPTION)
    if arguments.resamples < 0:
        raise UsageError(f"--resamples must be 0 or a number of resamples, got {arguments.resamples}")
    results = benchmark_report.results_of(arguments.run)
    if results is None:
        if arguments.out is not None or arguments.resamples != ReportArguments.resamples:
            raise UsageError("--out and --resamples are for results of benchmarks (a .sqlite file), not for a run")
        print(report.report(arguments.run, arguments.report, tell))
        return EXIT_DONE
    if arguments.report != ReportConfig():
        raise UsageError(
            f"{results}: --n-clips, --n-points and the like are for runs, and benchmarks have no use for them"
        )
    reported = benchmark_report.benchmark_report(results, arguments.out, n_resamples=arguments.resamples, say=tell)
    for board in reported.boards:
        if board.is_headline:
            show(board)
    if not reported.n_results:
        tell(f"{results}: there are no results yet")
    tell(f"{reported.n_results} results; beside the page lie leaderboard.csv and results.csv")
    print(reported.page)
    return EXIT_DONE


def show(board: Leaderboard) -> None:
    """The best rows of a leaderboard for people, in percent."""
    metric = metric_title(board.metric) if board.metric else "each task's own metric"
    console = Console()
    console.print(f"{board.board.title}: {metric} in percent, {KINDS[board.kind]}", markup=False, highlight=False)
    names = [task_title(column, board.board)[:MOST_LETTERS] for column in board.columns]
    left = max(20, console.width - sum(1 + max(5, len(name)) for name in names))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True, max_width=left)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, min_width=max(5, len(name)))
    for row in board.rows[:MOST_ROWS]:
        cells = (row.column(column) for column in board.columns)
        table.add_row(board.label(row), *("-" if cell is None else f"{100 * cell.value:.1f}" for cell in cells))
    console.print(table, markup=False)
    more = len(board.rows) - MOST_ROWS
    console.print(f"... and {more} more rows\n" if more > 0 else "", markup=False, highlight=False)
