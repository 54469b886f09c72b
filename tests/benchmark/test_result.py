"""Results: the key tells experiments apart, and everything survives being written and read."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_crowd import quick_folder

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.result import Result, key_of
from birdjepa.benchmark.results import Store

NAMES = st.text(max_size=20)
NUMBERS = st.floats(allow_infinity=False).map(lambda number: number + 0.0)  # SQLite keeps no sign of zero
WHOLE = st.integers(-(2**53), 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(NAMES, inside, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=4)
ESTIMATES = st.builds(Estimate, NUMBERS, NUMBERS, NUMBERS)


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a result, which the test builds: checks of types draw at random, which no strategy may."""
    metrics = draw(st.dictionaries(NAMES, ESTIMATES, min_size=1, max_size=3))
    per_class = st.dictionaries(NAMES, st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=4), max_size=2)
    return {
        "experiment": draw(OBJECTS),
        "task": draw(NAMES),
        "suite": draw(NAMES),
        "model": draw(NAMES),
        "classifier": draw(NAMES),
        "n_train": draw(st.none() | WHOLE),
        "seed": draw(WHOLE),
        "layer": draw(st.none() | WHOLE),
        "metric": draw(st.sampled_from(sorted(metrics))),
        "metrics": metrics,
        "per_class": draw(per_class),
        "counts": draw(st.dictionaries(NAMES, WHOLE, max_size=3)),
        "notes": tuple(draw(st.lists(NAMES, max_size=3))),
        "scores": draw(st.none() | NAMES),
        "seconds": draw(st.floats(0, 1e9)),
        "provenance": draw(OBJECTS),
    }


def same(one: Result | None, other: Result) -> bool:
    """NaN equals NaN here, and 1 differs from 1.0."""
    return one is not None and canonical(one) == canonical(other)


def canonical(result: Result) -> str:
    return json.dumps(result.to_json(), sort_keys=True)


@pytest.fixture(scope="module", params=[False, True], ids=["database", "spool"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with quick_folder() as folder, Store.open(folder / "results.sqlite", spool=request.param) as store:
        yield store


@settings(max_examples=25, deadline=None)
@given(fields=results())
def test_round_trip(store: Store, fields: dict[str, Any]) -> None:
    result = Result(**fields)
    kept = store.find(result.key)
    assert store.add(result) == (kept is None)
    assert same(store.find(result.key), kept or result)
    assert canonical(kept or result) in map(canonical, store.all())


@settings(max_examples=25, deadline=None)
@given(fields=results())
def test_json_is_strict(fields: dict[str, Any]) -> None:
    result = Result(**fields)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert same(Result.from_json(json.loads(text)), result)


def result(**changes: Any) -> Result:
    plain = {
        "experiment": {"task": "pow", "lr": 0.1},
        "task": "pow",
        "suite": "birdset",
        "model": "birdjepa",
        "classifier": "linear",
        "n_train": None,
        "seed": 0,
        "layer": None,
        "metric": "cmAP",
        "metrics": {"cmAP": Estimate(0.5, 0.4, 0.6)},
        "per_class": {},
        "counts": {},
        "notes": (),
        "scores": None,
        "seconds": 1.0,
        "provenance": {},
    }
    return Result(**plain | changes)


def test_a_key_is_the_hash_of_the_whole_experiment() -> None:
    r"""The literal is what printf '{"a":1,"b":[0.1,"\\u00e9"]}' | sha256sum prints."""
    assert key_of({"b": [0.1, "é"], "a": 1}) == key_of({"a": 1, "b": [0.1, "é"]})
    assert key_of({"a": 1, "b": [0.1, "é"]}) == "40201dcd3285df37ee3311a621f792a94aadea503547badeeb4755bfa821d322"
    assert len({key_of({"a": each}) for each in (1, 1.0, "1", True, None, [1], {"a": 1})}) == 7
    assert result().key == result(seconds=2.0).key == key_of(result().experiment)


@pytest.mark.parametrize("value", [math.nan, math.inf, Path("x"), {1}])
def test_a_key_of_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="an experiment must be finite JSON"):
        result(experiment={"value": value})


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics lack the headline 'AUROC', there are cmAP"):
        result(metric="AUROC")
    with pytest.raises(ValueError, match="a result of pow is infinite"):
        result(per_class={"AP": {"crow": math.inf}})
    with pytest.raises(ValueError, match="and its seconds finite"):
        result(seconds=math.nan)
    for broken in ({}, {**result().to_json(), "more": 1}, {**result().to_json(), "metrics": 3}):
        with pytest.raises(ValueError, match="not a result"):
            Result.from_json(broken)


def test_numbers_that_are_not_defined_are_null_in_json() -> None:
    undefined = result(metrics={"cmAP": Estimate(0.5, math.nan, math.nan)}, per_class={"AP": {"crow": math.nan}})
    value = undefined.to_json()
    assert value["metrics"] == {"cmAP": {"value": 0.5, "low": None, "high": None}}
    assert value["per_class"] == {"AP": {"crow": None}}
    assert same(Result.from_json(value), undefined)
    assert dataclasses.replace(undefined, seconds=2.0) != undefined
