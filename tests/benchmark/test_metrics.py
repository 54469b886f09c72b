import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from birdjepa.benchmark import metrics
from birdjepa.benchmark.bootstrap import Draws

pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=40)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pairs)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_equals_scikit_learn(drawn: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(drawn).T
    present = np.unique(truth)
    assert metrics.accuracy(truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted))
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(
        reference.balanced_accuracy_score(truth, predicted)
    )
    assert metrics.macro_f1(truth, predicted) == pytest.approx(
        reference.f1_score(truth, predicted, labels=present, average="macro", zero_division=0.0)
    )
    expected = reference.confusion_matrix(truth, predicted, labels=range(7))
    assert np.array_equal(metrics.confusion_matrix(truth, predicted, 7), expected)


def test_a_class_that_is_only_predicted_is_no_term_of_the_mean() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert metrics.macro_f1(truth, predicted) == pytest.approx((2 / 3 + 1) / 2)
    assert reference.f1_score(truth, predicted, average="macro") == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1])
def test_a_weight_means_so_many_copies(metric) -> None:
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 4, 30), generator.integers(0, 4, 30)
    counts = generator.integers(0, 4, (5, 30))
    counts[0, truth == 2] = 0  # a class can vanish from a resample
    copies = [float(metric(np.repeat(truth, row), np.repeat(predicted, row))) for row in counts]
    assert metric(truth, predicted, Draws(counts * 1.0, np.arange(30))) == pytest.approx(copies)


def test_no_example_is_an_error() -> None:
    empty = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="at least one example"):
        metrics.accuracy(empty, empty)
