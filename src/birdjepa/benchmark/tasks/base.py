"""A task: what is heard, what is true of it, which parts learn and which are tested, and the metric that counts.

A task is one small module of this folder: where its data come from (the catalog's entries), its splits, its metric.
`read` turns the manifests of its data sets into examples: stretches of recordings with their truth. Nothing here
decodes audio, and no model is known here.

Axes: n examples | c classes
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from birdjepa.audio.labels import Label
from birdjepa.data.manifest import Manifest

Kind = Literal["single-label", "multi-label"]
Protocol = Literal["classify", "retrieve", "frames"]
"""classify: a classifier learns from the training part and scores the test part; retrieve: a few exemplars of each
class rank the test part; frames: every moment of a recording is labelled (syllables)."""


class Part(NamedTuple):
    """One division of the examples. A hold-out task has one, cross-validation one for each fold."""

    name: str
    train: Int[np.ndarray, " _"]
    validation: Int[np.ndarray, " _"]
    """Chooses hyper-parameters and when to stop; never trained on, never scored. May be empty."""
    test: Int[np.ndarray, " _"]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """All examples of a task, training and test; entry i of every array belongs to example i."""

    manifest: Manifest
    row: Int[np.ndarray, " n"]
    """Row of the manifest, which names the recording."""
    onset_s: Float[np.ndarray, " n"]
    """Where in the recording the example begins."""
    length_s: Float[np.ndarray, " n"]
    """How long it is; NaN up to the recording's end. What the recording lacks of it is padding."""
    truth: Int[np.ndarray, "n c"]
    """1 for each class that the example has; a row of zeros is a no-call."""
    classes: tuple[str, ...]
    """In the benchmark's official order."""
    groups: tuple[str, ...]
    """What is resampled as a whole: the recording."""
    ids: tuple[str, ...]
    """Unique names, the same on every machine."""
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know."""
    labels: tuple[tuple[Label, ...], ...] = ()
    """What sounds when in each example, for tasks that label every moment; else empty."""
    unscored: tuple[tuple[Label, ...], ...] = ()
    """Stretches of each of these that are neither silence nor anything with a class."""

    def __len__(self) -> int:
        return len(self.ids)

    def heard(self) -> str:
        """Hash of what a model hears: names, times and sizes of recordings. 16 hex digits."""
        return self._heard

    @functools.cached_property
    def _heard(self) -> str:
        """Asks the disk for every recording's size, once."""
        digest = hashlib.sha256("\0".join(self.ids).encode("utf-8", "surrogateescape"))
        sizes = [self.manifest.size(int(row)) for row in self.row]
        for array in (self.onset_s, self.length_s, np.array(sizes, dtype=np.int64)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def fingerprint(self) -> str:
        """Hash of what is heard, what is true of it and how it is divided: which data a result was made from. 16 hex
        digits.
        """
        digest = hashlib.sha256(self.heard().encode())
        digest.update("\0".join((*self.classes, *self.groups)).encode("utf-8", "surrogateescape"))
        digest.update(np.ascontiguousarray(self.truth, dtype=np.int8).tobytes())
        digest.update(repr([[label[:3] for label in song] for song in (*self.labels, *self.unscored)]).encode())
        for part in self.parts:
            digest.update(part.name.encode())
            for rows in part[1:]:
                digest.update(np.asarray(rows, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What `birdjepa benchmark --task NAME` runs."""

    name: str
    suite: str
    """The benchmark that it is a part of (birdset, beans, ...): what a leaderboard shows together."""
    title: str
    kind: Kind
    metric: str
    """Name of the headline metric, as `scoring` calls it."""
    datasets: tuple[str, ...]
    """Entries of the catalog whose manifests `read` takes; or DATA, for a user's own task."""
    read: Callable[[Sequence[Manifest]], Examples]
    """Raises UsageError or LabelError where the manifests are not what the task needs."""
    protocol: Protocol = "classify"
    sampling_rate: int | None = None
    """Of the source in Hz: a note warns of a model that hears much less of it."""
    notes: tuple[str, ...] = ()
