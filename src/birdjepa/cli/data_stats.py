"""`birdjepa data stats DATA --out stats.html`: what a data set is made of, as a page and in key numbers."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import files
from birdjepa.core.errors import EXIT_DONE, UsageError
from birdjepa.core.telling import tenths
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.data.stats import DataStats, StatsConfig, quantiles, stats
from birdjepa.report.dataset import dataset_page, hours_text, length_text, warnings

MANY = 5000
"""Recordings from which progress is told."""
MOST_SHOWN = 6
"""Entries of a line of counts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatsArguments:
    data: tyro.conf.Positional[str]
    """A folder, a manifest, shards, hub:OWNER/NAME, or synth."""
    out: Path = Path("stats.html")
    """The page."""
    config: tyro.conf.OmitArgPrefixes[StatsConfig] = StatsConfig()
    columns: ColumnConfig = ColumnConfig()
    json: bool = False
    """Print one JSON object instead of the key numbers."""


def run(argv: Sequence[str]) -> int:
    told = "Shows what a data set is made of as one HTML page: lengths, formats, levels, labels, splits, examples."
    arguments = parse(StatsArguments, argv, prog="birdjepa data stats", description=told)
    if arguments.out.is_dir():
        raise UsageError(f"{arguments.out} is a folder: name a file for the page, as in --out stats.html")
    found = stats(open_data(arguments.data, arguments.columns), arguments.config, progress)
    files.write_text(arguments.out, dataset_page(found), durable=False)
    if arguments.json:
        print(json.dumps(found.to_json()))
    else:
        show(found)
        print(arguments.out)
    return EXIT_DONE


def progress(what: str) -> Callable[[int, int], None]:
    """Tells tenths of what takes long."""
    told = tenths(tell, what)
    return lambda done, total: told(done, total) if total >= MANY else None


def show(found: DataStats) -> None:
    """The key numbers for people."""
    table = Table(show_header=False, title=f"{found.name}: {found.n_recordings:,} recordings")
    for name, value in rows(found):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for line in warnings(found):
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)


def rows(found: DataStats) -> list[tuple[str, str]]:
    """Name and finding, in reading order."""
    loudness = found.loudness
    told = [
        ("rows", f"{found.n_rows:,}"),
        ("sound", hours_text(3600 * found.hours)),
        ("lengths", _spread(quantiles(found.duration_s), length_text)),
        ("sampling rates", _counts(found.sampling_rates)),
        ("channels", _counts(found.channels)),
        ("formats", _counts(found.formats)),
        ("levels (RMS, dB)", _spread(quantiles(loudness.rms_db), lambda value: f"{value:.0f}")),
        ("silent, clipped", f"{loudness.n_silent}, {loudness.n_clipped} of {loudness.n} stretches"),
    ]
    if found.labels:
        told += [
            ("classes", f"{len(found.labels):,}, {len(found.rare):,} with fewer than {found.config.few} rows"),
            ("commonest", _counts(found.labels)),
            ("without a label", f"{found.n_unlabelled:,}"),
        ]
    for part in found.parts:
        leaks = f"; {part.n_crossing:,} groups in several" if part.n_crossing else "; no group in two"
        told.append((f"{part.column}s", _counts({name or "(none)": n for name, n in part.rows.items()}) + leaks))
    return told


def _spread(values: dict[str, float], text: Callable[[float], str]) -> str:
    if not values:
        return "unknown"
    return f"{text(values['0.0'])} to {text(values['1.0'])}, median {text(values['0.5'])}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({n:,})" for name, n in list(counts.items())[:MOST_SHOWN]]
    return ", ".join(shown) + (f", and {len(counts) - MOST_SHOWN:,} more" if len(counts) > MOST_SHOWN else "")
