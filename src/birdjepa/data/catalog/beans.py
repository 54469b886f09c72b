"""BEANS: twelve sets of animal sounds, seven to classify, five to detect, as the benchmark's own scripts lay them out.

Its repository downloads, converts and splits everything into `data/`; what it wrote is read here, so that the splits
are its own and not a second reading of the same rule. Where the repository's list of MD5 sums is beside the data, the
lists are held against it.

A detection set's manifest has a row for each file, at most 60 s long, with all annotations in one cell (`events`, see
`events`), and not a row for each annotation: the benchmark scores every window of every file, also of files that nobody
annotated, and an annotation that reaches over several windows belongs to all of them. A probe on segments can still be
made from the cell; the silence between them could not be made from segments.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, present, require_file
from birdjepa.data.catalog.classes import class_list
from birdjepa.data.catalog.events import Event, seconds, write_events

HASHES = "data/file_hashes"
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beans:
    """One of the twelve."""

    name: str
    title: str
    source: str
    lists: str
    """Path of a split's list, with {} for its name."""
    sampling_rate: int
    clip_s: float
    """Length of a clip to classify, or of a window to detect in."""
    hop_s: float | None = None
    """Distance between windows; None for classification."""
    n_rows: Sequence[int | None] = (None, None, None)
    """Of train, valid and test; None where it is not published."""
    n_train_classes: int | None = None
    """None where the split rule does not put every class into train."""
    unknown_label: str | None = None
    """The class that labels outside of the list count as."""
    in_chunks: bool = False
    """Its files are numbered minutes of a recording: NAME.000.wav."""
    notes: Sequence[str] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The official list by class number."""
        return class_list(f"beans-{self.name}")


def entry(of: Beans) -> Dataset:
    """The catalog's entry of a set."""
    task = "classification" if of.hop_s is None else "detection"
    clips = f"clips of {of.clip_s:g} s" if of.hop_s is None else f"windows of {of.clip_s:g} s every {of.hop_s:g} s"
    classes = (of.n_train_classes, None, None)
    return Dataset(
        name=f"beans-{of.name}",
        title=f"BEANS {of.name}: {of.title}; {task} of {len(of.classes)} classes",
        homepage="https://github.com/earthspecies/beans",
        licence=f"that of its source: {of.source}",
        citation="M. Hagiwara et al., BEANS: The Benchmark of Animal Sounds, 2022",
        size=f"{clips} at {of.sampling_rate / 1000:g} kHz; all twelve sets take about 300 GB while they are made",
        how_to_get=_how_to_get(of),
        splits=tuple(Split(name=n, n_rows=r, n_classes=c) for n, r, c in zip(SPLITS, of.n_rows, classes, strict=True)),
        read=functools.partial(read_set, of=of),
        notes=("the column train_low marks the benchmark's small training subset", *of.notes),
    )


def read_set(folder: Path, *, of: Beans) -> Reading:
    """The rows of the three splits in the order of the benchmark's lists.

    Raises:
      UsageError: if a list is missing.
      LabelError: naming a list and the line that cannot be read, or has a class that is not the set's.
    """
    inside = "" if folder.resolve().name == "data" else "data/"
    rows: list[Row] = []
    for split in SPLITS:
        table = require_file(folder, _here(of.lists.format(split), inside), f"beans-{of.name}")
        rows += [{**row, "split": split} for row in _rows(table, of)]
    low = folder / _here(of.lists.format("train-low"), inside)
    small = {row["path"] for row in _rows(low, of)} if low.is_file() else set()
    placed = [
        {
            **row,
            "path": _here(row["path"], inside),
            "train_low": "yes" if row["split"] == "train" and row["path"] in small else "",
        }
        for row in rows
    ]
    reading = present(folder, placed)
    return Reading(reading.rows, [*_other_lists(folder, inside, of), *reading.missing])


def _rows(table: Path, of: Beans) -> Iterator[dict[str, str]]:
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    if of.hop_s is None:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            yield {"path": row["path"], "label": _class(row["label"], of, table, number)}
    else:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _detection_row(line, of, table, number)


def _detection_row(line: str, of: Beans, table: Path, number: int) -> dict[str, str]:
    try:
        file = json.loads(line)
        events = [
            Event(float(each["st"]), float(each["ed"]), _class(each["label"], of, table, number))
            for each in file["annotations"]
        ]
        cell, path, duration = write_events(events), str(file["path"]), seconds(float(file["length"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(str(table), 0.0, f"line {number} cannot be read: {error!r}") from None
    heard = {event.label for event in events}
    group = re.sub(r"\.\d+$", "", Path(path).stem) if of.in_chunks else Path(path).stem
    labels = ";".join(name for name in of.classes if name in heard)
    return {"path": path, "label": "", "labels": labels, "events": cell, "duration_s": duration, "group": group}


def _class(value: Any, of: Beans, table: Path, number: int) -> str:
    label = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if label in of.classes:
        return label
    if of.unknown_label is None:
        raise LabelError(str(table), 0.0, f"line {number}: {label!r} is none of the {len(of.classes)} classes")
    return of.unknown_label


def _here(path: str, inside: str) -> str:
    """A path of the lists relative to the download: the repository's folder, or its data/."""
    return path if inside else path.removeprefix("data/")


def _other_lists(folder: Path, inside: str, of: Beans) -> list[str]:
    """Lists whose MD5 is not the one that the benchmark's repository says."""
    hashes = folder / _here(HASHES, inside)
    if not hashes.is_file():
        return []
    published = dict(line.split("\t", 1) for line in hashes.read_text().splitlines() if "\t" in line)
    wrong = []
    for split in (*SPLITS, "train-low"):
        name = of.lists.format(split)
        table = folder / _here(name, inside)
        if name in published and table.is_file():
            found = hashlib.md5(table.read_bytes(), usedforsecurity=False).hexdigest()
            if found != published[name].strip():
                wrong.append(f"{_here(name, inside)} (another split: its MD5 is not that of {HASHES})")
    return wrong


def _how_to_get(of: Beans) -> str:
    return "\n".join(
        (
            "git clone https://github.com/earthspecies/beans && cd beans",
            "Install it as its README says (SoX; the Kaggle CLI for cbi and rfcx, whose rules you must accept), then",
            _SCRIPTS.get(of.name, f"python scripts/{of.name.replace('-', '_')}.py"),
            f"birdjepa data prepare beans-{of.name} . --out beans-{of.name}.csv",
            f"The folder holds {of.lists.format('{train,valid,test}')} and the audio that they name.",
        )
    )


_SCRIPTS = {
    "hiceas": "wget https://storage.googleapis.com/ml-bioacoustics-datasets/hiceas_1-20_minke-detection.zip\n"
    "unzip hiceas_1-20_minke-detection.zip -d data/hiceas"
}
_TEMPORAL = "each recording is in all splits: its first 60 % in train, then 20 % in valid, then 20 % in test"
_FIXED = "others found errors in this benchmark's detection test lists (avex issue 54): say which lists a number is of"

SETS = (
    Beans(
        name="watkins",
        title="marine mammals",
        source="Watkins Marine Mammal Sound Database",
        lists="data/watkins/annotations.{}.csv",
        sampling_rate=44_100,
        clip_s=3.0,
        n_rows=(1017, 339, 339),
        n_train_classes=31,
        notes=("NatureLM was trained on Watkins' recordings", "Weddell seals (two recordings) are left out"),
    ),
    Beans(
        name="bats",
        title="Egyptian fruit bats, individuals",
        source="Egyptian fruit bat vocalizations (archive.org: egyptian_fruit_bats_10k)",
        lists="data/egyptian_fruit_bats/annotations.{}.csv",
        sampling_rate=250_000,
        clip_s=5.0,
        n_train_classes=10,
        notes=("at 250 kHz: a model that resamples to 16 or 32 kHz hears little of it",),
    ),
    Beans(
        name="cbi",
        title="Cornell bird identification",
        source="Kaggle birdsong-recognition",
        lists="data/cbi/annotations.{}.csv",
        sampling_rate=44_100,
        clip_s=10.0,
        notes=("split by recordist; the first 10 s of each recording", "from Xeno-Canto, as most bird models are"),
    ),
    Beans(
        name="dogs",
        title="dog barks, individuals",
        source="archive.org: dog_barks",
        lists="data/dogs/annotations.{}.csv",
        sampling_rate=44_100,
        clip_s=10.0,
        n_rows=(415, 139, 139),
        n_train_classes=10,
        notes=("small: results vary by up to 9 points between runs",),
    ),
    Beans(
        name="humbugdb",
        title="mosquitoes",
        source="HumBugDB, Zenodo 4904800",
        lists="data/HumBugDB/data/metadata/{}.csv",
        sampling_rate=44_100,
        clip_s=3.0,
        n_train_classes=14,
        notes=("species with at most 100 recordings are one class, others; no species is non-mosquito",),
    ),
    Beans(
        name="esc50",
        title="environmental sounds (auxiliary)",
        source="ESC-50, CC BY-NC 3.0",
        lists="data/esc50/meta/esc50.{}.csv",
        sampling_rate=44_100,
        clip_s=5.0,
        n_rows=(1200, 400, 400),
        n_train_classes=50,
        notes=("folds 1 to 3, 4 and 5 of esc50; labels are its class numbers", "overlaps FSD50K"),
    ),
    Beans(
        name="speech-commands",
        title="spoken words (auxiliary)",
        source="Speech Commands v0.02",
        lists="data/speech_commands/{}.csv",
        sampling_rate=16_000,
        clip_s=1.0,
        n_rows=(84_843, 9_981, 11_005),
        n_train_classes=35,
    ),
    Beans(
        name="dcase",
        title="birds and mammals, DCASE 2021 few-shot development set",
        source="Zenodo 5412896",
        lists="data/dcase/{}.jsonl",
        sampling_rate=16_000,
        clip_s=2.0,
        hop_s=1.0,
        in_chunks=True,
        notes=(_TEMPORAL, _FIXED),
    ),
    Beans(
        name="enabirds",
        title="eastern North American birds",
        source="Dryad, Chronister et al. 2021",
        lists="data/enabirds/{}.jsonl",
        sampling_rate=32_000,
        clip_s=2.0,
        hop_s=1.0,
        unknown_label="OTHR",
        in_chunks=True,
        notes=(_TEMPORAL, "species outside of the list are the class OTHR", _FIXED),
    ),
    Beans(
        name="hiceas",
        title="minke whales",
        source="HICEAS 2017, NOAA",
        lists="data/hiceas/{}.jsonl",
        sampling_rate=22_050,
        clip_s=10.0,
        hop_s=5.0,
        notes=(_FIXED,),
    ),
    Beans(
        name="rfcx",
        title="birds and frogs of Puerto Rico",
        source="Kaggle rfcx-species-audio-detection",
        lists="data/rfcx/{}.jsonl",
        sampling_rate=48_000,
        clip_s=10.0,
        hop_s=5.0,
        notes=("sparse labels: what is not annotated may still be there", _FIXED),
    ),
    Beans(
        name="hainan-gibbons",
        title="Hainan gibbons",
        source="Zenodo 3991714",
        lists="data/hainan_gibbons/{}.jsonl",
        sampling_rate=9_600,
        clip_s=4.0,
        hop_s=2.0,
        unknown_label="1",
        in_chunks=True,
        notes=("every third minute of each recording; split by recording", _FIXED),
    ),
)
"""The twelve, as the benchmark lists them."""
BEANS = tuple(entry(of) for of in SETS)
