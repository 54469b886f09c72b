"""A manifest: the table of recordings or labelled segments that everything else reads, one row each.

Rows become a manifest by `manifest_of`, whatever they came from. A row that makes no sense (no path, a time that is no
number) is left out and listed, up to a stated share of them; more than that refuses the whole.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from birdjepa.audio.source import Source
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.shards import Shards
from birdjepa.data.tables import Rows

NAMED = ("label", "labels", "split", "fold", "group", "detected_events")
"""Columns of text that every manifest has under these names."""
_MS = "_ms"
"""Ending of the names of columns in milliseconds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """Names of a manifest's columns; fields inside others by dots (json.speaker_id). A column that is not there reads
    as empty; one of times whose name ends in _ms is in milliseconds."""

    path: str = "path"
    audio: str = "audio"
    """Where shards hold the sound: a column with an encoded file's bytes, or the suffix of a tar's members (mp3)."""
    label: str = "label"
    labels: str = "labels"
    """Several labels of one row, separated by ';'."""
    onset_s: str = "onset_s"
    offset_s: str = "offset_s"
    split: str = "split"
    fold: str = "fold"
    group: str = "group"
    """What must not be on both sides of a split: the recording, the bird, the site. Falls back to split_group, then to
    the path."""
    duration_s: str = "duration_s"
    detected_events: str = "detected_events"
    """Stretches of the recording where something sounds, as "onset-offset;onset-offset" in seconds."""
    max_malformed: float = 0.01
    """Share of a manifest's rows that may make no sense before all of it is refused."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_malformed < 1:
            raise ValueError(f"max_malformed must be in [0, 1), got {self.max_malformed}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Recordings or segments of one source, a row each; all columns are as long as `keys`."""

    name: str
    """DATA as the user gave it."""
    root: Path
    """What `keys` are relative to."""
    keys: list[str]
    """Path of each row as the manifest spells it."""
    onset_s: Float[np.ndarray, " n"]
    """Start of the labelled stretch in seconds; 0 for a whole recording."""
    offset_s: Float[np.ndarray, " n"]
    """End of the labelled stretch; NaN for a whole recording."""
    duration_s: Float[np.ndarray, " n"]
    """Length of the recording as the manifest claims it; NaN where it does not."""
    columns: dict[str, list[str]]
    """Every other column as text, and those of NAMED."""
    shards: Shards | None = None
    """What holds the recordings where they are no files of their own."""
    place: Int[np.ndarray, " n"] | None = None
    """Number of each row's recording in the shards."""
    refused: tuple[LabelError, ...] = ()
    """Rows that were left out because they make no sense."""

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, row: int) -> Path:
        """What a row's recording is called; in shards, the path that it would have if they were folders."""
        return self.root / self.keys[row]

    def source(self, row: int) -> Source:
        """What to hand to the decoder."""
        if self.shards is None or self.place is None:
            return self.path(row)
        return self.shards.source(int(self.place[row]), str(self.path(row)))

    def fetched_source(self, row: int) -> Source:
        """What to hand to a decoder that must not wait for the network.

        Raises:
          UserError: if it cannot be brought to this machine.
        """
        if self.shards is not None and self.place is not None:
            self.shards.files[int(self.shards.shard[int(self.place[row])])].local()
        return self.source(row)

    def shard_numbers(self) -> Int[np.ndarray, " n"] | None:
        """The shard of each row, if rows are best read shard by shard."""
        if self.shards is None or self.place is None or self.shards.random_access:
            return None
        return self.shards.shard[self.place]

    def here(self) -> "Manifest":
        """The rows that can be read without fetching anything."""
        if self.shards is None or self.place is None or self.shards.at_hand:
            return self
        is_here = np.array([file.is_here() for file in self.shards.files])
        found = self.select(np.flatnonzero(is_here[self.shards.shard[self.place]]))
        return dataclasses.replace(found, shards=self.shards.here())

    def by_shard(self) -> "Manifest":
        """The manifest with its rows shard by shard, where they lie in shards."""
        return self if self.place is None else self.select(np.argsort(self.place, kind="stable"))

    def column(self, name: str) -> list[str]:
        """A column of text.

        Raises:
          UsageError: if the manifest has no such column, or nothing in it.
        """
        if not any(self.columns.get(name, [])):
            there = ", ".join(sorted(column for column, values in self.columns.items() if any(values)))
            raise UsageError(f"{self.name} has no column {name!r}; it has {there or 'only paths'}")
        return self.columns[name]

    def select(self, rows: Sequence[int] | np.ndarray) -> "Manifest":
        """The manifest of some rows, in the order given."""
        index = [int(row) for row in rows]
        return dataclasses.replace(
            self,
            keys=[self.keys[row] for row in index],
            onset_s=self.onset_s[index],
            offset_s=self.offset_s[index],
            duration_s=self.duration_s[index],
            columns={name: [values[row] for row in index] for name, values in self.columns.items()},
            place=None if self.place is None else self.place[index],
        )

    def recordings(self) -> "Manifest":
        """One row per recording: segments of the same path are merged into the whole recording."""
        first = list({key: row for row, key in reversed(list(enumerate(self.keys)))}.values())
        chosen = self.select(sorted(first))
        whole = np.full(len(chosen), np.nan)
        return dataclasses.replace(chosen, onset_s=np.zeros(len(chosen)), offset_s=whole)

    def fingerprint(self) -> str:
        """Hash of what the rows say and of the sizes of files and shards: which data a result was made from. 16 hex
        digits.
        """
        digest = hashlib.sha256()
        for row, key in enumerate(self.keys):
            times = (self.onset_s[row], self.offset_s[row], self.duration_s[row])
            labels = (self.columns["label"][row], self.columns["labels"][row])
            size = self.size(row)
            digest.update("\0".join(map(str, (key, *times, *labels, size))).encode("utf-8", "surrogateescape") + b"\n")
        if self.shards is not None:
            digest.update("\0".join(file.identity() for file in self.shards.files).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def size(self, row: int) -> int:
        """Bytes of a row's recording, -1 where it is missing; in shards, its place in them."""
        if self.shards is not None and self.place is not None:
            return int(self.place[row])  # the shards' own sizes tell whether that is still the same recording
        try:
            return self.path(row).stat().st_size
        except OSError:
            return -1


def manifest_of(
    name: str,
    root: Path,
    rows: Rows,
    columns: ColumnConfig,
    *,
    shards: Shards | None = None,
    place: Sequence[int] | np.ndarray | None = None,
) -> Manifest:
    """The manifest of rows whose paths are relative to root; place numbers their recordings in the shards.

    Raises:
      LabelError: the first row that makes no sense, if they are more than columns.max_malformed of all.
    """
    read = [_times(row, columns) for row in rows.good]
    kept = []
    for number, (row, times) in enumerate(zip(rows.good, read, strict=True)):
        key = row.get(columns.path, "")
        if not key or "\0" in key:
            rows.refuse(rows.where[number], "no path")
        elif isinstance(times, str):
            rows.refuse(rows.where[number], times)
        else:
            kept.append(number)
    n_rows = len(kept) + len(rows.bad)
    if not n_rows:
        raise UsageError(f"{name}: the manifest has no rows")
    if len(rows.bad) > columns.max_malformed * n_rows or not kept:
        first = rows.bad[0]
        more = f" (and {len(rows.bad) - 1} more of {n_rows} rows make no sense)" if len(rows.bad) > 1 else ""
        raise LabelError(first.path, first.offset_s, first.reason + more)
    good = [rows.good[number] for number in kept]
    times = np.array([read[number] for number in kept], dtype=float)
    keys = [row[columns.path] for row in good]
    spelt = (columns.label, columns.labels, columns.split, columns.fold, columns.group, columns.detected_events)
    named = {name: [row.get(column, "") for row in good] for name, column in zip(NAMED, spelt, strict=True)}
    named["labels"] = [labels or label for labels, label in zip(named["labels"], named["label"], strict=True)]
    named["group"] = [
        group or row.get("split_group", "") or key for group, row, key in zip(named["group"], good, keys, strict=True)
    ]
    others = dict.fromkeys(column for row in good for column in row if column not in named)
    return Manifest(
        name=name,
        root=root,
        keys=keys,
        onset_s=times[:, 0],
        offset_s=times[:, 1],
        duration_s=times[:, 2],
        columns={**{column: [row.get(column, "") for row in good] for column in others}, **named},
        shards=shards,
        place=None if place is None else np.asarray(place)[kept],
        refused=tuple(rows.bad),
    )


def _times(row: Mapping[str, str], columns: ColumnConfig) -> tuple[float, float, float] | str:
    """Onset, offset and duration of a row in seconds, or what is wrong with them."""
    values = []
    for column, absent in ((columns.onset_s, 0.0), (columns.offset_s, math.nan), (columns.duration_s, math.nan)):
        text = row.get(column, "")
        value = _seconds(text, absent, is_ms=column.endswith(_MS))
        if value is None:
            return f"{column}={text!r} is no time (with a decimal point)"
        values.append(value)
    onset_s, offset_s, duration_s = values
    if offset_s <= onset_s:  # false for NaN
        return f"onset_s={onset_s:g}, offset_s={offset_s:g}; need 0 <= onset < offset"
    return onset_s, offset_s, duration_s


def _seconds(text: str, absent: float, *, is_ms: bool) -> float | None:
    if not text or text.lower() == "nan":
        return absent
    try:
        value = float(text)
    except ValueError:
        return None
    return (value / 1000 if is_ms else value) if math.isfinite(value) and value >= 0 else None
