"""Which label file belongs to which recording, and the manifest of labelled segments that follows.

Tools name a label file after its recording (x.txt, x.Table.1.selections.txt, x.wav.not.mat), or name the recordings
inside (Begin File, File, path, WaveFileName). Both count, and must not contradict each other. Folders count too: one
path must be the tail of the other, so that labels/site2/x.txt never goes to site1/x.wav. What fits no recording, or
several, is refused and listed; nothing is guessed.
"""

import dataclasses
import glob
import os
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from birdjepa.audio.decode import probe
from birdjepa.audio.labels import (
    Label,
    LabelsConfig,
    Recordings,
    csv_text,
    is_label_file,
    labelled_name,
    read_recordings,
    without_suffix,
)
from birdjepa.audio.labels.label import shortest
from birdjepa.audio.recording import AudioInfo
from birdjepa.core import failures, files
from birdjepa.core.errors import AudioError, InputError, LabelError, UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.sources import Manifest

SEGMENT_COLUMNS = ("path", "onset_s", "offset_s", "label", "low_hz", "high_hz", "score", "group", "duration_s")
RECORDING_LABEL = "recording_label"
"""Column for what the manifest of recordings had as their label."""
LISTS = (failures.NAME, "unlabelled.csv")


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A label file as it was found."""

    path: Path
    relative: PurePath
    """From the folder or the fixed part of the pattern that was named."""


@dataclasses.dataclass(frozen=True)
class Segments:
    """Labelled segments of a manifest's recordings."""

    recordings: Manifest
    """One row a recording."""
    labels: dict[int, list[Label]]
    """Labels by row of `recordings`, of all that have a label file; empty where that holds none."""
    durations_s: dict[int, float]
    """Length of those recordings, as their headers say."""
    refused: tuple[Failure, ...]

    @property
    def n_segments(self) -> int:
        return sum(len(labels) for labels in self.labels.values())

    @property
    def unlabelled(self) -> list[str]:
        """Recordings without a label file."""
        return [key for row, key in enumerate(self.recordings.keys) if row not in self.labels]


def label_files(source: str, *, leave_out: Sequence[Path] = ()) -> list[LabelFile]:
    """Label files of a folder (searched recursively, by their names), of a pattern ("labels/**/*.txt"), or the one file
    that source names; sorted by path. Hidden files, and our own lists of what was refused, are none.

    Raises:
      UsageError: if there is none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        root = path
        found = [each for each in sorted(path.rglob("*")) if is_label_file(each.name) and each.is_file()]
    elif glob.has_magic(source) and not path.exists():
        fixed = list(path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
        root = Path(*fixed)
        pattern = str(PurePath(*path.parts[len(fixed) :]))
        found = [root / each for each in sorted(glob.glob(pattern, root_dir=root, recursive=True))]
        found = [each for each in found if each.is_file()]
    else:
        root, found = path.parent, [path] if path.exists() else []
    absolute = {each.resolve() for each in leave_out}
    kept = [
        LabelFile(each, each.relative_to(root))
        for each in found
        if each.resolve() not in absolute
        and each.name not in LISTS
        and not any(part.startswith(".") for part in each.relative_to(root).parts)
    ]
    if not kept:
        raise UsageError(f"{source}: no label files there (.txt, .csv, .tsv, .TextGrid, .not.mat, .xml)")
    return kept


class Pairing:
    """Recordings of a manifest, to be found by the names that label files have and hold."""

    def __init__(self, recordings: Manifest) -> None:
        self.recordings = recordings
        self._parts = [_parts(key) for key in recordings.keys]
        self._folders = [_absolute(recordings.path(row)).parents for row in range(len(recordings))]
        self._all_folders = {folder for folders in self._folders for folder in folders}
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        self._headers: dict[int, AudioInfo] = {}
        for row, parts in enumerate(self._parts):
            self._by_name.setdefault(parts[-1], []).append(row)
            self._by_stem.setdefault(without_suffix(parts[-1]), []).append(row)

    def row(self, file: LabelFile, name: str = "") -> int:
        """The recording of a label file, or of those labels in it for which it names this recording.

        Raises:
          LabelError: if there is none, or several, or the file's own name belongs to another.
        """
        own = self._near(file, self._rows(str(file.relative.with_name(labelled_name(file.relative.name)))))
        found = own
        if name:
            found = self._rows(name)
            found = found if len(_parts(name)) > 1 else self._near(file, found)
            if own and not set(own) & set(found):
                other = self.recordings.keys[own[0]]
                raise LabelError(str(file.path), 0.0, f"it is named for {other} and holds labels of {name}: rename one")
            found = [row for row in found if row in own] or found
        if not found:
            raise LabelError(str(file.path), 0.0, f"no recording {name or labelled_name(file.relative.name)}")
        if len(found) > 1:  # "labels/site1/*.txt" says where all of its files belong, if nothing inside does
            above = _absolute(file.path).parent.parts
            found = [row for row in found if _ends_with(above, self._parts[row][:-1])] or found
        if len(found) > 1:
            several = f"{self.recordings.keys[found[0]]} or {self.recordings.keys[found[1]]}"
            raise LabelError(str(file.path), 0.0, f"it may belong to {several}: put it into folders named as theirs")
        return found[0]

    def header(self, row: int) -> AudioInfo:
        """What a recording's header says, read once.

        Raises:
          AudioError: where it cannot be opened.
        """
        if row not in self._headers:
            self._headers[row] = probe(self.recordings.path(row))
        return self._headers[row]

    def read(self, file: LabelFile, config: LabelsConfig, refused: list[Failure]) -> Recordings:
        """Labels by recording of a label file, whose samples are counted by the rate of those recordings. Recordings
        whose rate is needed and cannot be found are left out and listed.

        Raises:
          LabelError: if the file cannot be read.
        """

        def rate_of(name: str) -> float | None:
            try:
                return config.sampling_rate or float(self.header(self.row(file, name)).sampling_rate)
            except InputError as error:
                refused.append(refused_by(error))
                return None

        return read_recordings(file.path, config, rate_of=rate_of)

    def _rows(self, name: str) -> list[int]:
        """Recordings of this name, with its suffix or else without, in folders that fit."""
        parts = _parts(name)
        if not parts:
            return []
        rows = self._by_name.get(parts[-1]) or self._by_stem.get(without_suffix(parts[-1]), [])
        same = [row for row in rows if self._parts[row][:-1] == parts[:-1]]
        return same or [row for row in rows if _one_is_the_tail(self._parts[row][:-1], parts[:-1])]

    def _near(self, file: LabelFile, rows: list[int]) -> list[int]:
        """Those below the label file's folder, if it lies among the recordings; else those in folders that fit."""
        folder = _absolute(file.path).parent
        if folder in self._all_folders:
            return [row for row in rows if folder in self._folders[row]]
        above = file.relative.parent.parts
        return [
            row
            for row in rows
            if _one_is_the_tail(above, self._parts[row][:-1]) or _is_a_run(above, self._parts[row][:-1])
        ]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _parts(name: str) -> tuple[str, ...]:
    """Parts of a path in any spelling, without drive and root."""
    path = PureWindowsPath(name) if "\\" in name and "/" not in name else PurePosixPath(os.path.normpath(name))
    return tuple(part for part in path.parts if part not in (path.anchor, "..", "."))


def _one_is_the_tail(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    n_shared = min(len(one), len(other))
    return one[len(one) - n_shared :] == other[len(other) - n_shared :]


def _ends_with(whole: tuple[str, ...], part: tuple[str, ...]) -> bool:
    return bool(part) and whole[-len(part) :] == part


def _is_a_run(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole)))


def refused_by(error: InputError) -> Failure:
    """An input error as a row of failures.csv."""
    stage = "recording" if isinstance(error, AudioError) else "labels"
    return Failure(error.path, stage, error.offset_s, error.reason)


def find_segments(manifest: Manifest, found: Sequence[LabelFile], config: LabelsConfig | None = None) -> Segments:
    """Reads label files and pairs them with the recordings of a manifest.

    Two files for one recording are both refused, as are labels without length (points) and labels that begin behind
    their recording's end; a label that only ends behind it is kept, for every verb hears it up to there.
    """
    config = config or LabelsConfig()
    pairing = Pairing(manifest.recordings())
    refused: list[Failure] = []
    claims: dict[int, list[tuple[LabelFile, list[Label]]]] = {}
    for file in found:
        try:
            recordings = pairing.read(file, config, refused)
        except LabelError as error:
            refused.append(refused_by(error))
            continue
        if not recordings and file.path.suffix.lower() != ".xml":
            recordings = {"": []}
        rows: dict[int, list[Label]] = {}
        for name, labels in recordings.items():
            try:
                rows.setdefault(pairing.row(file, name), []).extend(labels)
            except LabelError as error:
                refused.append(refused_by(error))
        for row, labels in rows.items():
            claims.setdefault(row, []).append((file, labels))
    labels_of: dict[int, list[Label]] = {}
    durations_s: dict[int, float] = {}
    for row in sorted(claims):
        key = pairing.recordings.keys[row]
        if len(claims[row]) > 1:
            names = ", ".join(str(file.relative) for file, _ in claims[row])
            reason = f"{len(claims[row])} label files for {key} ({names}): name one kind by a pattern"
            refused += [Failure(str(file.path), "labels", 0.0, reason) for file, _ in claims[row]]
            continue
        file, labels = claims[row][0]
        try:
            durations_s[row] = pairing.header(row).duration_s
        except AudioError as error:
            refused.append(refused_by(error))
            continue
        labels_of[row] = [label for label in labels if not _useless(file, key, label, durations_s[row], refused)]
    return Segments(pairing.recordings, labels_of, durations_s, tuple(refused))


def _useless(file: LabelFile, key: str, label: Label, duration_s: float, refused: list[Failure]) -> bool:
    reason = ""
    if shortest(label.onset_s) == shortest(label.offset_s):
        reason = f"a point ({label.label!r} of {key}) is no segment"
    elif label.onset_s >= duration_s:
        reason = f"it begins behind the end of {key} ({duration_s:.3f} s)"
    if reason:
        refused.append(Failure(str(file.path), "labels", label.onset_s, reason))
    return bool(reason)


def write_segments(segments: Segments, out: Path) -> None:
    """Writes the manifest of segments, and beside it unlabelled.csv and failures.csv where there is anything to list
    (or an old list to empty).

    Paths are relative to the manifest. `group` is that of the manifest of recordings, or else the recording; its other
    columns are kept, its label as `recording_label`.
    """
    recordings = segments.recordings
    kept = [name for name, values in recordings.columns.items() if any(values)]
    kept = [name for name in kept if name not in (*SEGMENT_COLUMNS, "labels")]
    has_label = any(recordings.columns["label"])
    header = (*SEGMENT_COLUMNS, *kept, *((RECORDING_LABEL,) if has_label else ()))
    rows: list[Sequence[str]] = [header]
    for row, labels in segments.labels.items():
        path = os.path.relpath(recordings.path(row), out.absolute().parent)
        group = recordings.columns["group"][row]
        others = [recordings.columns[name][row] for name in kept]
        others += [recordings.columns["label"][row]] if has_label else []
        told = [path if group == recordings.keys[row] else group, shortest(segments.durations_s[row])]
        for label in labels:
            box = [shortest(label.low_hz), shortest(label.high_hz), shortest(label.score)]
            times = [shortest(label.onset_s), shortest(label.offset_s)]
            rows.append([path, *times, label.label, *box, *told, *others])
    files.write_text(out, csv_text(rows))
    unlabelled = out.with_name(LISTS[1])
    if segments.unlabelled or unlabelled.exists():
        files.write_csv(unlabelled, ("path",), ({"path": key} for key in segments.unlabelled))
    write_refused(out.parent, segments.refused)


def write_refused(folder: Path, refused: Sequence[Failure]) -> None:
    """failures.csv in a folder, where there is anything to list or an old list to empty."""
    if refused or (folder / failures.NAME).exists():
        failures.write(folder / failures.NAME, refused)
