"""`birdjepa compare OBJECTIVE... --data DATA --steps N --probe-data DATA --folds COLUMN --out FOLDER`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE
from birdjepa.recipes.compare import CompareConfig, Comparison, compare
from birdjepa.report.comparison import HEADER, cells_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArguments:
    compare: tyro.conf.OmitArgPrefixes[CompareConfig]
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: Sequence[str]) -> int:
    told = "Trains several objectives on equal terms, probes all, and writes a table with intervals over seeds."
    arguments = parse(CompareArguments, argv, prog="birdjepa compare", description=told)
    compared = compare(arguments.compare, tell)
    if arguments.json:
        print(jsonlib.dumps(compared.to_json()))
    else:
        show(compared)
    tell(f"written: {arguments.compare.out / 'compare.html'} and compare.json")
    return EXIT_DONE


def show(compared: Comparison) -> None:
    """The table for people."""
    described = compared.described
    title = f"{described['probe_data']}: {described['n_examples']} examples; {described['budget']} each"
    table = Table(*HEADER, title=title)
    for row in compared.rows:
        table.add_row(*cells_of(row))
    console = Console()
    console.print(table)
    for line in compared.differences:
        console.print(f"not shared: {line}", markup=False, highlight=False)
