"""A user's own labelled recordings as a task: two lines of TOML.

    [tasks.my-frogs]
    data = "frogs/labels.csv"

One label a row makes a single-label task, several (column `labels`) a multi-label one. The column `fold`, or else
`split`, divides the examples; `folds` names another. Labelled syllables (`protocol = "frames"`) have a row for each.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from birdjepa.benchmark.folds import TRAIN_SPLITS
from birdjepa.benchmark.tasks import general, syllables
from birdjepa.benchmark.tasks.base import Examples, Kind, Protocol, Task
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import row_labels
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import open_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTask:
    """What a table `[tasks.NAME]` says."""

    data: str
    """DATA with labels; a relative path is relative to the TOML file's folder."""
    title: str = ""
    suite: str = "own"
    """Tasks of one suite are shown together."""
    task_type: Literal["auto", "single-label", "multi-label"] = "auto"
    """auto: multi-label if any row has several labels. Rows without a label are no-calls of a task that is said to be
    multi-label, and left out of others."""
    metric: str = ""
    """By default accuracy or cmap; for syllables macro_frame_error."""
    clip_s: float | None = 5.0
    """Longest stretch of a row that is heard, from its onset; null for all of it."""
    folds: str = ""
    """Column of folds or of train / val / test; by default fold, or else split (of syllables, three folds are made)."""
    only: str = ""
    """Pattern that the path of a row must match, such as "bird0/*"; empty for any."""
    skip: tuple[str, ...] = ()
    """Paths of recordings that are left out."""
    without: tuple[str, ...] = ()
    """Labels whose rows are left out."""
    protocol: Protocol = "classify"

    def __post_init__(self) -> None:
        if self.clip_s is not None and not self.clip_s > 0:
            raise ValueError(f"clip_s must be positive seconds, got {self.clip_s}")


def own_task(name: str, spec: OwnTask) -> Task:
    """The task of a table.

    Raises:
      UsageError: if its DATA cannot be opened.
    """
    kind: Kind = _kind(open_data(spec.data)) if spec.task_type == "auto" else spec.task_type
    usual = {"classify": {"single-label": "accuracy", "multi-label": "cmap"}[kind], "retrieve": "species_auroc"}
    return Task(
        name=name,
        suite=spec.suite,
        title=spec.title or name,
        kind=kind,
        metric=spec.metric or usual.get(spec.protocol, syllables.METRIC),
        datasets=(spec.data,),
        read=functools.partial(read, spec=spec),
        protocol=spec.protocol,
    )


def read(manifests: Sequence[Manifest], *, spec: OwnTask) -> Examples:
    """Its labelled rows.

    Raises:
      UsageError: if there are none, or no column that divides them.
    """
    (manifest,) = manifests
    if spec.protocol == "frames":
        return syllables.read([manifest], only=spec.only, skip=spec.skip, without=spec.without, folds=spec.folds)
    manifest = manifest.select([row for row in range(len(manifest)) if _is_wanted(manifest, row, spec)])
    column = spec.folds or ("fold" if any(manifest.columns["fold"]) else "split")
    values, may_be_none = manifest.column(column), spec.task_type == "multi-label"
    rows = [row for row, value in enumerate(values) if value and (may_be_none or row_labels(manifest, row))]
    if not rows:
        raise UsageError(f"{manifest.name}: no row has a label and a value in column {column!r}")
    kept = manifest.select(rows)
    is_split = bool({value.strip().lower() for value in kept.columns[column]} & set(TRAIN_SPLITS))
    if is_split:
        kept = dataclasses.replace(kept, columns={**kept.columns, "split": kept.columns[column]})
    return general.read([kept], clip_s=spec.clip_s, folds="" if is_split else column)


def _is_wanted(manifest: Manifest, row: int, spec: OwnTask) -> bool:
    key = manifest.keys[row]
    is_named = key not in spec.skip and (not spec.only or fnmatch.fnmatch(key, spec.only))
    return is_named and manifest.columns["label"][row] not in spec.without


def _kind(manifest: Manifest) -> Kind:
    """Several labels in any row make a multi-label task."""
    n_labels = np.array([len(row_labels(manifest, row)) for row in range(len(manifest))])
    if not n_labels.any():
        raise UsageError(f"{manifest.name}: no row has a label; a task needs a column label or labels")
    return "multi-label" if (n_labels > 1).any() else "single-label"
