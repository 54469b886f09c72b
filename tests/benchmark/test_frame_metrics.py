import math

import numpy as np
import pytest

from birdjepa.benchmark.frame_metrics import METRICS, SongCounts, of_class


def counts() -> SongCounts:
    return SongCounts(
        ms=np.array([[60, 40], [100, 0]]),
        wrong_ms=np.array([[6, 10], [5, 0]]),
        parsing_ms=np.array([12, 5]),
        oracle_ms=np.array([2, 0]),
        true_segments=np.array([[0, 4], [0, 2]]),
        predicted_segments=np.array([[0, 5], [0, 1]]),
        found=np.array([[[0, 1], [0, 2], [0, 3]], [[0, 0], [0, 0], [0, 1]]]),
        edits=np.array([3, 1]),
        clusters=np.array([[[60, 0], [0, 40]], [[100, 0], [0, 0]]]),
        purity=np.array([2.0, 1.0]),
        n_queries=np.array([4, 2]),
    )


def test_metrics_by_hand() -> None:
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    values = {name: metric(counts(), weights).tolist() for name, metric in METRICS.items()}
    assert values["oracle_frame_error"] == pytest.approx([2 / 200, 4 / 200])
    assert values["frame_error"] == pytest.approx([21 / 200, 32 / 200])
    assert values["parsing_error"] == pytest.approx([17 / 200, 24 / 200])
    assert values["identity_error"] == pytest.approx([4 / 200, 8 / 200])
    assert values["macro_frame_error"] == pytest.approx([(11 / 160 + 10 / 40) / 2, (6 / 60 + 10 / 40) / 2])
    assert values["segment_f1_5ms"] == pytest.approx([2 * 1 / 12, 2 * 2 / 18])
    assert values["segment_f1_20ms"] == pytest.approx([2 * 4 / 12, 2 * 6 / 18])
    assert values["segment_precision_10ms"] == pytest.approx([2 / 6, 4 / 10])
    assert values["segment_recall_10ms"] == pytest.approx([2 / 6, 4 / 8])
    assert values["syllable_error_rate"] == pytest.approx([4 / 6, 6 / 8])
    assert values["knn_purity"] == pytest.approx([0.5, 0.5])
    assert values["v_measure"] == pytest.approx([1.0, 1.0])
    assert values["ari"] == pytest.approx([1.0, 1.0])


def test_one_class_by_hand() -> None:
    assert of_class(counts(), 0) == {"seconds": 0.16, "frame_error": 11 / 160}
    sound = of_class(counts(), 1)
    assert sound["frame_error"] == 10 / 40
    assert sound["segments"] == 6
    assert sound["segment_f1_10ms"] == 2 * 2 / 12


def test_a_class_that_never_sounds_has_no_error() -> None:
    silent = counts() + counts()
    silent.ms[:, 1] = 0
    silent.true_segments[:, 1] = silent.predicted_segments[:, 1] = 0
    assert math.isnan(of_class(silent, 1)["frame_error"])
    assert math.isnan(of_class(silent, 1)["segment_f1_5ms"])
    assert METRICS["macro_frame_error"](silent, np.ones((1, 2))).tolist() == pytest.approx([11 / 160])


def test_seeds_are_pooled_by_adding() -> None:
    weights = np.array([[1.0, 3.0]])
    once, twice = counts(), counts() + counts()
    for name, metric in METRICS.items():
        if name != "ari":  # pairs of examples are not additive
            assert metric(twice, weights) == pytest.approx(metric(once, weights)), name
