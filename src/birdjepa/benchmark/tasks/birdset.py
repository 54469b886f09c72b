"""BirdSet's eight tasks: focal recordings train, five-second stretches of soundscapes are tested, many labels each.

The test part is `test_5s` as its makers give it, each clip scored once. Clips without a label stay in: they are
negatives for cmAP and AUROC, and only top-1 leaves them out. Training clips are cut around the events that bambird
found: at most EVENTS of a recording, evenly over it, and at most CAP of a class, first events of all recordings first;
a recording without events gives its first five seconds. One in five training recordings is validation. Nothing is
augmented and no background is mixed in, so that embeddings can be kept: numbers of papers that do so are higher.

Source: Rauch et al., BirdSet, arXiv 2403.10380 (dedicated training); the caps are those of its authors' configurations.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdjepa.benchmark.tasks.base import Examples, Task
from birdjepa.benchmark.tasks.common import by_split, truth_of
from birdjepa.core.errors import UsageError
from birdjepa.data.catalog.birdset_tasks import TASKS
from birdjepa.data.catalog.birdset_tasks import Task as Source
from birdjepa.data.crops import parse_events
from birdjepa.data.loader import row_labels
from birdjepa.data.manifest import Manifest

CLIP_S = 5.0
EVENTS = 5
CAP = 500
TEST = "test_5s"


class _Clip(NamedTuple):
    row: int
    onset_s: float
    number: int
    """Which of the recording's clips."""


def read(manifests: Sequence[Manifest], *, source: Source) -> Examples:
    """Training and test clips of a task.

    Raises:
      UsageError: if the manifest lacks one of the two splits.
    """
    (manifest,) = manifests
    splits = manifest.columns["split"]
    recordings = [row for row, split in enumerate(splits) if split == "train"]
    tested = [_Clip(row, 0.0, 0) for row, split in enumerate(splits) if split == TEST]
    if not recordings or not tested:
        raise UsageError(f"{manifest.name}: {source.name} needs rows of split train and of split {TEST}")
    clips = [*_training_clips(manifest, recordings), *tested]
    truth = truth_of([row_labels(manifest, clip.row) for clip in clips], source.classes)
    groups = tuple(manifest.columns["group"][clip.row] for clip in clips)
    part = by_split([splits[clip.row] for clip in clips], truth, groups, test=(TEST,))
    untrained = [name for name, n in zip(source.classes, truth[part.train].sum(axis=0), strict=True) if n == 0]
    note = f"{len(untrained)} of {len(source.classes)} classes have no training clip: {', '.join(untrained[:5])}"
    return Examples(
        manifest=manifest,
        row=np.array([clip.row for clip in clips]),
        onset_s=np.array([clip.onset_s for clip in clips]),
        length_s=np.full(len(clips), CLIP_S),
        truth=truth,
        classes=source.classes,
        groups=groups,
        ids=tuple(f"{_name(manifest, clip.row)}{f'#{clip.number}' if clip.number else ''}" for clip in clips),
        parts=(part,),
        notes=(note,) if untrained else (),
    )


def _training_clips(manifest: Manifest, recordings: Sequence[int]) -> list[_Clip]:
    """At most EVENTS clips of a recording and CAP of a class, in an order that does not depend on the manifest's."""
    onsets = {row: _onsets(manifest.columns["detected_events"][row]) for row in recordings}
    shuffled = sorted(recordings, key=lambda row: hashlib.sha256(_name(manifest, row).encode()).digest())
    taken: Counter[str] = Counter()
    clips = []
    for number in range(EVENTS):
        for row in shuffled:
            label = manifest.columns["label"][row] or (row_labels(manifest, row) or [""])[0]
            if number < len(onsets[row]) and taken[label] < CAP:
                taken[label] += 1
                clips.append(_Clip(row, onsets[row][number], number))
    return sorted(clips, key=lambda clip: (clip.row, clip.number))


def _onsets(events: str) -> list[float]:
    """Where the clips of a recording begin: around its events, evenly chosen where there are many."""
    spans = parse_events(events)
    if not spans:
        return [0.0]
    chosen = np.unique(np.linspace(0, len(spans) - 1, min(EVENTS, len(spans))).round().astype(int))
    return [max(0.0, (spans[i][0] + spans[i][1] - CLIP_S) / 2) for i in chosen]


def _name(manifest: Manifest, row: int) -> str:
    """The last part of the path, which is unique in BirdSet and the same in all copies of it."""
    return manifest.keys[row].rpartition("/")[2]


def _task(source: Source) -> Task:
    return Task(
        name=source.name.lower(),
        suite="birdset",
        title=f"BirdSet {source.name}: {source.region}",
        kind="multi-label",
        metric="cmap",
        datasets=(f"birdset-{source.name.lower()}",),
        read=functools.partial(read, source=source),
        notes=source.notes,
    )


BIRDSET = tuple(_task(source) for source in TASKS if source.n_test_5s)
REGIONS = ("ssw", "uhh", "nes", "hsn", "sne", "per")
"""Whose soundscapes are those of BIRB."""
RETRIEVAL = tuple(
    Task(
        name=f"{task.name}-retrieval",
        suite="birb-style",
        title=f"{task.title}: focal exemplars rank its soundscape clips",
        kind="multi-label",
        metric="species_auroc",
        datasets=task.datasets,
        read=task.read,
        protocol="retrieve",
        notes=("built from BirdSet in the manner of BIRB, not BIRB itself", *task.notes),
    )
    for task in BIRDSET
    if task.name in (*REGIONS, "pow")
)
"""k exemplars a species (n_train), cosine to their mean; `pow-retrieval` is for choosing models."""
