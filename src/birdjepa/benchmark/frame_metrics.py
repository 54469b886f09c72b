"""Metrics of labelled frames: what is counted in each song, and the numbers that are made of the counts.

All metrics are ratios or tables of counts that add up over songs, so that a bootstrap resample of songs is one weighted
sum, and several seeds are pooled by adding.

Axes: b resamples | n songs | c classes, silence first | w tolerances | k clusters
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark import clusters, frames

TOLERANCES_MS = (5, 10, 20)
"""How far onset and offset of a segment that counts as found may be off."""


@dataclasses.dataclass(frozen=True, eq=False)
class SongCounts:
    """What the metrics are made of, per tested song."""

    ms: Int[np.ndarray, "n c"]
    """Milliseconds of each class."""
    wrong_ms: Int[np.ndarray, "n c"]
    parsing_ms: Int[np.ndarray, " n"]
    oracle_ms: Int[np.ndarray, " n"]
    """Milliseconds that the best label for each frame gets wrong."""
    true_segments: Int[np.ndarray, "n c"]
    predicted_segments: Int[np.ndarray, "n c"]
    found: Int[np.ndarray, "n w c"]
    edits: Int[np.ndarray, " n"]
    clusters: Int[np.ndarray, "n c k"]
    """Milliseconds of each class and cluster; k = 0 where the unsupervised part was not asked for."""
    purity: Float[np.ndarray, " n"]
    """Sum over the song's syllables."""
    n_queries: Int[np.ndarray, " n"]

    def __add__(self, other: "SongCounts") -> "SongCounts":
        names = [field.name for field in dataclasses.fields(self)]
        return SongCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


Metric = Callable[[SongCounts, Float[np.ndarray, "b n"]], Float[np.ndarray, " b"]]


def of_class(counts: SongCounts, label: int) -> dict[str, float]:
    """One class over all songs: its length and frame error, and of a sound also its segments and their F1."""
    total = int(counts.ms[:, label].sum())
    described = {
        "seconds": total / frames.RATE,
        "frame_error": int(counts.wrong_ms[:, label].sum()) / total if total else math.nan,
    }
    if label == frames.SILENCE:
        return described
    true, predicted = int(counts.true_segments[:, label].sum()), int(counts.predicted_segments[:, label].sum())
    found = counts.found[:, :, label].sum(axis=0).tolist()
    f1 = [2 * hits / (true + predicted) if true + predicted else math.nan for hits in found]
    scores = {f"segment_f1_{ms}ms": value for ms, value in zip(TOLERANCES_MS, f1, strict=True)}
    return {**described, "segments": float(true), **scores}


def _frame_error(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return weights @ counts.wrong_ms.sum(axis=1) / (weights @ counts.ms.sum(axis=1))


def _macro_frame_error(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    """Over the classes that sound in that resample."""
    total = weights @ counts.ms
    share = weights @ counts.wrong_ms / np.maximum(total, 1.0)
    return (share * (total > 0)).sum(axis=1) / (total > 0).sum(axis=1)


def _parsing_error(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return weights @ counts.parsing_ms / (weights @ counts.ms.sum(axis=1))


def _identity_error(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return _frame_error(counts, weights) - _parsing_error(counts, weights)


def _segment_f1(position: int) -> Metric:
    def metric(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
        claimed = weights @ (counts.true_segments + counts.predicted_segments).sum(axis=1)
        return 2 * (weights @ counts.found[:, position].sum(axis=1)) / np.maximum(claimed, 1.0)

    return metric


def _segment_share(position: int, of: str) -> Metric:
    def metric(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
        whole = weights @ getattr(counts, of).sum(axis=1)
        return weights @ counts.found[:, position].sum(axis=1) / np.maximum(whole, 1.0)

    return metric


def _syllable_error_rate(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return weights @ counts.edits / np.maximum(weights @ counts.true_segments.sum(axis=1), 1.0)


def _oracle(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return weights @ counts.oracle_ms / (weights @ counts.ms.sum(axis=1))


def _v_measure(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return clusters.v_measure(np.einsum("bn,nck->bck", weights, counts.clusters))


def _ari(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return clusters.adjusted_rand_index(np.einsum("bn,nck->bck", weights, counts.clusters))


def _knn_purity(counts: SongCounts, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, " b"]:
    return weights @ counts.purity / np.maximum(weights @ counts.n_queries, 1.0)


UNSUPERVISED: dict[str, Metric] = {"v_measure": _v_measure, "ari": _ari, "knn_purity": _knn_purity}
METRICS: dict[str, Metric] = {
    "oracle_frame_error": _oracle,
    "frame_error": _frame_error,
    "macro_frame_error": _macro_frame_error,
    "parsing_error": _parsing_error,
    "identity_error": _identity_error,
    **{f"segment_f1_{ms}ms": _segment_f1(position) for position, ms in enumerate(TOLERANCES_MS)},
    **{
        f"segment_{share}_{ms}ms": _segment_share(position, of)
        for share, of in (("precision", "predicted_segments"), ("recall", "true_segments"))
        for position, ms in enumerate(TOLERANCES_MS)
    },
    "syllable_error_rate": _syllable_error_rate,
    **UNSUPERVISED,
}
"""All but the F1, precision, recall, v_measure, ari and knn_purity are errors: less is better."""
