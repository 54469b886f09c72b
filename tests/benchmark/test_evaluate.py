import json

import numpy as np
import pytest

from birdjepa.benchmark.evaluate import Score, compare, evaluate, score_predictions
from birdjepa.benchmark.folds import Folds, folds_by_group, folds_from_column, holdout
from birdjepa.benchmark.knn import KnnProbe
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.core.errors import UsageError

CLASSIFIERS = [LinearProbe(strengths=(0.01, 1.0), n_inner_folds=3), KnnProbe()]
N = 120
LABELS = [f"c{i % 4}" for i in range(N)]
GROUPS = [f"g{i // 8}" for i in range(N)]  # 15 recordings of 8 clips, each with all classes
FOLDS = folds_by_group(LABELS, GROUPS, 3, seed=0)


def embed(signal: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(N, 10))
    return (noise + signal * np.eye(10)[[int(label[1:]) for label in LABELS]]).astype(np.float32)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_perfect_embedding_scores_one(classifier: LinearProbe | KnnProbe) -> None:
    score = evaluate(embed(50.0), LABELS, GROUPS, FOLDS, classifier, seed=0)
    for estimate in (score.accuracy, score.macro_f1, score.balanced_accuracy):
        assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)
    assert np.array_equal(score.confusion, 30 * np.eye(4))
    assert (score.n_examples, score.n_classes, score.n_groups) == (N, 4, 15)
    assert score.notes == ()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_random_labels_score_chance(classifier: LinearProbe | KnnProbe) -> None:
    covered = 0
    for seed in range(6):
        labels = [f"c{i}" for i in np.random.default_rng(seed).integers(0, 4, N)]
        score = evaluate(embed(0.0, seed), labels, GROUPS, FOLDS, classifier, seed=seed)
        covered += score.accuracy.low <= 0.25 <= score.accuracy.high
    assert covered >= 5


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_order_of_examples_changes_nothing(classifier: LinearProbe | KnnProbe) -> None:
    order = np.random.default_rng(1).permutation(N)
    embeddings = embed(1.5)
    first = evaluate(embeddings, LABELS, GROUPS, FOLDS, classifier, seed=0)
    moved = Folds(FOLDS.fold[order], FOLDS.names, FOLDS.tested, given=False)
    labels, groups = [LABELS[i] for i in order], [GROUPS[i] for i in order]
    again = evaluate(embeddings[order], labels, groups, moved, classifier, seed=0)
    assert again.accuracy == first.accuracy
    assert again.macro_f1 == first.macro_f1
    assert np.array_equal(again.predicted, first.predicted[order])


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_test_row_moves_no_other_prediction(classifier: LinearProbe | KnnProbe) -> None:
    folds = holdout(["train"] * 80 + ["test"] * 40)
    embeddings = embed(1.0)
    before = evaluate(embeddings, LABELS, GROUPS, folds, classifier, seed=0)
    embeddings[-1] = 1e6
    after = evaluate(embeddings, LABELS, GROUPS, folds, classifier, seed=0)
    assert np.array_equal(before.predicted[:-1], after.predicted[:-1])
    assert before.rows.tolist() == list(range(80, 120))


def test_a_better_embedding_beats_its_floor_and_itself_does_not() -> None:
    floor = evaluate(embed(0.5), LABELS, GROUPS, FOLDS, CLASSIFIERS[0], seed=0)
    ours = evaluate(embed(3.0), LABELS, GROUPS, FOLDS, CLASSIFIERS[0], seed=0)
    comparison = compare(ours, floor)
    assert comparison.beats
    assert comparison.accuracy.value == pytest.approx(ours.accuracy.value - floor.accuracy.value)
    nothing = compare(ours, ours)
    assert (nothing.accuracy.low, nothing.accuracy.high, nothing.beats) == (0.0, 0.0, False)
    other = evaluate(embed(3.0), LABELS, GROUPS, holdout(["train"] * 80 + ["test"] * 40), CLASSIFIERS[0], seed=0)
    with pytest.raises(ValueError, match="same examples"):
        compare(ours, other)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_any_float_array_will_do(classifier: LinearProbe | KnnProbe, dtype: type) -> None:
    embeddings = np.asfortranarray(embed(5.0).astype(dtype))
    embeddings.flags.writeable = False  # as Parquet and memory maps give them
    assert evaluate(embeddings, LABELS, GROUPS, FOLDS, classifier, seed=0).accuracy.value > 0.9


def test_scores_are_json() -> None:
    score = evaluate(embed(1.0), LABELS, GROUPS, FOLDS, KnnProbe(), seed=0)
    read = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert read["accuracy"].keys() == {"value", "low", "high"}
    assert [fold["n_test"] for fold in read["folds"]] == [fold.n_test for fold in score.folds]
    assert read["folds"][0]["strength"] is None
    weighted = sum(fold.accuracy * fold.n_test for fold in score.folds) / N
    assert score.accuracy.value == pytest.approx(weighted)
    assert np.sum(read["confusion"]) == N


def test_rows_outside_the_folds_may_hold_anything() -> None:
    column = [f"{i // 8 % 3}" for i in range(N)]
    column[0] = ""
    broken, labels = embed(1.0), list(LABELS)
    broken[0], labels[0] = np.nan, ""
    score = evaluate(broken, labels, GROUPS, folds_from_column(column), KnnProbe(), seed=0)
    assert score.n_examples == N - 1
    assert score.classes == ("c0", "c1", "c2", "c3")


def refused(match: str, *, embeddings=None, labels=LABELS, groups=GROUPS, folds=FOLDS) -> Score | None:
    embeddings = embed(1.0) if embeddings is None else embeddings
    with pytest.raises(UsageError, match=match):
        return evaluate(embeddings, labels, groups, folds, KnnProbe(), seed=0)
    return None


def test_bad_input_is_refused_with_the_rows_named() -> None:
    broken = embed(1.0)
    broken[[3, 7], 2] = [np.inf, np.nan]
    refused("rows 3, 7", embeddings=broken)
    refused("no label, in rows 5", labels=[*LABELS[:5], "", *LABELS[6:]])
    refused("no group, in rows 5", groups=[*GROUPS[:5], "", *GROUPS[6:]])
    refused("2 classes", labels=["a"] * N)
    refused("g0", folds=Folds(np.arange(N) % 2, ("0", "1"), (0, 1), given=False))
    refused("fold b has", folds=Folds(np.zeros(N, dtype=np.int64), ("a", "b"), (1,), given=True))


def test_leaks_in_the_users_folds_and_a_single_tested_group_are_noted() -> None:
    score = evaluate(embed(1.0), LABELS, GROUPS, folds_from_column([str(i % 2) for i in range(N)]), KnnProbe(), seed=0)
    assert any("g0" in note for note in score.notes)
    split = ["train"] * (N - 8) + ["test"] * 8
    score = evaluate(embed(1.0), LABELS, GROUPS, holdout(split), KnnProbe(), seed=0)
    assert any("no interval" in note for note in score.notes)
    assert score.to_json()["accuracy"]["low"] is None


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("folds", [FOLDS, holdout(["train"] * 72 + ["pool"] * 8 + ["test"] * 40)])
def test_predictions_made_elsewhere_get_the_same_score(classifier: LinearProbe | KnnProbe, folds: Folds) -> None:
    score = evaluate(embed(1.0), LABELS, GROUPS, folds, classifier, seed=3, n_resamples=200)
    predicted = ["not read"] * N
    for row, index in zip(score.rows.tolist(), score.predicted.tolist(), strict=True):
        predicted[row] = score.classes[index]
    strengths = [fold.strength for fold in score.folds]
    again = score_predictions(predicted, LABELS, GROUPS, folds, strengths=strengths, seed=3, n_resamples=200)
    assert again.to_json() == score.to_json()
    for name in ("rows", "truth", "predicted"):
        assert np.array_equal(getattr(again, name), getattr(score, name))
    assert again.groups == score.groups
    without = score_predictions(predicted, LABELS, GROUPS, folds, notes=["fine-tuned"], seed=3, n_resamples=200)
    assert compare(without, score).accuracy.value == 0
    assert without.notes == (*score.notes, "fine-tuned")
    assert without.to_json()["folds"][0]["strength"] is None


def test_predictions_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(UsageError, match="such as 'c9'"):
        score_predictions(["c9", *LABELS[1:]], LABELS, GROUPS, FOLDS, seed=0)
    with pytest.raises(ValueError, match="as many predictions"):
        score_predictions(LABELS[1:], LABELS, GROUPS, FOLDS, seed=0)
