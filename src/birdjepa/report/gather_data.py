"""Sources into summaries: how many recordings, hours, rates and labels, and under which licences."""

import collections
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from birdjepa.audio import decode
from birdjepa.audio.recording import AudioInfo
from birdjepa.core import random
from birdjepa.core.errors import AudioError
from birdjepa.data.manifest import Manifest
from birdjepa.report.contents import SourceSummary

LICENCE_COLUMNS = ("licence", "license")
N_LOOKED = 500
"""Recordings per source whose headers are read."""


def summarise(source: Manifest, fingerprint: str) -> SourceSummary:
    """One source. Hours come from the manifest where it tells every duration, else from up to `N_LOOKED` headers."""
    recordings = source.recordings()
    looked, infos = _look(recordings)
    claimed = recordings.duration_s
    known = not np.isnan(claimed).any()
    found = [info.duration_s for info in infos]
    seconds = claimed.sum() if known else sum(found) / max(1, len(found)) * len(recordings)
    rates = collections.Counter(info.sampling_rate for info in infos)
    labels = collections.Counter(label for label in source.columns["label"] if label)
    licences = collections.Counter(
        cell(recordings, LICENCE_COLUMNS, row) or "not stated" for row in range(len(recordings))
    )
    return SourceSummary(
        name=source.name,
        fingerprint=fingerprint,
        n_recordings=len(recordings),
        n_rows=len(source),
        hours=float(seconds) / 3600,
        hours_known=bool(known) or len(looked) == len(recordings),
        labels=dict(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        sampling_rates=dict(sorted(rates.items())),
        n_looked=len(infos),
        licences=_ordered(licences) if any(name in recordings.columns for name in LICENCE_COLUMNS) else {},
    )


def cell(source: Manifest, names: Sequence[str], row: int) -> str:
    """A row's text in the first of the columns that has some; empty where none has."""
    return next((text for name in names if name in source.columns and (text := source.columns[name][row])), "")


def _look(recordings: Manifest) -> tuple[list[int], list[AudioInfo]]:
    """Rows that were looked at, of those that are on this machine, and the headers of those that open."""
    recordings = recordings.here()
    n = len(recordings)
    chosen = random.generator(0, "report", "headers", n).choice(n, size=min(n, N_LOOKED), replace=False)
    rows = sorted(chosen.tolist())
    with ThreadPoolExecutor(max_workers=8) as pool:
        infos = list(pool.map(lambda row: _probe(recordings, row), rows))
    return rows, [info for info in infos if info is not None]


def _probe(recordings: Manifest, row: int) -> AudioInfo | None:
    try:
        return decode.probe(recordings.source(row))
    except AudioError:
        return None  # refused recordings are listed with their reasons by the run itself


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
