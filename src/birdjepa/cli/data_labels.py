"""`birdjepa data labels INPUT... --to FORMAT --out FOLDER`, `birdjepa data segments DATA --labels WHERE --out CSV`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.audio.labels import LabelsConfig
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import failures
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.convert_labels import Written, convert_labels
from birdjepa.data.labelled import Pairing, find_segments, label_files, write_refused, write_segments
from birdjepa.data.sources import ColumnConfig, open_data

N_SHOWN = 5
"""Refused inputs and unlabelled recordings that are told one by one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsArguments:
    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Label files, folders with label files, or patterns in quotation marks ("labels/**/*.txt")."""
    to: Written
    """Format to write."""
    out: Path
    """Folder for the label files, and for failures.csv if some were refused."""
    recordings: str = ""
    """Folder or manifest of the recordings, which say what label files do not: their names, sampling rates, lengths."""
    config: tyro.conf.OmitArgPrefixes[LabelsConfig] = dataclasses.field(default_factory=LabelsConfig)
    json: bool = False
    """Print one JSON object instead of the folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentsArguments:
    data: tyro.conf.Positional[str]
    """Recordings: a folder or a manifest, whose columns (group, split, ...) are kept."""
    labels: str
    """A folder with label files, a pattern in quotation marks ("labels/**/*.selections.txt"), or one file."""
    out: Path
    """Manifest of segments to write (.csv); failures.csv and unlabelled.csv go beside it."""
    config: tyro.conf.OmitArgPrefixes[LabelsConfig] = dataclasses.field(default_factory=LabelsConfig)
    path_column: str = "path"
    """Column of the manifest of recordings that names them."""
    json: bool = False
    """Print one JSON object instead of the manifest's path."""


def run_labels(argv: Sequence[str]) -> int:
    told = "Converts label files: Raven, Audacity, BirdNET, plain tables, TextGrid, .not.mat, Annotation.xml."
    arguments = parse(LabelsArguments, argv, prog="birdjepa data labels", description=told)
    _check_folder(arguments.out)
    if not arguments.inputs:
        raise UsageError("name label files to convert: birdjepa data labels INPUT... --to FORMAT --out FOLDER")
    found = [file for source in arguments.inputs for file in label_files(source)]
    pairing = Pairing(open_data(arguments.recordings).recordings()) if arguments.recordings else None
    result = convert_labels(found, arguments.to, arguments.out, arguments.config, pairing)
    write_refused(arguments.out, result.refused)
    tell(f"{result.n_labels} labels of {len(result.written)} recordings written")
    if result.n_left_out:
        parts = ", ".join(f"{count} {field}" for field, count in result.n_left_out.items())
        tell(f"left out, for {arguments.to} has no place for it: {parts}")
    summary = {
        "out": str(arguments.out),
        "n_files": len(found),
        "n_written": len(result.written),
        "n_labels": result.n_labels,
        "n_left_out": result.n_left_out,
        "n_refused": len(result.refused),
    }
    print(jsonlib.dumps(summary) if arguments.json else arguments.out)
    return _ended(result.refused, arguments.out / failures.NAME)


def run_segments(argv: Sequence[str]) -> int:
    told = "Pairs recordings with their label files; writes a manifest of labelled segments."
    arguments = parse(SegmentsArguments, argv, prog="birdjepa data segments", description=told)
    if arguments.out.suffix.lower() != ".csv":
        raise UsageError(f"--out {arguments.out}: the manifest of segments is a .csv file")
    _check_folder(arguments.out.parent)
    if arguments.out.is_dir():
        raise UsageError(f"--out {arguments.out} is a folder: name the manifest in it")
    manifest = open_data(arguments.data, ColumnConfig(path=arguments.path_column))
    given = [] if arguments.data == arguments.labels else [Path(arguments.data)]
    found = label_files(arguments.labels, leave_out=[arguments.out, *given])
    segments = find_segments(manifest, found, arguments.config)
    if not segments.labels:
        write_refused(arguments.out.parent, segments.refused)
        first = f"; the first: {segments.refused[0].path}: {segments.refused[0].reason}" if segments.refused else ""
        counts = f"none of {len(found)} label files for {len(segments.recordings)} recordings could be used"
        raise UsageError(f"{counts} (failures.csv{first})")
    write_segments(segments, arguments.out)
    empty = sum(not labels for labels in segments.labels.values())
    without = f", {empty} of them with nothing in it" if empty else ""
    tell(f"{segments.n_segments} segments; {len(segments.labels)} recordings have a label file{without}")
    unlabelled = segments.unlabelled
    if unlabelled:
        shown = ", ".join(unlabelled[:N_SHOWN]) + (", ..." if len(unlabelled) > N_SHOWN else "")
        tell(f"{len(unlabelled)} recordings have none: {shown} (unlabelled.csv)")
    summary = {
        "out": str(arguments.out),
        "n_segments": segments.n_segments,
        "n_recordings": len(segments.recordings),
        "n_labelled": len(segments.labels),
        "n_unlabelled": len(unlabelled),
        "n_refused": len(segments.refused),
    }
    print(jsonlib.dumps(summary) if arguments.json else arguments.out)
    return _ended(segments.refused, arguments.out.with_name(failures.NAME))


def _check_folder(folder: Path) -> None:
    """Before the work, not after it."""
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise UsageError(f"--out: {each} is a file, and a folder is needed there")


def _ended(refused: Sequence[Failure], listed: Path) -> int:
    for each in refused[:N_SHOWN]:
        tell(f"refused {each.path}{f' at {each.offset_s:g} s' if each.offset_s else ''}: {each.reason}")
    if refused:
        tell(f"{len(refused)} were refused; see {listed}")
    return EXIT_PARTIAL if refused else EXIT_DONE
