import dataclasses
import math

import numpy as np
import pytest

from birdjepa.benchmark.bootstrap import Resampled, paired_difference, resample
from birdjepa.benchmark.comparing import Predictions, holm, mean_over_tasks, p_value, resample_models, standings
from birdjepa.benchmark.multilabel import mean_average_precision
from birdjepa.core.errors import UsageError

IDS = tuple(f"clip {i}" for i in range(120))
GROUPS = tuple(f"recording {i // 4}" for i in range(120))


def model(skill: float, seed: int = 0) -> Predictions:
    truth = (np.random.default_rng(99).random((120, 3)) < 0.3).astype(np.int64)
    scores = np.random.default_rng(seed).normal(size=(120, 3)) + skill * truth
    return Predictions(kind="multi-label", scores=scores, truth=truth, ids=IDS, groups=GROUPS, classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * .01, 2 * .03, and .04 not below the one before
        ([0.04], [0.04]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.005, 0.011, 0.02, 0.04], [0.02, 0.033, 0.04, 0.04]),
        ([0.02, math.nan, 0.03], [0.04, math.nan, 0.04]),
        ([0.01, 0.01], [0.02, 0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(p: list[float], adjusted: list[float]) -> None:
    assert holm(p) == pytest.approx(adjusted, nan_ok=True)


def resampled(replicates: list[float], value: float = 0.0) -> Resampled:
    return Resampled(np.asarray(value), np.array(replicates, dtype=float))


def test_p_by_hand() -> None:
    assert p_value(resampled([1.0, 2.0, 3.0, -1.0])) == pytest.approx(2 * (1 + 1) / 5)
    assert p_value(resampled([-1.0] * 99)) == pytest.approx(2 / 100)
    assert p_value(resampled([0.0] * 99)) == 1.0  # identical models
    assert math.isnan(p_value(resampled([])))
    assert math.isnan(p_value(resampled([1.0, math.nan])))


def test_equal_models_are_told_apart_as_rarely_as_alpha_says() -> None:
    generator, n_rejected = np.random.default_rng(0), 0
    groups = [str(i) for i in range(40)]
    for trial in range(200):
        difference = generator.normal(size=40)  # of two models, recording by recording
        found = resample(lambda draws, d=difference: draws.total(d) / draws.size, groups, n_resamples=400, seed=trial)
        n_rejected += p_value(found) <= 0.05
    assert 0.01 <= n_rejected / 200 <= 0.1


def test_differences_are_taken_resample_by_resample() -> None:
    one, other = model(1.0), model(1.0, seed=1)
    found = resample_models({"one": one, "other": other}, seed=5, n_resamples=300)
    difference = (found["one"]["cmap"] - found["other"]["cmap"]).estimate()
    direct = paired_difference(
        lambda draws: mean_average_precision(one.truth, one.scores, draws),
        lambda draws: mean_average_precision(other.truth, other.scores, draws),
        GROUPS,
        n_resamples=300,
        seed=5,
    )
    assert dataclasses.astuple(difference) == pytest.approx(dataclasses.astuple(direct))


def test_standings_name_the_best_and_what_ties_with_it() -> None:
    models = {"weak": model(0.0), "good": model(2.0), "nearly": model(1.9, seed=1), "mean": model(0.7)}
    found = resample_models(models, seed=0, n_resamples=1000)
    rows = standings({name: of["cmap"] for name, of in found.items()})
    assert [row.name for row in rows] == ["good", "nearly", "mean", "weak"]
    assert [row.leads for row in rows] == [True, True, False, False]
    best, weak = rows[0], rows[-1]
    assert (best.behind.value, best.p, best.p_holm) == (0.0, 1.0, 1.0)
    assert weak.behind.high < 0
    assert weak.p == pytest.approx(2 / 1001)
    assert weak.p_holm == pytest.approx(3 * 2 / 1001)


def test_nothing_is_shown_by_a_single_recording() -> None:
    lone = {name: dataclasses.replace(model(skill), groups=("one",) * 120) for name, skill in (("a", 2.0), ("b", 0.0))}
    rows = standings({name: of["cmap"] for name, of in resample_models(lone, seed=0).items()})
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[1].leads
    assert math.isnan(rows[1].p_holm)


def test_the_order_of_examples_and_classes_is_irrelevant() -> None:
    given = model(1.0)
    rows, columns = np.random.default_rng(3).permutation(120), [2, 0, 1]
    moved = Predictions(
        kind=given.kind,
        scores=given.scores[rows][:, columns],
        truth=given.truth[rows][:, columns],
        ids=tuple(IDS[row] for row in rows),
        groups=tuple(GROUPS[row] for row in rows),
        classes=("c", "a", "b"),
    )
    found = resample_models({"given": given, "moved": moved}, seed=0, n_resamples=50)
    assert np.array_equal(found["given"]["cmap"].replicates, found["moved"]["cmap"].replicates)


def test_models_of_other_examples_are_refused() -> None:
    given = model(1.0)
    other_truth = 1 - given.truth
    for change, match in (
        ({"ids": ("another", *IDS[1:])}, "2 example name.*in only one"),
        ({"ids": (IDS[1], *IDS[1:])}, "1 example id.*not unique"),
        ({"classes": ("a", "b", "d")}, "2 class name"),
        ({"truth": other_truth}, "labels of the same examples differ"),
        ({"groups": ("else", *GROUPS[1:])}, "recordings"),
    ):
        with pytest.raises(UsageError, match=match):
            resample_models({"one": given, "other": dataclasses.replace(given, **change)}, seed=0, n_resamples=5)
    with pytest.raises(ValueError, match="one row per id"):
        dataclasses.replace(given, ids=IDS[1:])


def test_a_mean_over_tasks_is_narrower_than_its_tasks() -> None:
    tasks = [resample_models({"m": model(1.0, seed)}, seed=seed, n_resamples=500)["m"]["cmap"] for seed in range(4)]
    mean, alone = mean_over_tasks(tasks).estimate(), tasks[0].estimate()
    assert mean.value == pytest.approx(np.mean([task.value for task in tasks]))
    assert mean.high - mean.low < 0.7 * (alone.high - alone.low)  # half in theory
    with pytest.raises(ValueError, match="equally many"):
        mean_over_tasks([tasks[0], resampled([])])
