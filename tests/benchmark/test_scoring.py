import json
import math

import numpy as np
import pytest
from sklearn import metrics as reference

from birdjepa.benchmark import metrics
from birdjepa.benchmark.multilabel import CONVENTIONS, METRIC_VERSION, evaluate_scores
from birdjepa.benchmark.scoring import score
from birdjepa.core.errors import UsageError

CLASSES = ["wren", "robin", "crow", "owl"]
GROUPS = [f"recording {i // 5}" for i in range(60)]


def multi_label() -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth; nobody hears an owl, a third of the examples are no-calls."""
    generator = np.random.default_rng(0)
    truth = (generator.random((60, 4)) < 0.3).astype(np.int64)
    truth[::3], truth[:, 3] = 0, 0
    return generator.normal(size=(60, 4)) + truth, truth


def single_label() -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth; no example is a crow, and no crow is predicted."""
    generator = np.random.default_rng(1)
    truth = np.eye(4, dtype=np.int64)[generator.choice([0, 1, 3], 60)]
    scores = generator.normal(size=(60, 4)) + 1.5 * truth
    scores[:, 2] = -9
    return scores, truth


def test_a_multi_label_test_set() -> None:
    scores, truth = multi_label()
    found = score(scores, truth, GROUPS, "multi-label", classes=CLASSES, seed=0, n_resamples=300)
    assert list(found.metrics) == list(CONVENTIONS)
    assert found.counts == {
        "n_examples": 60,
        "n_labelled": int(truth.any(axis=1).sum()),
        "n_groups": 12,
        "n_classes": 4,
        "n_classes_scored": 3,
        "n_classes_scored_auroc": 3,
    }
    assert found.counts["n_labelled"] < 60
    ap = found.per_class["ap"]
    assert ap["robin"] == pytest.approx(reference.average_precision_score(truth[:, 1], scores[:, 1]))
    assert math.isnan(ap["owl"])
    assert math.isnan(found.per_class["auroc"]["owl"])
    assert np.nanmean(list(ap.values())) == pytest.approx(found.metrics["cmap"].value)
    assert sum(map(np.nan_to_num, ap.values())) / 4 == pytest.approx(found.metrics["map_beans"].value)
    for estimate in found.metrics.values():
        assert estimate.low < estimate.value < estimate.high
    before = evaluate_scores(scores, truth, GROUPS, classes=CLASSES, seed=0, n_resamples=300)
    assert (before.cmap, before.auroc, before.top1) == tuple(found.metrics[name] for name in ("cmap", "auroc", "top1"))


def test_a_single_label_test_set() -> None:
    scores, truth = single_label()
    found = score(scores, truth, GROUPS, "single-label", classes=CLASSES, seed=0, n_resamples=300)
    true, predicted = truth.argmax(1), scores.argmax(1)
    assert list(found.metrics) == list(metrics.METRICS)
    assert found.metrics["accuracy"].value == pytest.approx(reference.accuracy_score(true, predicted))
    assert found.metrics["balanced_accuracy"].value == pytest.approx(reference.balanced_accuracy_score(true, predicted))
    precision, recall, f1, _ = reference.precision_recall_fscore_support(true, predicted, labels=[0, 1, 3])
    for name, expected in (("recall", recall), ("precision", precision), ("f1", f1)):
        assert [found.per_class[name][c] for c in ("wren", "robin", "owl")] == pytest.approx(expected.tolist())
        assert math.isnan(found.per_class[name]["crow"])
    assert found.metrics["macro_f1"].value == pytest.approx(f1.mean())
    assert found.counts["n_classes_scored"] == 3
    assert "n_classes_scored_auroc" not in found.counts


def test_intervals_are_those_of_resampled_recordings() -> None:
    scores, truth = single_label()
    found = score(scores, truth, GROUPS, "single-label", classes=CLASSES, seed=0, n_resamples=4000)
    right = (truth.argmax(1) == scores.argmax(1)).reshape(12, 5).mean(1)
    width = found.metrics["accuracy"].high - found.metrics["accuracy"].low
    assert width == pytest.approx(2 * 1.96 * right.std() / 12**0.5, rel=0.1)


def test_json_has_null_for_what_cannot_be_scored() -> None:
    scores, truth = multi_label()
    found = score(scores, truth, ["one"] * 60, "multi-label", classes=CLASSES, seed=0)
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert read["per_class"]["ap"]["owl"] is None
    assert read["metrics"]["cmap"]["low"] is None  # a single recording cannot be resampled
    assert read["metric_version"] == METRIC_VERSION


def test_bad_input_is_refused() -> None:
    scores, truth = single_label()
    two = truth.copy()
    two[7] = 1
    settings = {"classes": CLASSES, "seed": 0}
    with pytest.raises(UsageError, match=r"one label per example.*row 7"):
        score(scores, two, GROUPS, "single-label", **settings)
    with pytest.raises(UsageError, match="not finite"):
        score(scores * np.inf, truth, GROUPS, "single-label", **settings)
    with pytest.raises(ValueError, match="differ"):
        score(scores, truth, GROUPS, "single-label", classes=["a", "b", "c", "a"], seed=0)
