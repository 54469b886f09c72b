"""Classes in stored scores, on cases small enough to count by hand."""

import numpy as np
import pytest
from benchmark_examples import result

from birdjepa.report.contents import Absent
from birdjepa.report.examined import Examined, Rival, examine

CLASSES = np.array(["wren", "finch", "tit"])


def look(scores: list, truth: list) -> Examined:
    found = examine(result(), "ours", {"scores": np.array(scores), "truth": np.array(truth), "classes": CLASSES})
    assert isinstance(found, Examined)
    return found


def test_single_labels_become_a_confusion_matrix():
    found = look([[2, 1, 0], [0, 3, 1], [5, 1, 4]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert found.rivals == ()


def test_of_several_labels_the_highest_wrong_class_is_counted_where_it_is_above():
    truth = [[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    scores = [[1, 3, 2], [1, 0, 2], [1, 2, 0], [9, 9, 9]]
    found = look(scores, truth)
    assert found.confusion is None
    # wren: below tit in the first two, below finch in the third; finch is above tit; tit is never heard
    assert found.rivals == (Rival("wren", 3, "tit", 2), Rival("finch", 1, "", 0))


def test_undefined_scores_are_below_all_others():
    found = look([[np.nan, 1, 0], [1, 0, np.nan]], [[1, 0, 0], [0, 1, 1]])
    assert found.rivals == (Rival("wren", 1, "finch", 1), Rival("finch", 1, "wren", 1), Rival("tit", 1, "wren", 1))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"scores": np.zeros((2, 3)), "truth": np.zeros((2, 3))}, "no classes"),
        ({"scores": np.zeros((2, 3)), "truth": np.zeros((3, 3)), "classes": CLASSES}, "does not fit together"),
        ({"scores": np.zeros((0, 3)), "truth": np.zeros((0, 3)), "classes": CLASSES}, "does not fit together"),
    ],
)
def test_a_file_that_does_not_fit_says_so(arrays: dict, told: str):
    found = examine(result(), "ours", arrays)
    assert isinstance(found, Absent)
    assert told in found.reason
