import json
import math

import numpy as np
import pytest

from birdjepa.benchmark import bootstrap
from birdjepa.benchmark.bootstrap import Estimate, interval, paired_difference


def mean_of(values: np.ndarray) -> bootstrap.Statistic:
    return lambda draws: draws.total(values) / draws.size


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    n_groups, per_group, covered = 40, 4, 0
    groups = [f"g{i}" for i in range(n_groups) for _ in range(per_group)]
    for trial in range(150):
        rate = generator.beta(3.5, 1.5, n_groups).repeat(per_group)  # recordings differ: mean 0.7
        found = interval(mean_of((generator.random(len(rate)) < rate) * 1.0), groups, n_resamples=300, seed=trial)
        covered += found.low <= 0.7 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_groups_are_drawn_whole() -> None:
    values = np.random.default_rng(1).normal(size=30).repeat(10)
    whole = interval(mean_of(values), [f"{i // 10}" for i in range(300)], seed=0)
    single = interval(mean_of(values), [f"{i}" for i in range(300)], seed=0)
    assert whole.high - whole.low > 2.5 * (single.high - single.low)  # sqrt(10) in theory


def test_order_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    values, groups = generator.integers(0, 2, 60) * 1.0, [f"g{i}" for i in generator.integers(0, 20, 60)]
    before = interval(mean_of(values), groups, n_resamples=500, seed=3)
    order = generator.permutation(60)
    assert interval(mean_of(values[order]), [groups[i] for i in order], n_resamples=500, seed=3) == before
    monkeypatch.setattr(bootstrap, "CHUNK", 20 * 7)
    assert interval(mean_of(values), groups, n_resamples=500, seed=3) == before
    assert interval(mean_of(values), groups, n_resamples=500, seed=4) != before


def test_a_paired_difference_is_tighter_than_two_intervals() -> None:
    generator = np.random.default_rng(3)
    floor = (generator.random(200) < 0.6) * 1.0
    ours = np.where(generator.random(200) < 0.1, 1.0, floor)
    groups = [str(i) for i in range(200)]
    difference = paired_difference(mean_of(ours), mean_of(floor), groups, seed=0)
    alone = interval(mean_of(ours), groups, seed=0)
    assert difference.value == pytest.approx(ours.mean() - floor.mean())
    assert difference.low > 0
    assert difference.high - difference.low < 0.6 * (alone.high - alone.low)


def test_one_group_has_no_interval() -> None:
    found = interval(mean_of(np.array([0.0, 1.0])), ["a", "a"], seed=0)
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert json.loads(json.dumps(found.to_json())) == {"value": 0.5, "low": None, "high": None}


def test_estimate_reads_well() -> None:
    assert str(Estimate(0.79, 0.75, 0.832)) == "0.790 [0.750, 0.832]"
    assert Estimate(0.5, 0.25, 0.75).to_json() == {"value": 0.5, "low": 0.25, "high": 0.75}


@pytest.mark.parametrize("settings", [{"confidence": 1.0}, {"n_resamples": 0}])
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="got"):
        interval(mean_of(np.ones(2)), ["a", "b"], seed=0, **settings)
