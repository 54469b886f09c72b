"""General audio, as A-JEPA's table has it: environmental sounds, spoken words, speakers, AudioSet's balanced part."""

import functools
from collections.abc import Sequence

import numpy as np

from birdjepa.benchmark.tasks.base import Examples, Part, Task
from birdjepa.benchmark.tasks.common import by_fold, by_split, names_of, truth_of
from birdjepa.data.loader import row_labels
from birdjepa.data.manifest import Manifest


def read(manifests: Sequence[Manifest], *, clip_s: float | None, folds: str) -> Examples:
    """One example for each row: its first seconds. Divided by the column that `folds` names, else by split."""
    (manifest,) = manifests
    n = len(manifest)
    labels = [row_labels(manifest, row) for row in range(n)]
    classes = tuple(sorted({name for names in labels for name in names}))
    truth = truth_of(labels, classes)
    groups = tuple(manifest.columns["group"])
    crossed = by_fold(manifest.column(folds)) if folds else ()
    parts: tuple[Part, ...] = crossed or (by_split(manifest.columns["split"], truth, groups),)
    return Examples(
        manifest=manifest,
        row=np.arange(n),
        onset_s=np.array(manifest.onset_s, dtype=np.float64),
        length_s=lengths(manifest, clip_s),
        truth=truth,
        classes=classes,
        groups=groups,
        ids=tuple(_with_onset(names_of(manifest.keys), manifest)),
        parts=parts,
    )


def lengths(manifest: Manifest, clip_s: float | None) -> np.ndarray:
    """Seconds to hear of each row: its own length, or up to the recording's end (NaN), and clip_s at most."""
    own = np.array(manifest.offset_s - manifest.onset_s, dtype=np.float64)
    return own if clip_s is None else np.fmin(own, clip_s)


def _with_onset(names: Sequence[str], manifest: Manifest) -> list[str]:
    """Names that tell segments of one recording apart."""
    ends = zip(names, manifest.onset_s, manifest.offset_s, strict=True)
    return [name if onset == 0 and offset != offset else f"{name}@{onset:g}-{offset:g}" for name, onset, offset in ends]


def _task(name: str, title: str, clip_s: float, *, folds: str = "") -> Task:
    return Task(
        name=name,
        suite="general",
        title=title,
        kind="single-label",
        metric="accuracy",
        datasets=(name,),
        read=functools.partial(read, clip_s=clip_s, folds=folds),
    )


TASKS = (
    _task("esc10", "ESC-10: environmental sounds in five folds", 5.0, folds="fold"),
    _task("esc50", "ESC-50: environmental sounds in five folds", 5.0, folds="fold"),
    _task("speech-commands-v1", "Speech Commands v1: 30 words", 1.0),
    _task("speech-commands-v2", "Speech Commands v2: 35 words", 1.0),
    _task("voxceleb1", "VoxCeleb1: who speaks", 10.0),
    Task(
        name="audioset-20k",
        suite="general",
        title="AudioSet, trained on its balanced part",
        kind="multi-label",
        metric="map",
        datasets=("audioset-20k",),
        read=functools.partial(read, clip_s=10.0, folds=""),
        notes=("many of its videos are gone: say how many clips there were",),
    ),
)
