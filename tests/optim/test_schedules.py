"""Schedules: what each shape is at its start, middle and end, and that nothing but the step decides."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.core.errors import UsageError
from birdjepa.optim.schedules import ForkConfig, ScheduleConfig, factor, phases, weight_decay_factor

CONFIGS = st.builds(
    ScheduleConfig,
    shape=st.sampled_from(["wsd", "cosine", "constant"]),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0, 0.5),
    decay_shape=st.sampled_from(["sqrt", "linear"]),
    start=st.floats(0, 1),
    final=st.floats(0, 1),
)


def test_wsd_warms_up_holds_and_decays():
    config = ScheduleConfig(warmup=0.1, decay=0.2, decay_shape="linear")
    values = [factor(step, 100, config) for step in range(101)]
    assert values[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert values[9] == pytest.approx(10 / 11)
    assert set(values[10:81]) == {1.0}
    assert values[81] == pytest.approx(0.95)
    assert values[90] == pytest.approx(0.5)
    assert values[99] == pytest.approx(0.05)
    assert values[100] == 0.0


def test_the_square_root_decay_falls_faster_at_first():
    """1 - sqrt: Hägele et al. 2024, where it beats the linear decay."""
    config = ScheduleConfig(warmup=0.0, decay=0.4, final=0.1)
    assert factor(60, 100, config) == 1.0
    assert factor(70, 100, config) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.25)))
    assert factor(100, 100, config) == pytest.approx(0.1)


def test_cosine():
    config = ScheduleConfig(shape="cosine", warmup=0.2, decay=0.0, start=0.1, final=0.02)
    assert factor(0, 100, config) == pytest.approx(0.1 + 0.9 / 21)
    assert factor(20, 100, config) == 1.0
    assert factor(60, 100, config) == pytest.approx((1 + 0.02) / 2)
    assert factor(100, 100, config) == pytest.approx(0.02)


def test_constant():
    config = ScheduleConfig(shape="constant", warmup=0.1)
    assert factor(4, 100, config) == pytest.approx(5 / 11)
    assert {factor(step, 100, config) for step in range(10, 101)} == {1.0}


def test_no_warm_up_and_no_decay():
    assert [factor(step, 10, ScheduleConfig(warmup=0.0, decay=0.0)) for step in range(10)] == [1.0] * 10


@settings(deadline=None, derandomize=True, max_examples=100)
@given(CONFIGS, st.integers(1, 300))
def test_every_shape_stays_in_its_limits_and_never_turns_twice(config, n_steps):
    values = [factor(step, n_steps, config) for step in range(n_steps)]
    assert all(min(config.start, config.final) <= value <= 1 for value in values)
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert values == [factor(step, n_steps, config) for step in range(n_steps)]


@pytest.mark.parametrize(
    "settings", [{"warmup": 0.8}, {"warmup": -0.1}, {"decay": -0.1}, {"start": 1.5}, {"final": -0.1}]
)
def test_overlapping_parts_and_odd_factors_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be in|warmup \+ decay <= 1"):
        ScheduleConfig(**settings)


def test_weight_decay_moves_along_half_a_cosine():
    config = ScheduleConfig(final_weight_decay=10.0)
    found = [weight_decay_factor(step, 100, config) for step in range(101)]
    assert (found[0], found[50], found[100]) == pytest.approx((1.0, 5.5, 10.0))
    assert found == sorted(found)
    assert {weight_decay_factor(step, 100, ScheduleConfig()) for step in range(101)} == {1.0}
    with pytest.raises(ValueError, match="final_weight_decay"):
        ScheduleConfig(final_weight_decay=-1.0)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(CONFIGS, st.integers(1, 300))
def test_phases_are_in_order_and_the_peak_is_reached(config, n_steps):
    """Also where shares round to nothing, or boundaries fall together."""
    found = phases(n_steps, config)
    assert 0 <= found.warmup <= found.decay <= found.end == n_steps
    if found.warmup < n_steps:
        assert factor(found.warmup, n_steps, config) == 1.0
    if config.shape != "constant" and found.decay < n_steps:
        assert factor(n_steps, n_steps, config) == pytest.approx(config.final)


@pytest.mark.parametrize(
    ("warmup", "decay", "n_steps", "wanted"),
    [(0.0, 0.0, 5, (0, 5, 5)), (0.5, 0.5, 3, (2, 2, 3)), (0.0, 1.0, 4, (0, 0, 4)), (0.3, 0.3, 1, (0, 1, 1))],
)
def test_boundaries_that_fall_together(warmup, decay, n_steps, wanted):
    config = ScheduleConfig(warmup=warmup, decay=decay)
    assert phases(n_steps, config) == wanted
    assert [factor(step, n_steps, config) for step in range(n_steps)][wanted[0] : wanted[1]] == [1.0] * (
        wanted[1] - wanted[0]
    )


def fork_of(config, step, planned):
    return dataclasses.replace(config, fork=ForkConfig(step=step, planned=planned))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(CONFIGS, st.integers(2, 200), st.data())
def test_a_fork_is_its_parent_and_then_falls_to_the_final_factor(config, planned, data):
    step, cooldown = data.draw(st.integers(1, planned)), data.draw(st.integers(1, 100))
    forked, n_steps = fork_of(config, step, planned), step + cooldown
    values = [factor(each, n_steps, forked) for each in range(n_steps + 1)]
    assert values[:step] == [factor(each, planned, config) for each in range(step)]
    assert values[step] == factor(step, planned, config)
    assert values[-1] == pytest.approx(config.final)
    if values[step] >= config.final:
        assert values[step:] == sorted(values[step:], reverse=True)
    decays = [weight_decay_factor(each, n_steps, forked) for each in range(n_steps)]
    assert decays[: min(planned, n_steps)] == [
        weight_decay_factor(each, planned, config) for each in range(min(planned, n_steps))
    ]


@pytest.mark.parametrize("config", [ScheduleConfig(warmup=0.1, decay=0.4), ScheduleConfig(final=0.3, decay=0.2)])
def test_a_fork_at_the_decay_of_its_parent_is_the_parent(config):
    begins = phases(50, config).decay
    forked = fork_of(config, begins, 50)
    assert [factor(step, 50, forked) for step in range(51)] == [factor(step, 50, config) for step in range(51)]


def test_a_fork_of_a_cosine_falls_from_where_it_was():
    config = fork_of(ScheduleConfig(shape="cosine", warmup=0.0, decay=0.0, decay_shape="linear"), 50, 100)
    assert [factor(step, 60, config) for step in (0, 50, 55, 60)] == pytest.approx([1.0, 0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    ("step", "n_steps", "told"),
    [(50, 50, "must be more than"), (4, 60, "warms up until step 5"), (100, 120, "fallen to schedule.final already")],
)
def test_forks_without_a_decay_are_refused(step, n_steps, told):
    with pytest.raises(UsageError, match=told):
        fork_of(ScheduleConfig(), step, 100).check(n_steps)
    fork_of(ScheduleConfig(), 50, 100).check(60)
    with pytest.raises(ValueError, match="1 <= step <= planned"):
        ForkConfig(step=0, planned=3)
