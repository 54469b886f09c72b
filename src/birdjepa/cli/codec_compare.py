"""`birdjepa codec compare EVAL.json... [--out codecs.html]`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import files
from birdjepa.core.errors import EXIT_DONE
from birdjepa.recipes.codec_compare import Evaluations, read_evaluations
from birdjepa.report.codec_comparison import cautions_of, cells_of, codec_page, header_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecCompareArguments:
    evaluations: tyro.conf.Positional[tuple[Path, ...]]
    """Files that birdjepa codec eval CODEC DATA --out FILE has written, all of the same data and settings."""
    out: Path = Path("codecs.html")
    """The page: the table, and mel distance against bit/s."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: Sequence[str]) -> int:
    told = "Puts codecs beside each other by rate: what each costs, and how near its sound is to the original."
    arguments = parse(CodecCompareArguments, argv, prog="birdjepa codec compare", description=told)
    found = read_evaluations(arguments.evaluations)
    files.write_text(arguments.out, codec_page(found.rows, found.described))
    if arguments.json:
        print(jsonlib.dumps({**found.described, "codecs": [row.to_json() for row in found.rows]}))
    else:
        show(found)
    tell(f"written: {arguments.out}")
    return EXIT_DONE


def show(found: Evaluations) -> None:
    """A column for each codec: a terminal is too narrow for a row."""
    described, rows = found.described, found.rows
    title = f"{described['data']}: {described['n_recordings']} recordings, {described['seconds']:.0f} s"
    table = Table("", *(row.name for row in rows), title=title)
    lines = zip(header_of(rows), *(cells_of(row, rows) for row in rows), strict=True)
    for name, *cells in list(lines)[1:]:
        table.add_row(name, *cells)
    Console().print(table)
    for line in cautions_of(rows):
        tell(f"beware: {line}")
