"""A model's own classes beside a task's, and what a folder says of its licence."""

import numpy as np
import pytest
import torch

from birdjepa.benchmark.backbones.licence import licence_of
from birdjepa.benchmark.backbones.vocabulary import UNKNOWN, read_classes, restrict


def test_logits_are_found_by_name_and_unknown_classes_are_low():
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, -20.0, 1.0]])
    found = restrict(logits, ("robin", "none", "wren", "none"), ("wren", "crow", "none", "robin"))
    np.testing.assert_array_equal(found.logits, [[3, UNKNOWN, 4, 1], [-20, UNKNOWN, 1, 5]])
    assert found.unknown == ("crow",)
    with pytest.raises(ValueError, match="there are 1 classes for 4 logits"):
        restrict(logits, ("robin",), ("wren",))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.txt", "Corvus corax_raven\nCorvus, corone\n\n"),
        ("a.csv", 'inat2024\nCorvus corax_raven,1\n"Corvus, corone",2\n'),
        ("a.csv", 'Corvus corax_raven\r\n"Corvus, corone"\r\n'),
    ],
)
def test_labels_one_a_line_with_or_without_a_heading(path, text):
    assert read_classes(path, text, 2) == ("Corvus corax_raven", "Corvus, corone")


def test_too_few_labels_are_told():
    with pytest.raises(ValueError, match=r"a\.txt names 4 classes, and the model has 2 logits"):
        read_classes("a.txt", "a\nb\nc\nd\n", 2)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\ntext", "cc-by-nc-4.0"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: own-terms\n---\n", "own-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: []\n---\nlicense: mit\n", "not stated"),
        ("# no front matter\nlicense: mit\n", "not stated"),
        (None, "not stated"),
    ],
)
def test_licences(tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence
