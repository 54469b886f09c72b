"""What DeepSpeed itself saved, by two processes: converted, it is bit for bit what they trained.

What the two do is in deepspeed_writer.py. Files made by hand are in test_deepspeed_files.py.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from odd_module import Odd
from safetensors.torch import load_file

from birdjepa.checkpoint.deepspeed import convert
from birdjepa.cli import main

PATIENCE_S = 600
pytestmark = [
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
    pytest.mark.timeout(PATIENCE_S),
]

FAST = ("zero2-bf16", "zero3-bf16")
SLOW = (
    "zero0-fp32",
    "zero1-fp32",
    "zero1-bf16",
    "zero1-bf16-accumulated",
    "zero2-fp32",
    "zero2-bf16-aligned",
    "zero3-fp32",
    "zero3-bf16-pieces",
    "zero3-bf16-persistent",
)
ROUNDED = ("zero0-bf16", "zero2-bf16-robin")
"""Of which the trainer tells other weights than it saves: see the test of each."""


def launched(folder, *variants):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("deepspeed_writer.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with (folder / "said").open("w") as said:
        started = subprocess.Popen(
            [*command, str(script), str(folder), *variants], env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            started.wait(timeout=0.9 * PATIENCE_S)
        finally:
            started.terminate()  # torchrun ends its processes with itself
    assert started.returncode == 0, (folder / "said").read_text()[-4000:]
    return folder


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("fast"), *FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return launched(tmp_path_factory.mktemp("slow"), *SLOW, *ROUNDED)


def told_and_converted(folder, variant):
    out = folder / f"{variant}.safetensors"
    done = convert(folder / variant, out)
    assert (done.stage, done.world_size) == (int(variant[4]), 2)
    return torch.load(folder / f"{variant}.pt", weights_only=True), load_file(out)


def check_equal(folder, variant):
    told, found = told_and_converted(folder, variant)
    assert set(found) == set(told)
    for name, tensor in told.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert torch.equal(found["tied.weight"], found["first.weight"])


@pytest.mark.parametrize("variant", FAST)
def test_converted_is_what_was_trained(fast, variant):
    check_equal(fast, variant)


@pytest.mark.parametrize("variant", FAST)
def test_the_command_reads_any_tag_and_another_module_takes_it_strictly(fast, variant, tmp_path, capsys):
    out = tmp_path / "whole.pt"
    command = ["convert", "deepspeed", "--ds-dir", str(fast / variant), "--out", str(out), "--tag", "before"]
    assert main(command) == 0
    assert f"14 tensors, 241 numbers: tag before, ZeRO-{variant[4]}, world size 2" in capsys.readouterr().err
    Odd().load_state_dict(torch.load(out, weights_only=True), strict=True)
    early, late = torch.load(out, weights_only=True), torch.load(fast / f"{variant}.pt", weights_only=True)
    assert not torch.equal(early["first.weight"], late["first.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("variant", SLOW)
def test_every_stage_and_layout_is_what_was_trained(slow, variant):
    check_equal(slow, variant)


@pytest.mark.slow
def test_stage_0_in_half_precision_is_the_module_widened(slow):
    """Its float32 weights are saved without names; what the trainer tells are the module's."""
    check_equal(slow, "zero0-bf16")
    assert convert(slow / "zero0-bf16", slow / "again.safetensors").widened_only


@pytest.mark.slow
def test_round_robin_is_what_the_module_rounds(slow):
    """DeepSpeed 0.19.8 itself reads other parameters' weights with this setting (docs/deepspeed.md), so what it tells
    is no measure; the module's own half-precision weights are."""
    told, found = told_and_converted(slow, "zero2-bf16-robin")
    assert any(not torch.equal(found[name], told[name]) for name in told)
    module = torch.load(slow / "zero2-bf16-robin" / "final" / "mp_rank_00_model_states.pt", weights_only=True)["module"]
    for name, tensor in module.items():
        assert torch.equal(found[name].to(tensor.dtype), tensor), name
