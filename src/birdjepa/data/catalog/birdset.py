"""BirdSet: eight soundscape tasks with focal training recordings, two focal sets, no-call background.

A download is either what the makers put on the Hub (a folder per task with tar.gz shards and Parquet metadata), or a
copy that `datasets` saved again as Parquet or Arrow with the audio inside, such as samuelstevens/BirdSet; see
`birdset_resaved`. Nothing of `datasets` is needed for either. Preparing unpacks the recordings into `TASK/audio/`
beside the shards (see `shards`) and holds the metadata's names against what came out of them, for an extraction that
stopped half-way has been taken for a whole split before.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog import birdset_resaved as resaved
from birdjepa.data.catalog import shards
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, require_file
from birdjepa.data.catalog.birdset_tasks import COMMIT, TASKS, VOX, Task
from birdjepa.data.catalog.events import Event, seconds, write_events

COLUMNS = (
    *("filepath", "start_time", "end_time", "low_freq", "high_freq", "ebird_code", "ebird_code_multilabel", "lat"),
    *("long", "license", "source", "detected_events", "quality", "recordist"),
)
"""What is read of the metadata."""

_REPOSITORY = "DBD-research-group/BirdSet"
_CLIP = re.compile(r"(?P<recording>.+)_(?P<start>\d+)_(?P<end>\d+)")


def entry(task: Task, splits: Sequence[str], suffix: str = "") -> Dataset:
    """The catalog's entry of some splits of a task."""
    name = f"birdset-{task.name.lower()}{suffix}"
    return Dataset(
        name=name,
        title=f"BirdSet {task.name}: {task.region}; {', '.join(splits)}",
        homepage=f"https://huggingface.co/datasets/{_REPOSITORY}",
        licence="CC BY-NC 4.0 as a collection; each focal recording has its own licence (column license)",
        citation="L. Rauch et al., BirdSet: A Large-Scale Dataset for Audio Classification in Avian Bioacoustics, 2024",
        size=f"{_size(task, splits)} (all of {task.name}: {task.size_gb:g} GB; 32 kHz mono Ogg Vorbis)",
        how_to_get=_how_to_get(task, splits, name),
        splits=tuple(_split(task, split) for split in splits),
        read=functools.partial(read_task, task=task, splits=tuple(splits)),
        notes=(
            "every model trained on Xeno-Canto has seen the training recordings",
            *(f"test soundscapes: {task.source}" for _ in [None] if task.source),
            *task.notes,
        ),
    )


def read_task(folder: Path, *, task: Task, splits: Sequence[str]) -> Reading:
    """The rows of some splits of a task, in the order of its metadata; unpacks what is not unpacked yet.

    Raises:
      UsageError: if the folder holds nothing of the task, or metadata with another number of rows.
      LabelError: naming the metadata and what in it is not as published.
    """
    own = folder.resolve().name == task.name or any((folder / task.metadata(split)).is_file() for split in splits)
    base = folder if own else folder / task.name
    found = resaved.find(folder, task.name)
    listed = {split: base / task.metadata(split) for split in splits}
    if not found.keys() & set(splits) and not any(path.is_file() for path in listed.values()):
        require_file(folder, listed[splits[0]].relative_to(folder).as_posix(), f"birdset-{task.name.lower()}")
    rows: list[Row] = []
    missing: dict[str, str] = {}
    for split, table in listed.items():
        if split in found:
            reading = _read_resaved(folder, base, task, split, found[split])
        elif table.is_file():
            reading = _read_published(folder, base, task, split, table)
        else:
            reading = Reading([], _told(folder, {table: "missing"}))
        rows += reading.rows
        missing |= dict.fromkeys(reading.missing, split)
    return Reading(rows, list(missing), missing)


def read_vox(folder: Path) -> Reading:
    """The no-call recordings: they have no metadata, so what the shards hold is what there is.

    Raises:
      UsageError: if the folder holds none of its shards.
    """
    base = next((folder / name for name in VOX.folders if (folder / name).is_dir()), folder)
    names = {path.name for path in base.glob("*_shard_*.tar.gz")}
    names |= {f"{path.name}.tar.gz" for path in (base / "audio").glob("[!.]*_shard_*")}
    if not names:
        raise UsageError(
            f"{folder}: no *_shard_*.tar.gz in {' or '.join(VOX.folders)}; see `birdjepa data describe birdset-vox`"
        )
    shared = [shards.Shard(base / name, base / "audio" / name.removesuffix(".tar.gz")) for name in sorted(names)]
    failed = shards.unpack_all(shared, shards.untar)
    there = sorted(shards.recordings(folder, shared).items(), key=lambda item: item[1])
    rows = [{"path": path, "label": "", "split": "train", "group": Path(name).stem} for name, path in there]
    return Reading(rows, _told(folder, failed))


def manifest_rows(
    table: Path, cells: Iterable[dict[str, Any]], task: Task, split: str, places: dict[str, str]
) -> tuple[list[Row], list[str]]:
    """Rows of the manifest from rows of the metadata, and the names that have no recording.

    Raises:
      LabelError: at a code that is none of the task's, or a name that is not built as the split's are.
    """
    known = set(task.classes)
    rows: list[Row] = []
    absent: dict[str, None] = {}
    for number, row in enumerate(cells, start=1):
        name = shards.base_name(row.get("filepath"))
        codes = [str(code) for code in row.get("ebird_code_multilabel") or ()]
        label = "" if split == "test_5s" else str(row.get("ebird_code") or "")
        unknown = {*codes, *filter(None, [label])} - known if known else set()
        if not name or unknown:
            wrong = f"{min(unknown)!r} is no class of {task.name}" if unknown else "no file name"
            raise LabelError(str(table), 0.0, f"row {number}: {wrong}; get it again at commit {COMMIT[:12]}")
        if name not in places:
            absent[name] = None
        elif split == "test" and not (row.get("start_time") or 0) < (row.get("end_time") or 0):
            absent[f"{name} (row {number}: a box without length)"] = None
        else:
            about = {"path": places[name], "label": label, "labels": ";".join(codes), "split": split}
            group = {"group": _recording(table, name, task, split)}
            rows.append(about | group | _times(row, split) | _origin(row))
    return rows, list(absent)


def _read_published(folder: Path, base: Path, task: Task, split: str, table: Path) -> Reading:
    """A split as its makers put it on the Hub."""
    n_rows, expected = _count(table), task.n_rows(split)
    if n_rows not in expected:
        raise UsageError(
            f"{table}: {n_rows:,} rows instead of {' or '.join(f'{n:,}' for n in expected)}: not the metadata of "
            f"commit {COMMIT[:12]} (files named *_old.parquet are stale)"
        )
    archives = [base / name for name in task.archives(split)]
    split_shards = [shards.Shard(path, base / "audio" / path.name.removesuffix(".tar.gz")) for path in archives]
    failed = shards.unpack_all(split_shards, shards.untar)
    places = shards.recordings(folder, split_shards)
    cells = (row for batch in shards.read_batches(table, COLUMNS) for row in batch)
    rows, absent = manifest_rows(table, cells, task, split, places)
    return Reading(rows, _told(folder, failed) or absent)


def _read_resaved(folder: Path, base: Path, task: Task, split: str, found: resaved.Found) -> Reading:
    """A split of a copy that `datasets` saved again."""
    split_shards = [shards.Shard(path, base / "audio" / f"resaved-{split}-{path.stem}") for path in found.shards]
    failed = shards.unpack_all(split_shards, shards.write_embedded)
    places = shards.recordings(folder, split_shards)
    rows: list[Row] = []
    absent: list[str] = []
    for shard in split_shards:
        if shard.archive not in failed:
            cells = resaved.cells(shard.archive, COLUMNS, task.classes)
            more, lost = manifest_rows(shard.archive, cells, task, split, places)
            rows += more
            absent += lost
    return Reading(rows, [*_told(folder, failed), *found.missing] or absent)


def _count(table: Path) -> int:
    try:
        return sum(len(batch) for batch in shards.read_batches(table, ("filepath",)))
    except shards.Damaged as damage:
        raise LabelError(str(table), 0.0, f"cannot be read: {damage}; get it again") from None


def _told(folder: Path, failed: dict[Path, str]) -> list[str]:
    """Archives that are missing or damaged, relative to the folder."""
    return [
        f"{path.relative_to(folder).as_posix()}{'' if reason == 'missing' else f' ({reason})'}"
        for path, reason in failed.items()
    ]


def _recording(table: Path, name: str, task: Task, split: str) -> str:
    """The recording that a file is, or was cut from: what a bootstrap resamples.

    Clips of test_5s are named RECORDING_START_END. NBP's recordings are five seconds long, so each clip is one.
    """
    stem = name.rpartition(".")[0]
    if split != "test_5s" or task.clip_is_recording:
        return stem
    parts = _CLIP.fullmatch(stem)
    if parts is None or int(parts["end"]) <= int(parts["start"]):
        raise LabelError(str(table), 0.0, f"{name}: not named RECORDING_START_END, as clips of {task.name} are")
    return parts["recording"]


def _times(row: dict[str, Any], split: str) -> dict[str, str]:
    if split == "test":
        return {
            "onset_s": _number(row.get("start_time")),
            "offset_s": _number(row.get("end_time")),
            "low_hz": _number(row.get("low_freq")),
            "high_hz": _number(row.get("high_freq")),
        }
    if split == "train":
        events = [Event(float(onset), float(offset)) for onset, offset in row.get("detected_events") or ()]
        return {"detected_events": write_events(events)}
    return {}


def _origin(row: dict[str, Any]) -> dict[str, str]:
    text = {
        name: "" if row.get(name) is None else str(row[name]) for name in ("license", "source", "quality", "recordist")
    }
    return {"lat": _number(row.get("lat")), "long": _number(row.get("long"))} | text


def _number(value: Any) -> str:
    return "" if value is None or value != value else seconds(float(value))


def _split(task: Task, split: str) -> Split:
    expected = task.n_rows(split)
    return Split(name=split, n_rows=expected[0] if len(expected) == 1 else None, n_classes=task.n_classes(split))


def _size(task: Task, splits: Sequence[str]) -> str:
    what = {"train": "recordings", "test": "annotated boxes in whole soundscapes", "test_5s": "clips of 5 s"}
    return ", ".join(f"{task.n_rows(split)[0]:,} {what[split]} ({split})" for split in splits)


def _how_to_get(task: Task, splits: Sequence[str], name: str) -> str:
    wanted: Iterator[str] = (
        f"  {task.name}/{task.metadata(split)} {task.name}/{task.braces(split)} \\" for split in splits
    )
    return "\n".join(
        (
            "With `pip install huggingface_hub`, in bash or zsh (exact names, for stale files lie beside these):",
            f"hf download {_REPOSITORY} --repo-type dataset --revision {COMMIT} \\",
            *wanted,
            "  --local-dir BirdSet",
            f"birdjepa data prepare {name} BirdSet --out {name}.csv",
            f"Recordings are unpacked into BirdSet/{task.name}/audio/; a shard whose folder is there may be deleted.",
        )
    )


BIRDSET = (
    *(entry(task, ("train", "test_5s")) for task in TASKS if task.n_test),
    *(entry(task, ("test_5s",), "-test5s") for task in TASKS if task.n_test),
    *(entry(task, ("test",), "-boxes") for task in TASKS if task.n_test),
    *(entry(task, ("train",)) for task in TASKS if not task.n_test),
    Dataset(
        name="birdset-vox",
        title="BirdSet VOX: background without bird calls (BirdVox-DCASE), to mix into training",
        homepage=f"https://huggingface.co/datasets/{_REPOSITORY}",
        licence="CC BY-NC 4.0 as a collection; the source is Zenodo 1208080",
        citation="V. Lostanlen et al., BirdVox-DCASE-20k, 2018; L. Rauch et al., BirdSet, 2024",
        size=f"{VOX.n_rows:,} recordings",
        how_to_get="\n".join(
            (
                f"hf download {_REPOSITORY} --repo-type dataset --revision {COMMIT} \\",
                "  dcase18/dcase18_shard_0001.tar.gz dcase18/dcase18_shard_0002.tar.gz --local-dir BirdSet",
                "birdjepa data prepare birdset-vox BirdSet --out birdset-vox.csv",
                "The makers' own scripts name two shards in dcase18/; if rows are missing, look there for a third.",
            )
        ),
        splits=(Split(name="train", n_rows=VOX.n_rows),),
        read=read_vox,
        notes=("no labels: every clip is a no-call",),
    ),
)
"""All entries: a task with its clips, its clips alone, its boxes; the focal sets; the background."""
