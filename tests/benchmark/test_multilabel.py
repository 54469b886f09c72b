import json
import math
from importlib import metadata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision

from birdjepa.benchmark.bootstrap import Draws
from birdjepa.benchmark.multilabel import (
    CONVENTIONS,
    evaluate_scores,
    macro_auroc,
    mean_average_precision,
    multi_label_metrics,
    top_k_accuracy,
)
from birdjepa.core.errors import UsageError

METRICS = [mean_average_precision, macro_auroc, top_k_accuracy]
each_metric = pytest.mark.parametrize("metric", METRICS)


def drawn(n: int = 40, n_classes: int = 4, levels: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of few levels, hence many ties."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((n, n_classes)) < 0.3).astype(np.int64)
    return truth, np.round(generator.random((n, n_classes)) * levels + truth) / levels


def expected(metric, truth: np.ndarray, scores: np.ndarray) -> float:
    if metric is top_k_accuracy:
        hits = [row[score.argmax()] for row, score in zip(truth, scores, strict=True) if row.any()]
        return float(np.mean(hits)) if hits else math.nan
    use = truth.any(axis=0)
    theirs = reference.average_precision_score
    if metric is macro_auroc:
        use, theirs = use & ~truth.all(axis=0), reference.roc_auc_score
    return float(theirs(truth[:, use], scores[:, use], average="macro")) if use.any() else math.nan


@each_metric
@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 25), st.integers(1, 4), st.sampled_from([1, 2, 5, 1000]), st.integers(0, 10**6))
def test_equals_scikit_learn_with_ties_and_missing_classes(metric, n: int, n_classes: int, levels: int, seed: int):
    truth, scores = drawn(n, n_classes, levels, seed)
    assert metric(truth, scores) == pytest.approx(expected(metric, truth, scores), nan_ok=True)


def test_classes_without_a_positive_or_a_negative_example_enter_no_mean() -> None:
    truth, scores = drawn()
    without = truth.copy()
    without[:, 1] = 0
    kept = [0, 2, 3]
    for metric in (mean_average_precision, macro_auroc):
        assert metric(without, scores) == pytest.approx(metric(truth[:, kept], scores[:, kept]))
    full = truth.copy()
    full[:, 1] = 1
    assert macro_auroc(full, scores) == pytest.approx(macro_auroc(truth[:, kept], scores[:, kept]))
    assert mean_average_precision(full[:, [1]], scores[:, [1]]) == 1


@each_metric
def test_a_weight_means_so_many_copies(metric) -> None:
    truth, scores = drawn()
    counts = np.random.default_rng(1).integers(0, 4, (6, 40))
    counts[0, truth[:, 2] == 1] = 0  # a class can vanish from a resample
    counts[1, truth[:, 2] == 0] = 0  # or its opposite
    copies = [float(metric(np.repeat(truth, row, 0), np.repeat(scores, row, 0))) for row in counts]
    assert metric(truth, scores, Draws(counts * 1.0, np.arange(40))) == pytest.approx(copies)
    assert copies == pytest.approx(
        [expected(metric, np.repeat(truth, row, 0), np.repeat(scores, row, 0)) for row in counts]
    )


@each_metric
def test_the_order_of_examples_changes_nothing(metric) -> None:
    truth, scores = drawn()
    order = np.random.default_rng(2).permutation(40)
    assert metric(truth[order], scores[order]) == metric(truth, scores)


@each_metric
def test_perfect_scores_are_one_and_a_resample_without_labels_is_nan(metric) -> None:
    truth, _ = drawn()
    assert metric(truth, truth * 1.0) == 1
    draws = Draws(np.stack([np.ones(40), ~truth.any(axis=1)]), np.arange(40))
    assert np.isnan(metric(truth, truth * 1.0, draws)).tolist() == [False, True]


def test_scores_without_meaning_are_at_chance() -> None:
    truth, scores = drawn(3000, levels=10**6)
    scores = scores[::-1]
    assert macro_auroc(truth, scores) == pytest.approx(0.5, abs=0.03)
    assert mean_average_precision(truth, scores) == pytest.approx(0.3, abs=0.03)
    constant = np.zeros_like(scores)
    assert macro_auroc(truth, constant) == 0.5
    assert mean_average_precision(truth, constant) == pytest.approx(truth.mean())


def test_no_example_is_an_error() -> None:
    empty = np.zeros((0, 3), dtype=np.int64)
    with pytest.raises(ValueError, match="at least one example"):
        mean_average_precision(empty, empty * 1.0)


def test_by_hand_with_an_empty_class_a_full_class_and_a_no_call() -> None:
    truth = np.array([[1, 0, 1, 0], [0, 0, 1, 0], [1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]])
    truth = np.concatenate([truth[:, :2], truth[:, 3:], truth[:, 2:3]], axis=1)  # empty: 1, full: 3
    truth[3] = [0, 0, 0, 1]
    scores = np.array([[4.0, 9.0, 1.0, 0.0], [3.0, 0, 5.0, 9.0], [2, 0, 4, 1], [1, 0, 3, 0], [0, 0, 2, 1]])
    found = multi_label_metrics(truth, scores)
    ap = [(1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, 1.0]
    auroc = [(3 + 2) / (2 * 3), (2 + 1) / (2 * 3)]
    assert found["cmap"] == pytest.approx(sum(ap) / 3)
    assert found["map"] == found["cmap"]
    assert found["map_beans"] == pytest.approx(sum(ap) / 4)
    assert found["auroc"] == pytest.approx(sum(auroc) / 2)
    assert found["auroc_torchmetrics_1_2"] == pytest.approx(sum(auroc) / 4)
    assert list(found) == list(CONVENTIONS)


def test_no_calls_count_in_rankings_and_not_in_top_k() -> None:
    truth = np.array([[1, 0], [0, 1], [0, 0]])
    scores = np.array([[2.0, 1.0], [3.0, 2.0], [9.0, 0.0]])
    found = multi_label_metrics(truth, scores)
    assert found["top1"] == 1 / 2  # of the two labelled ones; the no-call is no miss
    assert found["top3"] == 1
    without = multi_label_metrics(truth[:2], scores[:2])
    assert without["top1"] == found["top1"]
    assert (found["cmap"], without["cmap"]) == (pytest.approx((1 / 3 + 1) / 2), pytest.approx((1 / 2 + 1) / 2))


def test_top_k_takes_the_first_of_equal_classes() -> None:
    scores = np.zeros((4, 4))
    truth = np.eye(4, dtype=np.int64)
    assert [float(top_k_accuracy(truth, scores, k=k)) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    both = np.array([[1, 0, 0, 1]] * 4)
    assert top_k_accuracy(both, np.array([[0.0, 3.0, 2.0, 1.0]] * 4), k=3) == 1
    assert top_k_accuracy(both, np.array([[0.0, 3.0, 2.0, 1.0]] * 4), k=2) == 0


def test_classes_that_count_zero_are_those_of_the_whole_test_set() -> None:
    truth, scores = drawn()
    truth[:, 3] = 0
    counts = np.ones((1, 40))
    counts[0, truth[:, 2] == 1] = 0  # class 2 is missing from the resample, class 3 from the test set
    found = multi_label_metrics(truth, scores, Draws(counts, np.arange(40)))
    cmap = float(mean_average_precision(truth[counts[0] > 0][:, :2], scores[counts[0] > 0][:, :2]))
    assert found["cmap"] == pytest.approx([cmap])
    assert found["map_beans"] == pytest.approx([cmap * 3 / 4])


def with_odd_classes() -> tuple[np.ndarray, np.ndarray]:
    """No ties, an empty class and one in which all examples are positive."""
    truth, _ = drawn()
    truth[:, 1], truth[:, 3] = 0, 1
    return truth, np.random.default_rng(5).random(truth.shape)


def installed(package: str) -> tuple[int, int]:
    major, minor = metadata.version(package).split(".")[:2]
    return int(major), int(minor)


@pytest.mark.filterwarnings("ignore:No ")
def test_equals_torchmetrics_and_differs_by_its_empty_classes() -> None:
    truth, scores = with_odd_classes()
    ours = multi_label_metrics(truth, scores)
    both = [0, 2]

    def theirs(metric, classes: list[int]) -> float:
        table = torch.from_numpy(scores[:, classes]), torch.from_numpy(truth[:, classes])
        return float(metric(*table, len(classes), average="macro", thresholds=None))

    assert theirs(multilabel_average_precision, [0, 2, 3]) == pytest.approx(ours["cmap"], abs=1e-6)
    assert theirs(multilabel_auroc, both) == pytest.approx(ours["auroc"], abs=1e-6)
    counts_zero = installed("torchmetrics") >= (1, 4)  # earlier ones leave the empty class out of the mean
    expected = ours["map_beans"] if counts_zero else ours["cmap"]
    assert theirs(multilabel_average_precision, [0, 1, 2, 3]) == pytest.approx(expected, abs=1e-6)
    assert theirs(multilabel_auroc, [0, 1, 2, 3]) == pytest.approx(ours["auroc_torchmetrics_1_2"], abs=1e-6)
    assert ours["map_beans"] < ours["cmap"]
    assert ours["auroc_torchmetrics_1_2"] == pytest.approx(ours["auroc"] / 2)


def test_differs_from_scikit_learn_by_its_empty_classes() -> None:
    truth, scores = with_odd_classes()
    ours = multi_label_metrics(truth, scores)
    with pytest.warns(UserWarning, match="No positive class found"):
        theirs = reference.average_precision_score(truth, scores, average="macro")
    assert theirs == pytest.approx(ours["map_beans"])
    if installed("scikit-learn") < (1, 6):
        with pytest.raises(ValueError, match="Only one class"):
            reference.roc_auc_score(truth, scores, average="macro")
    else:
        with pytest.warns(UserWarning, match="Only one class"):
            assert math.isnan(reference.roc_auc_score(truth, scores, average="macro"))
    assert np.isfinite(ours["auroc"])


GROUPS = [f"g{i // 4}" for i in range(40)]
CLASSES = ["a", "b", "c", "d"]


def test_a_score_has_intervals_over_groups_and_is_json() -> None:
    truth, scores = drawn()
    score = evaluate_scores(scores, truth, GROUPS, classes=CLASSES, seed=0, n_resamples=200)
    for metric, estimate in zip(METRICS, (score.cmap, score.auroc, score.top1), strict=True):
        assert estimate.value == pytest.approx(expected(metric, truth, scores))
        assert estimate.low < estimate.value < estimate.high
    read = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert list(read) == [
        *("cmap", "auroc", "top1", "n_examples", "n_classes", "n_groups", "seed", "n_resamples", "confidence")
    ]
    assert (read["n_examples"], read["n_classes"], read["n_groups"], read["n_resamples"]) == (40, 4, 10, 200)
    assert evaluate_scores(scores, truth, GROUPS, classes=CLASSES, seed=0, n_resamples=200) == score
    order = np.random.default_rng(3).permutation(40)
    moved = evaluate_scores(
        scores[order], truth[order], [GROUPS[i] for i in order], classes=CLASSES, seed=0, n_resamples=200
    )
    assert moved.cmap.value == score.cmap.value
    assert moved.cmap.low == pytest.approx(score.cmap.low)


def test_where_no_interval_exists_it_is_null() -> None:
    truth, scores = drawn()
    truth[4:] = 0  # labels in one group only: resamples without it have nothing to score
    truth[:4] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    read = evaluate_scores(scores, truth, GROUPS, classes=CLASSES, seed=0, n_resamples=100).to_json()
    assert read["cmap"]["value"] is not None
    assert read["cmap"]["low"] is read["cmap"]["high"] is None
    everywhere = evaluate_scores(scores, np.ones_like(truth), GROUPS, classes=CLASSES, seed=0, n_resamples=100)
    assert everywhere.to_json()["auroc"] == {"value": None, "low": None, "high": None}


def test_bad_input_is_refused() -> None:
    truth, scores = drawn()

    def refused(error: type, match: str, scores=scores, truth=truth, groups=GROUPS, classes=CLASSES) -> None:
        with pytest.raises(error, match=match):
            evaluate_scores(scores, truth, groups, classes=classes, seed=0)

    broken = scores.copy()
    broken[3, 1] = np.nan
    refused(UsageError, "row 3", scores=broken)
    refused(UsageError, "row 5", groups=[*GROUPS[:5], "", *GROUPS[6:]])
    refused(UsageError, "nothing to score", truth=np.zeros_like(truth))
    refused(ValueError, "0 or 1", truth=truth + 1)
    refused(ValueError, "one column per class", classes=CLASSES[:3])
