"""Probe results: what is read from a file, and what is said of it."""

import math

import pytest
from report_examples import probe_json

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.core.errors import UsageError
from birdjepa.report.gather_run import parse_probe
from birdjepa.report.html import Html, join
from birdjepa.report.probes import _confusions, rate, verdict


def test_a_whole_result():
    probe = parse_probe(probe_json(("a", "b")), "probe.json")
    assert [score.name for score in probe.scores] == ["encoder", "log-mel statistics", "the untrained encoder"]
    assert rate(probe.scores[0].accuracy) == "0.800 [0.750, 0.850]"
    assert probe.scores[1].ahead == Estimate(0.1, 0.02, 0.2)
    assert probe.scores[2].ahead is None
    assert probe.chance == 0.5
    assert probe.settings["folds"] == "1: 1 (0.800)"
    assert probe.confusion is not None
    assert probe.confusion.tolist() == [[32, 2], [2, 32]]


def test_only_accuracy_is_needed():
    probe = parse_probe({"accuracy": {"value": 0.5, "low": None, "high": None}, "folds": 5}, "p.json")
    assert math.isnan(probe.scores[0].accuracy.low if probe.scores[0].accuracy else 0.0)
    assert probe.settings == {"folds": "5"}
    assert (probe.chance, probe.confusion, probe.n_examples) == (None, None, None)
    assert verdict(probe) == "no floors to compare with"


@pytest.mark.parametrize("value", [{}, {"accuracy": 0.5}, {"accuracy": {"value": "0.5"}}])
def test_what_is_no_result_is_refused(value: dict[str, object]):
    with pytest.raises(UsageError, match=r"p\.json: not a probe's result"):
        parse_probe(value, "p.json")


def test_differences_may_stand_beside_the_floors():
    value = probe_json(("a", "b"))
    value["differences"] = {"random": {"accuracy": {"value": -0.1, "low": -0.2, "high": -0.05}}}
    assert verdict(parse_probe(value, "p.json")) == "above log-mel statistics; below the untrained encoder"


def test_a_layer_sweep_is_listed():
    value = probe_json(("a", "b"))
    value["layers"] = [{"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}, {}]
    probe = parse_probe(value, "p.json")
    assert probe.layers == (Estimate(0.5, 0.4, 0.6),)


def test_rates():
    assert rate(Estimate(0.5, 0.4, 0.6)) == "0.500 [0.400, 0.600]"
    assert rate(Estimate(0.5, math.nan, math.nan)) == "0.500 (no interval)"
    assert rate(None) == "not given"


@pytest.mark.parametrize(("n", "drawn", "counts"), [(2, True, True), (20, True, False), (41, True, True)])
def test_confusions_of_any_size(n: int, drawn: bool, counts: bool):
    shown: Html = join(_confusions(parse_probe(probe_json(tuple(f"c{i:02d}" for i in range(n))), "p.json")))
    assert ('class="matrix"' in shown) is drawn
    assert (">32<" in shown) is counts
    assert "2 of " in shown
