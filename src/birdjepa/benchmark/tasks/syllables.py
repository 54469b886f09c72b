"""Syllables: every moment of an annotated song is labelled, for which fine time patches are made.

A manifest has a row for each syllable (path, onset_s, offset_s, label); an example here is a whole song. Folds are of
songs: the column `fold` (or train and test in `split`), or three that are made. Birds name their syllables each in
their own way, so a task is of one bird.
"""

import fnmatch
from collections.abc import Collection, Sequence

import numpy as np

from birdjepa.audio.labels import Label
from birdjepa.benchmark.folds import TRAIN_SPLITS, folds_by_group
from birdjepa.benchmark.tasks.base import Examples, Part, Task
from birdjepa.benchmark.tasks.common import by_fold, by_split, names_of, truth_of
from birdjepa.core.errors import UsageError
from birdjepa.data.catalog.birdsong_recognition import BIRDS
from birdjepa.data.manifest import Manifest

N_FOLDS = 3
METRIC = "macro_frame_error"


def read(
    manifests: Sequence[Manifest],
    *,
    only: str = "",
    skip: Collection[str] = (),
    without: Collection[str] = (),
    folds: str = "",
) -> Examples:
    """Songs whose path matches `only` and is not in `skip`. Labels in `without`, and blank ones, mark no syllable: such
    stretches are not scored.

    Raises:
      UsageError: if no song is left, or there are too few for folds.
    """
    (manifest,) = manifests
    rows_of: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    for row, key in enumerate(manifest.keys):
        if (
            key not in skip
            and (not only or fnmatch.fnmatch(key, only))
            and manifest.offset_s[row] > manifest.onset_s[row]
        ):
            label = manifest.columns["label"][row]
            (rows_of if label.strip() and label not in without else others).setdefault(key, []).append(row)
    if not rows_of:
        raise UsageError(
            f"{manifest.name}: no labelled syllable with onset_s and offset_s {f'in {only}' if only else ''}"
        )
    keys = sorted(rows_of)
    first = [rows_of[key][0] for key in keys]
    labels = tuple(_labels(manifest, rows_of[key]) for key in keys)
    classes = tuple(sorted({label.label for song in labels for label in song}))
    truth = truth_of([[label.label for label in song] for song in labels], classes)
    return Examples(
        manifest=manifest,
        row=np.array(first),
        onset_s=np.zeros(len(keys)),
        length_s=np.full(len(keys), np.nan),
        truth=truth,
        classes=classes,
        groups=tuple(keys),
        ids=tuple(names_of(keys)),
        parts=_parts(manifest, first, keys, truth, folds),
        labels=labels,
        unscored=tuple(_labels(manifest, others.get(key, ())) for key in keys),
    )


def _labels(manifest: Manifest, rows: Sequence[int]) -> tuple[Label, ...]:
    names = manifest.columns["label"]
    return tuple(sorted(Label(float(manifest.onset_s[row]), float(manifest.offset_s[row]), names[row]) for row in rows))


def _parts(
    manifest: Manifest, first: Sequence[int], keys: Sequence[str], truth: np.ndarray, folds: str
) -> tuple[Part, ...]:
    """Divisions by the column that is named, by `fold`, or three that are made."""
    column = folds or ("fold" if any(manifest.columns["fold"][row] for row in first) else "")
    if not column:
        made = folds_by_group([""] * len(keys), keys, N_FOLDS, seed=0)
        return by_fold([made.names[fold] for fold in made.fold])
    values = [manifest.column(column)[row] for row in first]
    is_split = bool({value.strip().lower() for value in values} & set(TRAIN_SPLITS))
    return (by_split(values, truth, keys),) if is_split else by_fold(values)


def _task(bird: str) -> Task:
    def read_bird(manifests: Sequence[Manifest]) -> Examples:
        return read(manifests, only=f"*{bird}/Wave/*")

    return Task(
        name=f"syllables-{bird.lower()}",
        suite="syllables",
        title=f"Bengalese finch {bird} of BirdsongRecognition: the syllable of every moment",
        kind="single-label",
        metric=METRIC,
        datasets=("birdsong-recognition",),
        read=read_bird,
        protocol="frames",
    )


TASKS = tuple(_task(bird) for bird in BIRDS)
