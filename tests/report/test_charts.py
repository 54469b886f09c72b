"""Charts: where points lie, and which numbers stand at the axes."""

import math
import re

import numpy as np
import pytest

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Line,
    interval_chart,
    line_chart,
    number,
)


def line(values: list[float], **more: object) -> Line:
    return Line(name="x", title="X", hint="", steps=range(1, len(values) + 1), values=values, **more)  # pyright: ignore


def points(svg: str) -> np.ndarray:
    """Coordinates of the last curve drawn."""
    drawn = re.findall(r'class="curve" d="M([^"]*)"', svg)[-1]
    return np.array([[float(x) for x in pair.split(",")] for pair in drawn.split("L")])


def test_a_line_runs_from_edge_to_edge_and_its_peak_is_highest():
    at = points(line_chart(line([1.0, 5.0, 2.0]), (1, 3), []))
    assert at[0, 0] == LEFT
    assert at[-1, 0] == WIDTH - RIGHT
    assert at[:, 1].argmin() == 1
    assert (at[:, 1] >= TOP).all()
    assert (at[:, 1] <= HEIGHT - BOTTOM).all()


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-1e-9, 1e9], [1e-12] * 5, [-4.0, -4.0]])
def test_odd_values_are_drawn_inside(values: list[float]):
    svg = line_chart(line(values), (1, max(2, len(values))), [])
    assert np.isfinite(points(svg)).all()
    assert "nan" not in svg
    assert ("<circle" in svg.replace('class="cursor"', "")) is True


def test_a_spike_makes_the_axis_logarithmic():
    values = [1000.0, *([1.0] * 20)]
    at = points(line_chart(line(values), (1, 21), []))
    assert at[1, 1] == HEIGHT - BOTTOM
    assert at[0, 1] == TOP


def test_long_lines_are_smoothed_and_keep_their_mean():
    values = [float(i % 2) for i in range(400)]
    svg = line_chart(line(values), (1, 400), [])
    assert "curve faint" in svg
    assert np.ptp(points(svg)[20:-20, 1]) < 0.2 * (HEIGHT - TOP - BOTTOM)


def test_alarms_and_references_are_named():
    svg = line_chart(line([0.1, 0.4], share=True, reference=("chance", 0.25)), (1, 2), [(2, "<collapse>")])
    assert "chance: 25%" in svg
    assert "step 2: &lt;collapse&gt;" in svg


@pytest.mark.parametrize(("low", "high", "log"), [(0, 1, False), (-3, 17, False), (1, 1e5, True), (0.2, 0.9, True)])
def test_ticks_are_few_and_inside(low: float, high: float, log: bool):
    ticks = Axis(low, high, 0, 1, log=log).ticks(4)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_intervals_are_as_wide_as_they_say():
    svg = interval_chart(
        [("ours", Estimate(0.8, 0.75, 0.85)), ("floor", Estimate(0.7, math.nan, math.nan))], chance=0.6
    )
    [(x1, x2)] = re.findall(r'class="bar ours" x1="([\d.]+)" x2="([\d.]+)"', svg)
    first, second = (float(x) for x in re.findall(r'class="dot \w+" cx="([\d.]+)"', svg))
    assert (float(x2) - float(x1)) / (first - second) == pytest.approx(1.0, abs=1e-3)
    assert "reference" in svg
    assert "bar floor" not in svg
    assert "nan" not in svg


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (0.12345, "0.1235"), (1e-5, "1e-5"), (123456.0, "1.2e5"), (-2.5, "-2.5")]
)
def test_numbers_are_short(value: float, said: str):
    assert number(value) == said


def test_shares_are_percent():
    assert number(0.5, share=True) == "50%"
