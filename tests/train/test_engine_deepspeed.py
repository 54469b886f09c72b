"""Two processes under DeepSpeed are one, whatever its file cuts up; their checkpoints are everybody's.

What the two do is in deepspeed_runs.py; here is one process, and the comparison.
"""

import functools
import json
from importlib.util import find_spec

import deepspeed_runs
import pytest
import torch
from deepspeed_runs import COMPARED, VARIANTS, with_rates
from engine_runs import HALF, PATIENCE_S, advance, begin, configurations, go_on, launched, to_hand_over, trained_by_one
from test_engines import NOISE, TOLERANCE, apart, losses
from tiny_run import write_songs

pytestmark = [
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
    pytest.mark.timeout(PATIENCE_S),
]

FAST = ["zero2"]
SLOW = [variant for variant in VARIANTS if variant not in FAST]


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 12)


@pytest.fixture(scope="module")
def single(songs, tmp_path_factory):
    """(objective, noise) -> rows and tensors of one process, its first weights moved by so much."""

    @functools.cache
    def trained(name, noise=0.0):
        config = with_rates(configurations(songs, (folder := tmp_path_factory.mktemp("single")))[name])
        return trained_by_one(config, folder, config.train.steps, noise)

    return trained


@pytest.fixture(scope="module")
def fast(songs, tmp_path_factory):
    return launched(deepspeed_runs.__file__, songs, tmp_path_factory.mktemp("fast"), *FAST)


@pytest.fixture(scope="module", params=SLOW)
def slow(songs, tmp_path_factory, request):
    return request.param, launched(
        deepspeed_runs.__file__, songs, tmp_path_factory.mktemp(request.param), request.param
    )


def rows_of(out, name):
    return json.loads((out / "rows.json").read_text())[name]


def tensors_of(out, name):
    return torch.load(out / f"{name}.pt", weights_only=True)


def furthest(ours, theirs):
    """The tensor that differs most, and by how much; both have the same names, shapes and dtypes."""
    kinds = [{name: (each.shape, each.dtype) for name, each in tensors.items()} for tensors in (ours, theirs)]
    assert kinds[0] == kinds[1]
    apart = {name: (ours[name].double() - theirs[name].double()).abs() for name in ours if ours[name].numel()}
    return max((float(each.max()), name) for name, each in apart.items())


def check_equal(single, out, variant, name):
    """Losses, terms, norms and every tensor of the state: moments, teacher, averages, probe and bank too.

    Rounding may decide a ReLU in lejepa: see test_engines.py.
    """
    two = rows_of(out, f"{variant}-{name}"), tensors_of(out, f"{variant}-{name}")
    furthest(single(name)[1], two[1])  # names, shapes, dtypes
    assert two[0][0]["loss"] != two[0][-1]["loss"]
    found = apart(single(name), two)
    if found and name == "lejepa":
        found = apart(single(name, NOISE), two)
    assert found == []


def check_checkpoints(songs, out, variant, tmp_path):
    """Written by two under ZeRO, read by two under ZeRO bit for bit, and by one; written by one, read by two."""
    whole = tensors_of(out, f"{variant}-whole")
    assert rows_of(out, f"{variant}-then-{variant}") == rows_of(out, f"{variant}-whole")
    assert furthest(whole, tensors_of(out, f"{variant}-then-{variant}"))[0] == 0
    assert furthest(whole, tensors_of(out, f"single-then-{variant}"))[0] < TOLERANCE
    trainer, clips = begin(to_hand_over(songs, tmp_path), "single", tmp_path)
    go_on(trainer, out / f"{variant}-half")
    assert trainer.state.step == HALF
    assert losses(advance(trainer, clips, HALF)) == pytest.approx(
        losses(rows_of(out, f"{variant}-whole")), abs=TOLERANCE
    )
    tensors = {name: tensor.detach() for name, tensor in trainer.state.tensors().items()}
    assert furthest(whole, tensors)[0] < TOLERANCE
    exported = {name: tensor.detach() for name, tensor in trainer.state.exported().items()}
    assert furthest(exported, tensors_of(out, f"{variant}-exported"))[0] < TOLERANCE


def check_bad_step(out, variant):
    told = rows_of(out, f"{variant}-told")
    assert len(told) == 2
    assert all(text.startswith("step 3: loss nan, gradient norm ") for text in told)
    assert rows_of(out, f"{variant}-poisoned") == rows_of(out, f"{variant}-clean")
    clean, poisoned = (tensors_of(out, f"{variant}-{name}") for name in ("clean", "poisoned"))
    assert furthest(clean, poisoned)[0] == 0


@pytest.mark.parametrize("name", COMPARED)
def test_two_processes_under_zero_2_equal_one(single, fast, name):
    check_equal(single, fast, "zero2", name)


def test_checkpoints_of_zero_2_are_everybodys(songs, fast, tmp_path):
    check_checkpoints(songs, fast, "zero2", tmp_path)
    files = {path.name for path in fast.rglob("step-*/*")}
    assert files == {"state.safetensors", "meta.json", "manifest.json"}


def test_a_bad_step_changes_nothing(fast):
    check_bad_step(fast, "zero2")


@pytest.mark.parametrize("fault", ["wrong-merge", "round-robin"])
def test_pieces_that_are_merged_wrongly_end_the_run_before_it_begins(fast, fault):
    told = rows_of(fast, f"zero2-{fault}")
    assert len(told) == 2
    assert all(" with ZeRO-2 gives back encoder." in text for text in told)
    assert all("nothing trained this way can be trusted" in text for text in told)


def test_processes_with_different_files_do_not_begin(fast):
    for text in rows_of(fast, "differ"):
        assert "process 1 and process 0 differ in their ds_config.json: zero_optimization and 0 more" in text


def test_deepspeed_prints_nothing(fast):
    assert (fast / "stdout").read_text() == ""
    said = [line for line in (fast / "stderr").read_text().splitlines() if line.strip()]
    assert [line for line in said if "deepspeed" in line.lower() or "Warning" in line] == []


@pytest.mark.slow
def test_every_stage_and_layout_equals_one_process(single, songs, slow, tmp_path):
    variant, out = slow
    for name in VARIANTS[variant].objectives:
        check_equal(single, out, variant, name)
    check_checkpoints(songs, out, variant, tmp_path)
    check_bad_step(out, variant)
