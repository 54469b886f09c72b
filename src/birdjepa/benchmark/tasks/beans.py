"""BEANS: seven sets to classify and five to detect in, with the benchmark's own windows and overlap rule.

Classification hears the first seconds of each recording. Detection cuts each file (at most 60 s) into windows every
hop, without the tail; a window has a class if an annotation of it overlaps the window by more than a fifth of the
shorter of the two, or covers it. The mean of average precisions is over all classes, and one without a positive counts
0, as the benchmark has it.

Source: Hagiwara et al., BEANS, arXiv 2210.12300, and its code.
"""

import functools
from collections.abc import Sequence

import numpy as np

from birdjepa.benchmark.tasks.base import Examples, Task
from birdjepa.benchmark.tasks.common import by_split, names_of, truth_of
from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.beans import SETS, Beans
from birdjepa.data.catalog.events import Event, read_events
from birdjepa.data.loader import row_labels
from birdjepa.data.manifest import Manifest

LONGEST_S = 60.0
LEAST_OVERLAP = 0.2


def read_classified(manifests: Sequence[Manifest], *, of: Beans) -> Examples:
    """One example for each recording: its first seconds."""
    (manifest,) = manifests
    n = len(manifest)
    truth = truth_of([row_labels(manifest, row) for row in range(n)], of.classes)
    groups = tuple(manifest.columns["group"])
    return Examples(
        manifest=manifest,
        row=np.arange(n),
        onset_s=np.zeros(n),
        length_s=np.full(n, of.clip_s),
        truth=truth,
        classes=of.classes,
        groups=groups,
        ids=tuple(names_of(manifest.keys)),
        parts=(by_split(manifest.columns["split"], truth, groups),),
    )


def read_detected(manifests: Sequence[Manifest], *, of: Beans) -> Examples:
    """One example for each window of each file.

    Raises:
      LabelError: at a row whose events or duration cannot be read.
    """
    (manifest,) = manifests
    assert of.hop_s is not None
    cells = manifest.columns.get("events", [""] * len(manifest))
    row, onset, labels = [], [], []
    for number in range(len(manifest)):
        try:
            events = read_events(cells[number])
        except ValueError as error:
            raise LabelError(manifest.keys[number], 0.0, f"events: {error}") from None
        if not manifest.duration_s[number] > 0:
            raise LabelError(manifest.keys[number], 0.0, "no duration_s: prepare the manifest anew")
        for start in windows(float(manifest.duration_s[number]), of.clip_s, of.hop_s):
            row.append(number)
            onset.append(start)
            labels.append(sorted({event.label for event in events if overlaps(event, start, of.clip_s)}))
    names = names_of(manifest.keys)
    truth = truth_of(labels, of.classes)
    groups = tuple(manifest.columns["group"][each] for each in row)
    return Examples(
        manifest=manifest,
        row=np.array(row, dtype=np.int64),
        onset_s=np.array(onset, dtype=np.float64),
        length_s=np.full(len(row), of.clip_s),
        truth=truth,
        classes=of.classes,
        groups=groups,
        ids=tuple(f"{names[each]}@{start:g}" for each, start in zip(row, onset, strict=True)),
        parts=(by_split([manifest.columns["split"][each] for each in row], truth, groups),),
    )


def windows(duration_s: float, window_s: float, hop_s: float) -> list[float]:
    """Starts of a file's windows in seconds. A file that is shorter than a window by less than a hop has one."""
    n = int((min(duration_s, LONGEST_S) - window_s) / hop_s) + 1
    return [number * hop_s for number in range(n)]


def overlaps(event: Event, start_s: float, window_s: float) -> bool:
    """Whether an annotation makes its class positive in the window [start_s, start_s + window_s).

    Where one of its ends lies in the window, it must share more than LEAST_OVERLAP of the shorter of both; one without
    length never counts.
    """
    end_s, length_s = start_s + window_s, event.offset_s - event.onset_s
    if length_s <= 0:
        return False
    if event.onset_s <= start_s and event.offset_s >= end_s:
        return True
    shared = min(event.offset_s, end_s) - max(event.onset_s, start_s)
    return shared > 0 and shared / min(window_s, length_s) > LEAST_OVERLAP


def _task(of: Beans) -> Task:
    classified = of.hop_s is None
    return Task(
        name=f"beans-{of.name}",
        suite="beans",
        title=f"BEANS {of.name}: {of.title}",
        kind="single-label" if classified else "multi-label",
        metric="accuracy" if classified else "map_beans",
        datasets=(f"beans-{of.name}",),
        read=functools.partial(read_classified if classified else read_detected, of=of),
        sampling_rate=of.sampling_rate,
        notes=tuple(of.notes),
    )


TASKS = tuple(_task(of) for of in SETS)
