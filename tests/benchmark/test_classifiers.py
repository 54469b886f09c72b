"""What holds for every classifier: it learns, in any order, from real tokens alone, and says what it could not."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from classifier_examples import N_CLASSES, SMALL, brief, toy

from birdjepa.benchmark.classifiers import CLASSIFIERS, AnyClassifier, Features, LinearConfig, Rows, fit_and_score
from birdjepa.benchmark.classifiers.loss import LossConfig
from birdjepa.benchmark.classifiers.training import GradientClassifier, GridConfig
from birdjepa.benchmark.multilabel import mean_average_precision
from birdjepa.benchmark.tasks.base import Kind
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError

each = pytest.mark.parametrize("name", SMALL)
both = pytest.mark.parametrize("kind", ["single-label", "multi-label"])
NONE = np.array([], dtype=np.int64)


def quality(scores: np.ndarray, truth: np.ndarray, kind: Kind) -> float:
    if kind == "single-label":
        return float((scores.argmax(1) == truth.argmax(1)).mean())
    return float(mean_average_precision(truth, scores))


def test_the_names_are_those_of_the_issue() -> None:
    assert list(CLASSIFIERS) == ["linear", "mlp", "prototypical", "attentive", "attentive-deep", "centroid", "knn"]
    assert {name for name, config in CLASSIFIERS.items() if config.needs_tokens} == {
        "prototypical",
        "attentive",
        "attentive-deep",
    }
    for config in CLASSIFIERS.values():
        assert configs.from_json(type(config), configs.to_json(config)) == config


@each
@both
def test_it_learns(name: str, kind: Kind) -> None:
    features, truth, rows, groups = toy(kind)
    outcome = fit_and_score(SMALL[name], features, truth, rows, groups, kind=kind, seed=0)
    assert outcome.scores.shape == (len(rows.test), N_CLASSES)
    assert np.isfinite(outcome.scores).all()
    assert outcome.notes == ()
    chance = 1 / N_CLASSES if kind == "single-label" else truth[rows.test].mean()
    assert quality(outcome.scores, truth[rows.test], kind) > 1 - (1 - chance) / 4
    assert list(outcome.chosen) == ([] if name in ("centroid", "knn") else ["rate", "decay", "epochs", "validation"])


@each
def test_a_seed_repeats_and_the_order_of_rows_is_irrelevant(name: str) -> None:
    features, truth, rows, groups = toy("multi-label")
    first = fit_and_score(brief(name), features, truth, rows, groups, kind="multi-label", seed=3)
    turned = Rows(rows.train[::-1], np.roll(rows.validation, 5), rows.test[::-1])
    again = fit_and_score(brief(name), features, truth, turned, groups, kind="multi-label", seed=3)
    np.testing.assert_allclose(first.scores, again.scores[::-1], atol=1e-5)
    assert first.chosen == again.chosen


@each
def test_padding_tokens_have_no_influence(name: str) -> None:
    features, truth, rows, groups = toy("multi-label")
    assert features.tokens is not None
    assert features.real is not None
    changed = features.tokens.copy()
    changed[~features.real] = np.nan
    other = dataclasses.replace(features, tokens=changed)
    scores = [
        fit_and_score(brief(name), each, truth, rows, groups, kind="multi-label", seed=0).scores
        for each in (features, other)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])


@each
def test_maps_of_half_precision_are_read_in_batches(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, truth, rows, groups = toy("single-label")
    assert features.pooled is not None
    assert features.tokens is not None
    for what, array in (("pooled", features.pooled), ("tokens", features.tokens)):
        np.save(tmp_path / f"{what}.npy", array.astype(np.float16))
    pooled, tokens = (np.load(tmp_path / f"{what}.npy", mmap_mode="r") for what in ("pooled", "tokens"))
    held = fit_and_score(
        brief(name),
        Features(np.asarray(pooled), np.asarray(tokens), features.real),
        truth, rows, groups, kind="single-label", seed=0,
    )  # fmt: skip
    config = brief(name)
    one_example = config.activations(6, 16, N_CLASSES) if isinstance(config, GradientClassifier) else 0
    monkeypatch.setattr("birdjepa.benchmark.classifiers.reading.HELD", 0)
    monkeypatch.setattr("birdjepa.benchmark.classifiers.reading.CHUNK", 96 * 20)
    monkeypatch.setattr("birdjepa.benchmark.classifiers.training.ACTIVATIONS", 2 * 20 * one_example)
    read = fit_and_score(
        brief(name), Features(pooled, tokens, features.real), truth, rows, groups, kind="single-label", seed=0
    )
    assert read.scores.dtype == np.float32
    np.testing.assert_allclose(read.scores, held.scores, atol=2e-2, rtol=1e-2)
    assert (read.scores.argmax(1) == held.scores.argmax(1)).mean() > 0.95


@each
@both
def test_one_example_of_each_class_is_enough_to_beat_chance(name: str, kind: Kind) -> None:
    features, truth, _, groups = toy(kind, n=200)
    alone = truth.sum(axis=1) == 1
    train = np.array([np.flatnonzero(alone & (truth[:, column] > 0))[0] for column in range(N_CLASSES)])
    test = np.setdiff1d(np.arange(len(truth)), train)
    # The deep one has thousands of weights for three examples: it is asked for numbers only.
    config = brief(name) if name == "attentive-deep" else SMALL[name]
    outcome = fit_and_score(config, features, truth, Rows(train, NONE, test), groups, kind=kind, seed=0)
    assert np.isfinite(outcome.scores).all()
    if name != "attentive-deep":
        chance = 1 / N_CLASSES if kind == "single-label" else truth[test].mean()
        assert quality(outcome.scores, truth[test], kind) > chance + 0.05
    if name not in ("centroid", "knn"):
        assert "too few groups" in outcome.notes[0]
        assert "validation" not in outcome.chosen


@each
def test_without_a_validation_part_whole_groups_choose_and_all_is_learnt(name: str) -> None:
    features, truth, rows, groups = toy("single-label")
    joined = Rows(np.concatenate(rows[:2]), NONE, rows.test)
    outcome = fit_and_score(brief(name), features, truth, joined, groups, kind="single-label", seed=0)
    if name in ("centroid", "knn"):
        assert outcome.notes == ()
        return
    n_train = len(joined.train)
    assert outcome.notes[0].startswith("no validation part: ")
    assert f"of {n_train} training examples chose, then all were learnt" in outcome.notes[0]
    # What was chosen by the examples held out, learnt from all of them: a grid of that head alone, ended at that check.
    config = brief(name)
    assert isinstance(config, GradientClassifier)
    heads = dataclasses.replace(config.grid, rates=(outcome.chosen["rate"],), decays=(outcome.chosen["decay"],))
    alone = fit_and_score(
        dataclasses.replace(config, grid=heads), features, truth, joined, groups, kind="single-label", seed=0
    )
    np.testing.assert_allclose(alone.scores, outcome.scores, atol=1e-5)


@each
@both
def test_a_class_without_examples_scores_low_and_is_named(name: str, kind: Kind) -> None:
    features, truth, rows, groups = toy(kind)
    without = rows._replace(
        train=rows.train[truth[rows.train, 1] == 0], validation=rows.validation[truth[rows.validation, 1] == 0]
    )
    outcome = fit_and_score(brief(name), features, truth, without, groups, kind=kind, seed=0)
    assert np.isfinite(outcome.scores).all()
    assert (outcome.scores[:, [1]] < outcome.scores[:, [0, 2]]).all()
    assert len(set(outcome.scores[:, 1].tolist())) == 1
    assert any("1 of 3 classes" in note for note in outcome.notes)


@each
def test_features_that_are_not_finite_are_refused(name: str) -> None:
    features, truth, rows, groups = toy("single-label")
    assert features.pooled is not None
    assert features.tokens is not None
    features.pooled[rows.train[0], 2] = np.inf
    features.tokens[rows.train[0], 1, 2] = np.nan
    with pytest.raises(UsageError, match=f"1 example.* not finite, the first in row {rows.train[0]}"):
        fit_and_score(SMALL[name], features, truth, rows, groups, kind="single-label", seed=0)


def test_what_cannot_be_learnt_from_is_refused() -> None:
    features, truth, rows, groups = toy("single-label")

    def fit(rows: Rows = rows, truth: np.ndarray = truth, config: AnyClassifier = SMALL["linear"]) -> None:
        fit_and_score(config, features, truth, rows, groups, kind="single-label", seed=0)

    with pytest.raises(UsageError, match="nothing to learn from"):
        fit(rows._replace(train=NONE))
    with pytest.raises(ValueError, match="in one part once"):
        fit(rows._replace(validation=rows.train))
    with pytest.raises(ValueError, match="exactly one class"):
        fit(truth=np.ones_like(truth))
    with pytest.raises(ValueError, match="as many features"):
        fit(truth=truth[1:])
    with pytest.raises(ValueError, match="reads tokens"):
        fit_and_score(
            SMALL["attentive"], Features(pooled=features.pooled), truth, rows, groups, kind="single-label", seed=0
        )
    with pytest.raises(UsageError, match="needs a single-label task"):
        fit_and_score(
            LinearConfig(loss=LossConfig(form="ce")), features, truth, rows, groups, kind="multi-label", seed=0
        )
    broken = LinearConfig(grid=GridConfig(rates=(1e37, 1e38)))
    with pytest.raises(UsageError, match="no head converged"):
        fit(config=broken)
