"""What DeepSpeed saved becomes whole tensors, whatever the stage and number of processes; what is not whole, not plain
or not safe is refused in one line, and nothing of it runs.

The files are made by hand here. Those that DeepSpeed itself writes are in test_deepspeed_checkpoints.py.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import zero_files
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from zero_files import (
    BUFFERS,
    FROZEN,
    MODULE,
    TAG,
    TIED,
    change,
    converted,
    groups_of,
    module,
    part,
    refused,
    same,
    shard,
    write,
)

from birdjepa.checkpoint.deepspeed import convert, pieces
from birdjepa.cli import main
from birdjepa.core.errors import UsageError


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_gives_the_trained_weights_of_any_number_of_processes(tmp_path, stage, n, half):
    trained = module()
    write(tmp_path, stage, n, groups_of(trained), frozen=FROZEN, buffers=BUFFERS, tied=TIED, half=half)
    told, found = converted(tmp_path)
    same(found, {**trained, **FROZEN, **BUFFERS, "d.weight": trained["a.weight"]})
    assert (told.tag, told.stage, told.world_size, told.version) == (TAG, stage, n, "0.19.8")
    assert (told.n_tensors, told.n_numbers) == (len(found), zero_files.n_numbers(found))


def test_stage_0_gives_the_module_widened(tmp_path):
    trained = module()
    write(tmp_path, 0, 2, [trained], buffers=BUFFERS, tied=TIED, half=True)
    told, found = converted(tmp_path)
    rounded = {name: tensor.bfloat16().float() for name, tensor in trained.items()}
    same(found, {**rounded, **BUFFERS, "d.weight": rounded["a.weight"]})
    assert not told.widened_only
    change(tmp_path / TAG / MODULE, lambda state: state.update(optimizer={"fp32_groups": []}))
    (tmp_path / "out.safetensors").unlink()
    assert converted(tmp_path)[0].widened_only


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4), min_size=1, max_size=3),
    n=st.integers(1, 8),
    stage=st.sampled_from([1, 2, 3]),
)
def test_merging_undoes_cutting(tmp_path_factory, shapes, n, stage):
    folder = tmp_path_factory.mktemp("cut")
    groups = [{f"{g}.{i}": torch.randn(shape) for i, shape in enumerate(group)} for g, group in enumerate(shapes)]
    write(folder, stage, n, groups)
    same(converted(folder)[1], {name: tensor for group in groups for name, tensor in group.items()})


def test_alignment_between_parameters_is_left_out(tmp_path):
    """As zero_optimization.parameter_alignment has it: gaps are saved, the padding at the end is not."""
    trained = {"x": torch.randn(3), "y": torch.randn(2, 2), "z": torch.randn(5)}
    path = write(tmp_path, 2, 2, [trained])
    gap = torch.full((5,), 777.0)
    flat = torch.cat([trained["x"], gap, trained["y"].flatten(), gap[:4], trained["z"]])
    for rank, own in enumerate((flat[:11], flat[11:])):
        change(
            path / shard(rank),
            lambda state, own=own: state["optimizer_state_dict"].update(
                single_partition_of_fp32_groups=[own], param_alignment_paddings=[[5, 4, 0]]
            ),
        )
    same(converted(tmp_path)[1], trained)


def test_small_chunks_and_maps_that_are_opened_again_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "CHUNK", 3)
    monkeypatch.setattr(pieces, "_MAPPED", 40)
    for stage in (2, 3):
        write(tmp_path / str(stage), stage, 3, groups_of(module()), frozen=FROZEN, half=True)
        same(converted(tmp_path / str(stage))[1], {**module(), **FROZEN})


def test_a_state_dict_of_torch_on_request(tmp_path):
    write(tmp_path, 2, 2, groups_of(module()), buffers=BUFFERS)
    same(converted(tmp_path, ".pt")[1], {**module(), **BUFFERS})
    write(tmp_path / "big", 3, 2, [{"x": torch.randn(100_000)}])
    converted(tmp_path / "big", ".pt")
    assert (tmp_path / "big" / "out.pt").stat().st_size < 410_000
    with pytest.raises(UsageError, match=r"ends in \.safetensors, or in \.pt"):
        convert(tmp_path, tmp_path / "out.bin")
    with pytest.raises(UsageError, match="is there already"):
        convert(tmp_path, tmp_path / TAG / MODULE)


def test_a_module_takes_the_result_strictly(tmp_path):
    twin = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    state = twin.state_dict()
    trained = {name: state[name] for name, _ in twin.named_parameters()}
    buffers = {name: buffer for name, buffer in state.items() if name not in trained}
    write(tmp_path, 3, 2, [trained], buffers=buffers)
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    other.load_state_dict(converted(tmp_path)[1], strict=True)
    x = torch.randn(5, 3)
    assert torch.equal(other.eval()(x), twin.eval()(x))


def test_the_header_says_where_it_came_from(tmp_path):
    write(tmp_path, 3, 2, groups_of(module()))
    converted(tmp_path)
    with safe_open(tmp_path / "out.safetensors", framework="pt") as opened:
        about = json.loads(opened.metadata()["birdjepa"])
    assert about == {
        "source": "deepspeed",
        "tag": TAG,
        "zero_stage": "3",
        "world_size": "2",
        "deepspeed": "0.19.8",
        "encoder": "",
    }


def test_honest_files_of_scripts_are_read_without_deepspeed(tmp_path, monkeypatch):
    more = {
        "args": argparse.Namespace(lr=1e-4, out=pathlib.PosixPath("runs")),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "global_step": 7,
    }
    write(tmp_path, 2, 2, groups_of(module()), half=True, more=more)
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # an import of it would fail
    same(converted(tmp_path)[1], module())


def test_what_is_no_number_and_what_is_no_tensor_is_told(tmp_path, capsys):
    trained = {"x": torch.tensor([1.0, float("nan")]), "y": torch.ones(3)}
    path = write(tmp_path, 2, 2, [trained])
    change(path / MODULE, lambda state: state["module"].update({"layer._extra_state": None}))
    assert main(["convert", "deepspeed", "--ds-dir", str(tmp_path), "--out", str(tmp_path / "o.safetensors")]) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'o.safetensors'}\n"
    assert f"2 tensors, 5 numbers: tag {TAG}, ZeRO-2, world size 2, DeepSpeed 0.19.8" in told.err
    assert "1 tensors hold NaN or infinity: x" in told.err
    assert "1 entries of the module are no tensors and left out: layer._extra_state" in told.err


def test_the_newest_tag_is_what_latest_says_and_another_is_asked_for_by_name(tmp_path):
    other = module(1)
    write(tmp_path, 2, 2, groups_of(other), tag="early")
    write(tmp_path, 2, 2, groups_of(module()))
    same(converted(tmp_path)[1], module())
    (tmp_path / "out.safetensors").unlink()
    same(converted(tmp_path, tag="early")[1], other)
    assert "has no tag 'late'; there are early, step7" in refused(tmp_path, tag="late")


@pytest.mark.parametrize(
    "latest", ["../../x", "..", ".", "", "/etc", "step7/../../x", "a\\b", "step7\nstep8", "gone", "\0"]
)
def test_latest_leads_nowhere_else(tmp_path, latest):
    folder = tmp_path / "a" / "b"
    write(tmp_path / "x" / "..", 2, 1, groups_of(module()), tag="x")
    write(folder, 2, 2, groups_of(module()))
    (folder / "latest").write_text(latest)
    told = refused(folder)
    assert str(folder / "latest") in told
    assert "there are step7" in told


@pytest.mark.parametrize("tag", ["../b/step7", "..", "/etc", "", "step7/"])
def test_a_tag_is_one_name(tmp_path, tag):
    write(tmp_path / "b", 2, 2, groups_of(module()))
    assert "is no tag" in refused(tmp_path / "b", tag=tag)


def test_without_latest_nothing_is_guessed(tmp_path):
    path = write(tmp_path, 2, 2, groups_of(module()))
    (tmp_path / "latest").unlink()
    assert "latest is missing, so no tag is the newest: give one by --tag; there are step7" in refused(tmp_path)
    assert f"give --ds-dir {tmp_path} --tag step7" in refused(path)
    with pytest.raises(UsageError, match="no such folder"):
        convert(tmp_path / "none", tmp_path / "o.pt")


def test_files_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        write(tmp_path, 2, 2, groups_of(module()))
    finally:
        torch.serialization.set_crc32_options(before)
    same(converted(tmp_path)[1], module())


def test_links_and_pipes_are_not_opened(tmp_path):
    path = write(tmp_path / "real", 2, 2, groups_of(module()))
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / TAG).symlink_to(path)
    (linked / "latest").write_text(TAG)
    assert "is a symbolic link, which is not followed" in refused(linked)
    (path / shard(1)).rename(tmp_path / "elsewhere.pt")
    (path / shard(1)).symlink_to(tmp_path / "elsewhere.pt")
    assert f"{path / shard(1)}: is a symbolic link" in refused(tmp_path / "real")
    (path / shard(1)).unlink()
    os.mkfifo(path / shard(1))
    assert "is a special file" in refused(tmp_path / "real")


def renamed(old, new):
    return lambda path: (path / old).rename(path / new)


def gone(name):
    return lambda path: (path / name).unlink()


def copied(old, new):
    return lambda path: (path / new).write_bytes((path / old).read_bytes())


def edited(name, edit):
    return lambda path: change(path / name, edit)


def optim(name, **entries):
    return edited(name, lambda state: state["optimizer_state_dict"].update(entries))


def cut_short(name):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-200])


def flipped(name):
    """One bit of the numbers; the map would not notice."""

    def flip(path):
        data = bytearray((path / name).read_bytes())
        data[data.index(module()["a.weight"].numpy().tobytes()[:16])] ^= 1
        (path / name).write_bytes(bytes(data))

    return flip


def squeezed(name):
    def squeeze(path):
        with zipfile.ZipFile(path / name) as old:
            records = {each.filename: old.read(each) for each in old.infolist()}
        with zipfile.ZipFile(path / name, "w", zipfile.ZIP_DEFLATED) as new:
            for record, content in records.items():
                new.writestr(record, content)

    return squeeze


DAMAGES = {
    "last shard gone": (2, gone(shard(1)), f"{shard(1)} is missing: 2 processes trained"),
    "first shard gone": (2, gone(shard(0)), f"{shard(0)} is missing"),
    "all shards gone": (2, lambda path: [(path / shard(r)).unlink() for r in (0, 1)], "files of its weights"),
    "module gone": (2, gone(MODULE), f"{MODULE} is missing"),
    "one too many": (2, copied(shard(1), shard(2)), f"{shard(2)}: is one too many"),
    "gap": (2, copied(shard(1), shard(3)), f"{shard(2)} is missing"),
    "part gone": (3, gone(part(1)), f"{part(1)} is missing: 2 processes trained"),
    "part too many": (3, copied(part(1), part(2)), f"{part(2)} is one too many: 2 processes trained"),
    "two kinds": (2, copied(shard(1), f"bf16_{shard(1)}"), "two checkpoints are mixed"),
    "mixed prefix": (2, renamed(shard(1), f"bf16_{shard(1)}"), "two checkpoints are mixed"),
    "stages mixed": (3, copied(part(0), MODULE), "ZeRO-3 and another stage are mixed"),
    "tensor parallel": (2, copied(MODULE, "mp_rank_01_model_states.pt"), "model-parallel"),
    "pipeline": (2, copied(MODULE, "layer_00-model_00-model_states.pt"), "of experts, of a pipeline"),
    "experts": (2, edited(MODULE, lambda state: state.update(num_experts=[4])), "of experts"),
    "stage of one": (2, optim(shard(1), zero_stage=1), f"{shard(1)}: is of ZeRO-1, and {shard(0)} of ZeRO-2"),
    "stage of all": (3, optim(shard(0), zero_stage=2), "says ZeRO-2, and holds fp32_flat_groups"),
    "processes": (2, optim(shard(1), partition_count=[4, 4]), f"{shard(1)}: is of 4 processes, and {shard(0)} of 2"),
    "uneven": (2, optim(shard(1), partition_count=[2, 1]), "different numbers of parts"),
    "module of others": (
        2,
        edited(MODULE, lambda state: state.update(dp_world_size=8)),
        f"{MODULE}: is of 8 processes",
    ),
    "too few numbers": (
        2,
        optim(shard(1), single_partition_of_fp32_groups=[torch.ones(1), torch.ones(1)]),
        "group 0 has",
    ),
    "fewer groups": (2, optim(shard(1), single_partition_of_fp32_groups=[torch.ones(1)]), "numbers of groups"),
    "no tensors": (2, optim(shard(1), single_partition_of_fp32_groups=[1, 2]), "no list of flat tensors"),
    "too many numbers": (3, optim(shard(1), fp32_flat_groups=[torch.ones(90), torch.ones(9)]), f"{shard(1)}: holds 99"),
    "alignment": (2, optim(shard(0), param_alignment_paddings=[[-1]]), "param_alignment_paddings"),
    "shapes": (2, edited(MODULE, lambda state: state["param_shapes"][0].update({"a.weight": (7, 5)})), "has shape"),
    "shape of text": (
        2,
        edited(MODULE, lambda state: state["param_shapes"][0].update({"a.weight": "x"})),
        "as the shape",
    ),
    "no module": (2, edited(MODULE, lambda state: state.update(module=None)), "its module is no dict"),
    "tied to nothing": (2, edited(MODULE, lambda state: state.update(shared_params={"p": "q"})), "p is tied to q"),
    "unknown to ZeRO-3": (
        3,
        edited(part(0), lambda state: state["module"].update(lost=torch.empty(0))),
        "lost is cut up by ZeRO-3",
    ),
    "fragments gone": (
        3,
        edited(part(1), lambda state: state.update(frozen_param_fragments=None)),
        "frozen f.bias, f.weight are not saved",
    ),
    "of another step": (
        2,
        edited(shard(0), lambda state: state["optimizer_state_dict"]["single_partition_of_fp32_groups"][0].add_(0.01)),
        "is not what mp_rank_00_model_states.pt holds",
    ),
    "cut short": (2, cut_short(shard(1)), "cut short"),
    "empty": (2, lambda path: (path / shard(1)).write_bytes(b""), "cut short"),
    "text": (2, lambda path: (path / shard(1)).write_text("lfs pointer"), "cut short"),
    "flipped": (2, flipped(shard(0)), "is damaged (Bad CRC-32"),
    "compressed": (2, squeezed(shard(1)), "is compressed"),
    "no dictionary": (2, lambda path: torch.save([1], path / shard(1)), "holds no dictionary"),
    "claims": (
        0,
        edited(MODULE, lambda state: state["module"].update(x=torch.ones(1).expand(10**12))),
        "claims more numbers",
    ),
    "sparse": (0, edited(MODULE, lambda state: state["module"].update(x=torch.eye(2).to_sparse())), "no plain tensor"),
    "metadata": (0, edited(MODULE, lambda state: state["module"].update(__metadata__=torch.ones(1))), "__metadata__"),
    "float8": (
        0,
        edited(MODULE, lambda state: state["module"].update(x=torch.ones(2, dtype=torch.complex128))),
        "safetensors does not know",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_refused(tmp_path, damage):
    stage, do, reason = DAMAGES[damage]
    do(write(tmp_path, stage, 2, groups_of(module()), frozen=FROZEN))
    told = refused(tmp_path)
    assert str(tmp_path) in told or damage in ("metadata", "float8")
    assert reason in told


def test_frozen_parameters_of_stage_1_are_the_modules_and_missed_where_it_lacks_them(tmp_path):
    """ZeRO-1 saves no fragments of them (DeepSpeed issue 5439)."""
    path = write(tmp_path, 1, 2, groups_of(module()), frozen=FROZEN)
    same(converted(tmp_path)[1], {**module(), **FROZEN})

    def leave_out(state):
        state["frozen_param_shapes"] = {name: tensor.shape for name, tensor in FROZEN.items()}
        for name in FROZEN:
            del state["module"][name]

    change(path / MODULE, leave_out)
    assert "frozen f.bias, f.weight are not saved" in refused(tmp_path)


MEASURED = """
import sys, pathlib
from birdjepa.checkpoint.deepspeed import convert, pieces
pieces.CHUNK, pieces._MAPPED = 1 << 18, 1 << 22
convert(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="no /proc to read the peak memory from")
@pytest.mark.parametrize("stage", [2, 3])
def test_memory_does_not_grow_with_the_model(tmp_path, stage):
    """Peak of a process, in kB: 100 MB more of weights (and 50 of the module's) are not 30 MB more of memory."""
    peaks = []
    for n in (1_000, 5_000_000):
        folder = tmp_path / str(n)
        write(folder, stage, 2, [{f"x{each}": torch.ones(n) for each in range(5)}], half=True)
        command = [sys.executable, "-c", MEASURED, str(folder), str(folder / "out.safetensors")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 30_000
