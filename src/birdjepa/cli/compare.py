"""`birdjepa compare OBJECTIVE... --data DATA --steps N --probe-data DATA --folds COLUMN --out FOLDER`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import files
from birdjepa.core.errors import EXIT_DONE
from birdjepa.recipes.compare import CompareConfig, Comparison, compare
from birdjepa.report.comparison import HEADER, Compared, cells_of, comparison_page


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArguments:
    compare: tyro.conf.OmitArgPrefixes[CompareConfig]
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: Sequence[str]) -> int:
    told = "Trains several objectives on equal terms, probes all, and writes a table with intervals over seeds."
    arguments = parse(CompareArguments, argv, prog="birdjepa compare", description=told)
    config = arguments.compare
    compared = compare(config, tell)
    page = comparison_page(compared_rows(compared), compared.differences, compared.described, compared.curves)
    files.write_text(config.out / "compare.html", page, durable=False)
    if arguments.json:
        print(jsonlib.dumps(compared.to_json(), allow_nan=True))
    else:
        show(compared)
    tell(f"written: {config.out / 'compare.html'} and compare.json")
    return EXIT_DONE


def compared_rows(compared: Comparison) -> list[Compared]:
    """Rows for tables and the page."""
    return [
        Compared(row.name, row.accuracy, row.ahead, row.seeds, row.steps, row.step_s, row.memory_mib)
        for row in compared.rows
    ]


def show(compared: Comparison) -> None:
    """The table for people."""
    described = compared.described
    title = f"{described['probe_data']}: {described['n_examples']} examples; {described['budget']} each"
    table = Table(*HEADER, title=title)
    for row in compared_rows(compared):
        table.add_row(*cells_of(row))
    console = Console()
    console.print(table)
    for line in compared.differences:
        console.print(f"not shared: {line}", markup=False, highlight=False)
