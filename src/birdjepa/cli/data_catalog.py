"""`birdjepa data list`, `birdjepa data describe NAME` and `birdjepa data prepare NAME FOLDER`: public data sets."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.data.catalog import CATALOG, Dataset, Prepared, prepare
from birdjepa.data.catalog.base import classes_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListArguments:
    """Nothing to choose."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescribeArguments:
    name: tyro.conf.Positional[str]
    """A data set of `birdjepa data list`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareArguments:
    name: tyro.conf.Positional[str]
    """A data set of `birdjepa data list`."""
    folder: tyro.conf.Positional[Path]
    """Where its download lies. Nothing in it is changed; BirdSet's shards are unpacked beside themselves."""
    out: Path
    """The manifest that is written, a .csv file; its paths lead from it to the folder."""
    splits: tuple[str, ...] = ()
    """Take these splits only; without it all are taken, and all must be there."""
    partial: bool = False
    """Take what is there where the download is not whole; failures.csv beside the manifest lists the rest."""


def run_list(argv: Sequence[str]) -> int:
    parse(ListArguments, argv, prog="birdjepa data list", description="Lists the public data sets that are known.")
    width = max(map(len, CATALOG))
    for dataset in CATALOG.values():
        print(f"{dataset.name:<{width}}  {dataset.title}")
        print(f"{'':<{width}}  {dataset.size}; {dataset.licence}")
    print("birdjepa data describe NAME tells how to get one")
    return EXIT_DONE


def run_describe(argv: Sequence[str]) -> int:
    told = "Tells what a public data set is, how to get it, and what to know before comparing numbers."
    print(_named(parse(DescribeArguments, argv, prog="birdjepa data describe", description=told).name).describe())
    return EXIT_DONE


def run_prepare(argv: Sequence[str]) -> int:
    told = "Makes the manifest of a data set that was downloaded, and refuses one that is not whole."
    arguments = parse(PrepareArguments, argv, prog="birdjepa data prepare", description=told)
    dataset = _named(arguments.name)
    if arguments.out.suffix != ".csv":
        raise UsageError(f"--out {arguments.out}: the manifest is a CSV table, so its name must end in .csv")
    done = prepare(dataset, arguments.folder, arguments.out, partial=arguments.partial, splits=arguments.splits)
    for line in _summary(dataset, done):
        print(line)
    for problem in done.problems:
        tell(problem)
    if done.missing:
        tell(f"{len(done.missing):,} files were left out; see {done.manifest.parent / 'failures.csv'}")
    return EXIT_PARTIAL if done.problems else EXIT_DONE


def _named(name: str) -> Dataset:
    if name not in CATALOG:
        raise UsageError(f"{name!r} is not in the catalog; it has {', '.join(CATALOG)}")
    return CATALOG[name]


def _summary(dataset: Dataset, done: Prepared) -> list[str]:
    """Rows and classes of each split, where the manifest is, and what to do next."""
    counts = Counter(row.get("split", "") for row in done.rows)
    lines = [f"{dataset.name}: {len(done.rows):,} rows in {done.manifest}"]
    for split in (each for each in dataset.splits if counts[each.name]):
        labels = {name for row in done.rows if row.get("split") == split.name for name in classes_of(row)}
        of = f" of {split.n_rows:,}" if split.n_rows not in (None, counts[split.name]) else ""
        lines.append(f"  {split.name}: {counts[split.name]:,}{of} rows, {len(labels):,} classes")
    return [*lines, f"next: birdjepa data scan {done.manifest}"]
