"""`birdjepa data synth FOLDER`, `data images FOLDER`, `data scan DATA`; `data stats` and `data bench` have modules."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.audio.images import ImagesConfig, write_images
from birdjepa.audio.synth import SynthConfig, write_dataset
from birdjepa.cli import data_bench, data_stats, tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.core.telling import tenths
from birdjepa.data.scan import ScanReport, scan
from birdjepa.data.sources import open_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthArguments:
    folder: tyro.conf.Positional[Path]
    """Where the data set is written; must not exist yet, or be empty."""
    synth: SynthConfig = SynthConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesArguments:
    folder: tyro.conf.Positional[Path]
    """Where the data set is written; must not exist yet, or be empty."""
    images: ImagesConfig = ImagesConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanArguments:
    data: tyro.conf.Positional[str]
    """A folder, a manifest, or synth."""
    out: Path | None = None
    """Folder for files.csv and failures.csv; without it they are written here, and only if a file was refused."""
    workers: int = 2
    """Processes that decode; a file that crashes or hangs one costs one row."""
    timeout_s: float = 300.0
    """Longest time for one file in seconds."""
    headers_only: bool = False
    """Read headers only: fast, but damage inside a file goes unseen."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: Sequence[str]) -> int:
    jobs = {
        "synth": run_synth,
        "images": run_images,
        "scan": run_scan,
        "stats": data_stats.run,
        "bench": data_bench.run,
    }
    if not argv or argv[0] not in jobs:
        raise UsageError("birdjepa data synth FOLDER, images FOLDER, scan DATA, stats DATA, or bench DATA")
    return jobs[argv[0]](argv[1:])


def run_synth(argv: Sequence[str]) -> int:
    told = "Writes labelled synthetic bird songs and soundscapes."
    arguments = parse(SynthArguments, argv, prog="birdjepa data synth", description=told)
    print(write_dataset(arguments.folder, arguments.synth, progress=tenths(tell, "recordings")))
    return EXIT_DONE


def run_images(argv: Sequence[str]) -> int:
    told = "Plays small labelled images as sound: their log-mel shows them, so what can be learnt is known."
    arguments = parse(ImagesArguments, argv, prog="birdjepa data images", description=told)
    print(write_images(arguments.folder, arguments.images, progress=tenths(tell, "images")))
    return EXIT_DONE


def run_scan(argv: Sequence[str]) -> int:
    told = "Decodes every file and tells what is there and what is damaged."
    arguments = parse(ScanArguments, argv, prog="birdjepa data scan", description=told)
    manifest = open_data(arguments.data).recordings()
    files = [(key, manifest.path(row)) for row, key in enumerate(manifest.keys)]
    found = scan(files, n_workers=arguments.workers, timeout_s=arguments.timeout_s, deep=not arguments.headers_only)
    if arguments.out is not None or found.refused:
        found.write(arguments.out or Path())
    if arguments.json:
        print(json.dumps(summary(found)))
    else:
        show(arguments.data, found)
    if found.refused:
        tell(f"{len(found.refused)} files were refused; see {(arguments.out or Path()) / 'failures.csv'}")
        return EXIT_PARTIAL
    return EXIT_DONE


def summary(found: ScanReport) -> dict[str, object]:
    """The scan as one JSON object."""
    return {
        "n_files": found.n_files,
        "n_good": len(found.good),
        "n_refused": len(found.refused),
        "hours": found.hours,
        "by_sampling_rate": found.by_sampling_rate(),
        "by_channels": found.by_channels(),
        "by_format": found.by_format(),
        "by_note": found.by_note(),
        "by_reason": found.by_reason(),
        "duration_quantiles_s": found.duration_quantiles_s(),
        "refused": [{"path": each.key, "stage": each.stage, "reason": each.reason} for each in found.refused],
    }


def show(name: str, found: ScanReport) -> None:
    """The scan as a table for people."""
    table = Table(title=f"{name}: {found.n_files} files, {found.hours:.2f} hours", show_header=False)
    quantiles = ", ".join(f"{share:.0%}: {seconds:.1f}" for share, seconds in found.duration_quantiles_s().items())
    for title, counts in (
        ("sampling rates (Hz)", found.by_sampling_rate()),
        ("channels", found.by_channels()),
        ("formats", found.by_format()),
        ("worth knowing", found.by_note()),
        ("refused", found.by_reason()),
    ):
        if counts:
            table.add_row(title, "\n".join(f"{value}: {count}" for value, count in counts.items()))
    table.add_row("duration quantiles (s)", quantiles)
    console = Console()
    console.print(table)
    for each in found.refused[:20]:
        console.print(f"refused {each.key}: {each.reason}", markup=False, highlight=False)
    if len(found.refused) > 20:
        console.print(f"and {len(found.refused) - 20} more in failures.csv")
