"""Label files of one format from those of any other, one file for each recording."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Literal

from birdjepa.audio.labels import (
    Label,
    LabelsConfig,
    Recordings,
    label_names,
    labelled_name,
    read_recordings,
    without_suffix,
    write_audacity,
    write_birdnet,
    write_notmat,
    write_raven,
    write_table,
    write_textgrid,
)
from birdjepa.core.errors import InputError, LabelError
from birdjepa.core.failures import Failure
from birdjepa.data.labelled import LabelFile, Pairing, refused_by

Written = Literal["raven", "audacity", "csv", "birdnet", "textgrid", "notmat"]

ENDINGS: dict[Written, str] = {
    "raven": ".Table.1.selections.txt",
    "audacity": ".txt",
    "csv": ".csv",
    "birdnet": ".BirdNET.results.csv",
    "textgrid": ".TextGrid",
    "notmat": ".not.mat",
}
NO_PLACE: dict[Written, tuple[str, ...]] = {
    "raven": (),
    "audacity": (),
    "csv": (),
    "birdnet": ("low_hz", "high_hz"),
    "textgrid": ("score", "low_hz", "high_hz"),
    "notmat": ("score", "low_hz", "high_hz"),
}
"""What a format cannot say of a label; it is left out and counted."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What is known of the recording that labels belong to."""

    name: str
    """File name; empty where it is not known."""
    sampling_rate: float = 0.0
    """In Hz; 0 where it is not known."""
    duration_s: float = 0.0
    """0 where it is not known."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """What became of label files."""

    written: tuple[Path, ...]
    n_labels: int
    n_left_out: dict[str, int]
    """Known scores and frequencies that the format has no place for."""
    refused: tuple[Failure, ...]


def convert_labels(
    found: Sequence[LabelFile],
    to: Written,
    out: Path,
    config: LabelsConfig,
    pairing: Pairing | None = None,
) -> Converted:
    """Writes labels into the folder `out`, named as the tool of that format names them: in the folder of the file they
    come from, and after the recording where a file holds several.

    The recordings, where they are given, say what formats need and label files do not: sampling rates and lengths. A
    file that would be written over another of the same job is refused.
    """
    written: dict[Path, Path] = {}
    refused: list[Failure] = []
    left_out: Counter[str] = Counter()
    n_labels = 0
    for file in found:
        try:
            recordings = pairing.read(file, config, refused) if pairing else read_recordings(file.path, config)
        except LabelError as error:
            refused.append(refused_by(error))
            recordings = None
        for name, labels in () if recordings is None else (recordings or {"": []}).items():
            try:
                recorded = _recorded(file, name, config, pairing)
                path = out / _target(file, name, recordings or {}, recorded, to)
                if path in written:
                    raise ValueError(
                        f"{path} has the labels of {written[path]}: convert them into folders of their own"
                    )
                _write(path, labels, to, recorded)
            except InputError as error:
                refused.append(refused_by(error))
            except ValueError as error:
                refused.append(Failure(str(file.path), "labels", 0.0, f"{name}: {error}" if name else str(error)))
            else:
                written[path] = file.path
                n_labels += len(labels)
                for field in NO_PLACE[to]:
                    left_out[field] += sum(not math.isnan(getattr(label, field)) for label in labels)
    return Converted(tuple(written), n_labels, {field: n for field, n in left_out.items() if n}, tuple(refused))


def _recorded(file: LabelFile, name: str, config: LabelsConfig, pairing: Pairing | None) -> Recorded:
    if pairing is not None:
        row = pairing.row(file, name)
        header = pairing.header(row)
        return Recorded(PurePath(pairing.recordings.keys[row]).name, float(header.sampling_rate), header.duration_s)
    return Recorded(PurePath(name.replace("\\", "/")).name, config.sampling_rate)


def _target(file: LabelFile, name: str, recordings: Recordings, recorded: Recorded, to: Written) -> Path:
    """Where a recording's labels go, from the output folder."""
    folder = Path(*(part for part in file.relative.parent.parts if part != ".."))
    stem = folder / without_suffix(recorded.name or labelled_name(file.relative.name))
    if len(recordings) > 1:
        keys = _below_shared([name, *recordings])
        stem = folder / label_names(keys)[keys[0]]
    if to == "notmat" and not recorded.name:
        raise ValueError("a .not.mat has its recording's whole name: name the recordings (--recordings)")
    return stem.with_name((recorded.name if to == "notmat" else stem.name) + ENDINGS[to])


def _below_shared(names: Iterable[str]) -> list[str]:
    """Paths without the folders that all of them begin with."""
    parts = [PurePath(name.replace("\\", "/")).parts for name in names]
    n_shared = 0
    while all(len(each) > n_shared + 1 for each in parts) and len({each[n_shared] for each in parts}) == 1:
        n_shared += 1
    return ["/".join(each[n_shared:]) for each in parts]


def _write(path: Path, labels: list[Label], to: Written, recorded: Recorded) -> None:
    if to == "raven":
        boxed = all(not math.isnan(hz) for label in labels for hz in (label.low_hz, label.high_hz))
        if not recorded.sampling_rate and not boxed:
            raise ValueError("Raven draws boxes, and labels have no frequencies: say --sampling-rate or --recordings")
        nyquist_hz = recorded.sampling_rate / 2 or 1.0  # not asked for where every label has its box
        write_raven(path, labels, begin_file=recorded.name, nyquist_hz=nyquist_hz)
    elif to == "audacity":
        write_audacity(path, labels)
    elif to == "csv":
        write_table(path, labels, recording=recorded.name)
    elif to == "birdnet":
        write_birdnet(path, labels, recording=recorded.name)
    elif to == "textgrid":
        write_textgrid(path, labels, duration_s=recorded.duration_s)
    elif not recorded.sampling_rate:
        raise ValueError("a .not.mat holds its recording's sampling rate: say --sampling-rate or --recordings")
    else:
        write_notmat(path, labels, recording=recorded.name, sampling_rate=recorded.sampling_rate)
