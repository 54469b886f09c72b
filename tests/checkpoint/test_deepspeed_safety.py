"""Nothing in a file that claims to be of DeepSpeed runs, whatever it is made to ask for; it is refused in one line."""

import builtins
import contextlib
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest
import torch
import zero_files
from hypothesis import given, settings
from hypothesis import strategies as st
from zero_files import BUFFERS, FROZEN, MODULE, TIED, Calls, change, converted, groups_of, module, refused, shard, write

from birdjepa.checkpoint.deepspeed import pickles
from birdjepa.cli import main
from birdjepa.core.errors import UsageError


def hostile(canary):
    """What must not run; each would leave the canary."""
    command = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": (Calls(os.system, f"touch {canary}"), r"posix\.system|os\.system"),
        "eval": (Calls(builtins.eval, command), "eval"),
        "exec": (Calls(builtins.exec, command), "exec"),
        "subprocess": (Calls(subprocess.check_call, ["touch", str(canary)]), "call"),
        "dotted": (Calls(pathlib.Path.touch, pathlib.PosixPath(canary)), r"getattr|Path\.touch"),
        "torch": (Calls(torch.save, {}, str(canary)), r"torch\.serialization\.save"),
        "torch.load": (Calls(torch.load, str(canary), None, None), r"torch\.serialization\.load"),
        "numpy": (Calls(np.save, str(canary), 1), "numpy"),
    }


@pytest.mark.parametrize("where", ["module", "shard"])
@pytest.mark.parametrize("kind", hostile("x"))
def test_hostile_pickles_are_refused_unrun(tmp_path, kind, where, capsys):
    canary = tmp_path / "canary"
    payload, name = hostile(canary)[kind]
    path = write(tmp_path, 2, 2, groups_of(module()))
    if where == "module":
        change(path / MODULE, lambda state: state.update(client=payload))
    else:
        change(path / shard(1), lambda state: state["optimizer_state_dict"]["base_optimizer_state"].update(x=[payload]))
    out = tmp_path / "o.safetensors"
    assert main(["convert", "deepspeed", "--ds-dir", str(tmp_path), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(path / (MODULE if where == "module" else shard(1))) in told
    assert re.search(name, told)
    assert not canary.exists()
    assert not out.exists()


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_other_protocols_hide_nothing(tmp_path, protocol):
    canary = tmp_path / "canary"
    path = write(tmp_path, 2, 2, groups_of(module()))
    pickled = zero_files.pickled({"x": Calls(os.system, f"touch {canary}")}, protocol)
    zero_files.zipped(path / shard(1), pickled)
    told = refused(tmp_path)
    assert str(path / shard(1)) in told
    assert "posix.system" in told or protocol < 2  # of which torch reads not even the containers
    assert not canary.exists()


def test_opcodes_that_import_otherwise_are_named(tmp_path):
    path = write(tmp_path, 2, 2, groups_of(module()))
    zero_files.zipped(path / shard(1), b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.")
    assert "os.system" in refused(tmp_path)
    zero_files.zipped(path / shard(1), b"\x80\x02(X\x01\x00\x00\x00aios\nsystem\n.")
    assert "os.system" in refused(tmp_path)


def test_bare_pickles_and_scripts_of_torch_are_not_read(tmp_path):
    path = write(tmp_path, 2, 2, groups_of(module()))
    (path / shard(1)).write_bytes(zero_files.pickled({"x": Calls(os.system, "false")}, 2))
    assert "not a file of torch.save" in refused(tmp_path)
    torch.save({}, path / shard(1), _use_new_zipfile_serialization=False)
    assert "not a file of torch.save" in refused(tmp_path)


def test_scripts_beside_the_tags_are_not_run(tmp_path):
    canary = tmp_path / "canary"
    path = write(tmp_path, 2, 2, groups_of(module()))
    for script in (tmp_path / "zero_to_fp32.py", path / "zero_to_fp32.py", path / "conftest.py"):
        script.write_text(f"open({str(canary)!r}, 'w')")
    converted(tmp_path)
    assert not canary.exists()


def test_stand_ins_keep_nothing_and_are_forgotten_afterwards(tmp_path):
    write(tmp_path, 2, 2, groups_of(module()))
    before = set(torch.serialization.get_safe_globals())  # torch keeps a set and lists it in any order
    converted(tmp_path)
    assert set(torch.serialization.get_safe_globals()) == before
    inert = pickles.Inert("anything", 3)
    inert.__setstate__({"run": os.system})
    assert not hasattr(inert, "__dict__")
    assert not hasattr(inert, "run")


ODD = [None, 3, -1, 2.5, "x", [], [1], {}, {1: 2}, {"x": 1}, [[1]], (), torch.ones(()), torch.ones(2, 2), torch.ones(3)]


def places(value, path=()):
    """Ways to all entries of nested dictionaries and lists."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(max_examples=60, deadline=None)
@given(stage=st.sampled_from([0, 2, 3]), chance=st.randoms(use_true_random=False))
def test_any_entry_may_be_of_any_kind(tmp_path_factory, stage, chance):
    """Nothing but a UsageError comes of it, or a whole file."""
    folder = tmp_path_factory.mktemp("odd")
    path = write(folder, stage, 2, groups_of(module()), frozen=FROZEN, buffers=BUFFERS, tied=TIED)
    file = chance.choice(sorted(path.iterdir()))

    def put(state):
        *way, last = chance.choice(sorted(places(state), key=str))
        for key in way:
            state = state[key]
        state[last] = chance.choice(ODD)

    change(file, put)
    with contextlib.suppress(UsageError):
        converted(folder)
