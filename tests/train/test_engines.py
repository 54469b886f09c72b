"""Two processes are one: same losses, same parameters, same checkpoints, whichever engine; and what is planted shows.

What the two processes do is in engine_runs.py; here is one process, and the comparison.
"""

import functools
import json

import engine_runs
import pytest
import torch
from engine_runs import (
    ENGINES,
    FAULTS,
    HALF,
    HANDED_OVER,
    PATIENCE_S,
    advance,
    begin,
    configurations,
    go_on,
    launched,
    n_steps,
    trained_by_one,
)
from tiny_run import write_songs

pytestmark = pytest.mark.timeout(PATIENCE_S)

TOLERANCE = 1e-5


NOISE = 1e-7
"""Relative size of what rounding does to weights."""


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 12)


@pytest.fixture(scope="module")
def single(songs, tmp_path_factory):
    """(objective, noise) -> rows and tensors of one process, its first weights moved by so much."""

    @functools.cache
    def trained(name, noise=0.0):
        config = configurations(songs, (folder := tmp_path_factory.mktemp("single")))[name]
        return trained_by_one(config, folder, n_steps(name), noise)

    return trained


@pytest.fixture(scope="module")
def out(songs, tmp_path_factory):
    """What two processes left, and one process's checkpoint that they went on from."""
    return launched(engine_runs.__file__, songs, tmp_path_factory.mktemp("two"))


def rows_of(out, name):
    return json.loads((out / "rows.json").read_text())[name]


def tensors_of(out, name):
    return torch.load(out / f"{name}.pt", weights_only=True)


def furthest(ours, theirs):
    """The tensor that differs most, and by how much."""
    assert ours.keys() == theirs.keys()
    apart = {name: (ours[name].double() - theirs[name].double()).abs() for name in ours if ours[name].numel()}
    return max((float(each.max()), name) for name, each in apart.items())


def losses(rows):
    return [row["loss"] for row in rows]


def apart(ours, theirs):
    """What differs by more than the tolerance between rows and tensors of two runs; empty for equal ones."""
    (rows, tensors), (their_rows, their_tensors) = ours, theirs
    found = [
        f"loss of step {step}: {one} {two}"
        for step, (one, two) in enumerate(zip(losses(rows), losses(their_rows), strict=True), start=1)
        if abs(one - two) > TOLERANCE
    ]
    for one, two in zip(rows, their_rows, strict=True):
        found += [name for name in one if two[name] != pytest.approx(one[name], abs=1e-4, rel=1e-4)]
    most, where = furthest(tensors, their_tensors)
    return [*found, *([f"{where} by {most:g}"] if most > TOLERANCE else [])]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["lejepa", "ajepa", "pixio", "diet", "supervised", "muon"])
def test_two_processes_equal_one(single, out, engine, name):
    """Losses, terms, norms and every tensor of the state: moments, teacher, averages, probe and bank too.

    Where a ReLU of one process lies so near its edge that rounding decides, two processes may fall on the other side:
    then they must equal one process whose first weights are moved by as much as rounding does.
    """
    two = rows_of(out, f"{engine}-{name}"), tensors_of(out, f"{engine}-{name}")
    assert two[0][0]["loss"] != two[0][-1]["loss"]
    found = apart(single(name), two)
    if found and name == "lejepa":
        found = apart(single(name, NOISE), two)
    assert found == []


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_go_over_all_processes_shows(single, out, fault):
    """Negative controls of the comparison: each leaves one thing to each process by itself."""
    planted, rows = rows_of(out, f"fault-{fault}"), single("lejepa")[0]
    assert max(abs(ours - theirs) for ours, theirs in zip(losses(planted), losses(rows), strict=False)) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_is_exact_with_two_processes(out, engine):
    assert rows_of(out, f"{engine}-then-{engine}") == rows_of(out, f"{engine}-whole")[-HALF:]
    whole, resumed = tensors_of(out, f"{engine}-whole"), tensors_of(out, f"{engine}-then-{engine}")
    assert furthest(whole, resumed)[0] == 0


@pytest.mark.parametrize(("origin", "engine"), [pair for pair in HANDED_OVER if len(set(pair)) == 2])
def test_one_engine_goes_on_from_anothers_checkpoint(out, origin, engine):
    assert furthest(tensors_of(out, f"{engine}-whole"), tensors_of(out, f"{origin}-then-{engine}"))[0] < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_one_process_goes_on_from_twos_checkpoint(songs, out, tmp_path, engine):
    trainer, clips = begin(engine_runs.to_hand_over(songs, tmp_path), "single", tmp_path)
    go_on(trainer, out / f"{engine}-half")
    assert trainer.state.step == HALF
    rows = advance(trainer, clips, HALF)
    assert losses(rows) == pytest.approx(losses(rows_of(out, f"{engine}-whole")), abs=TOLERANCE)
    assert furthest(trainer.state.tensors(), tensors_of(out, f"{engine}-whole"))[0] < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoints_have_the_same_tensors_whoever_wrote_them(out, engine):
    described = [
        json.loads((out / f"{each}-half" / "checkpoints" / f"step-{HALF:08d}" / "manifest.json").read_text())["tensors"]
        for each in ("single", engine)
    ]
    kinds = [{name: (each["dtype"], each["shape"]) for name, each in tensors.items()} for tensors in described]
    assert kinds[0] == kinds[1]


PLANTED = {
    "other weights": "process 1 and process 0 differ in what they hold after step 1: ",
    "other seeds": "process 1 and process 0 differ in their first weights: ",
    "same clips": "process 1 hears the same clips as process 0; ",
    "wrong sums": "process 1 adds or gathers wrong numbers over 2 processes on cpu; ",
    "no number": "step 3: loss nan, gradient norm nan; the state after step 2 is saved in ",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_would_train_wrongly_is_refused_by_all(out, planted):
    told = rows_of(out, planted)
    assert len(told) == 2
    assert all(text.startswith(PLANTED[planted]) for text in told)


def test_a_bad_loss_of_one_process_saves_the_state_before_it(out):
    assert rows_of(out, "no number saved") == ["step-00000002"]
