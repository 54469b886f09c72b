"""Clipping of all gradients or of each group alone, and clipping and Muon on a model that two processes share."""

import subprocess
import sys
from pathlib import Path

import pytest
import sharded_worker
import torch
from torch import distributed, nn

from birdjepa.models.vit import VitConfig
from birdjepa.optim.clipping import clip_gradients
from birdjepa.optim.groups import AdamWConfig

NEEDS_DISTRIBUTED = pytest.mark.skipif(not distributed.is_available(), reason="torch without torch.distributed")


def with_gradients() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Gradients of size 1 for matrices and 0.001 for the rest."""
    module = VitConfig(size="nano").build(16).initialise(torch.Generator().manual_seed(0))
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 1.0 if parameter.ndim > 1 and parameter.shape[0] > 1 else 0.001)
    return module, AdamWConfig().build(module)


def norm(parameters) -> float:
    return float(torch.stack([parameter.grad.norm() for parameter in parameters]).norm())


def test_all_together_is_torchs_clipping():
    mine, optimiser = with_gradients()
    theirs, _ = with_gradients()
    wanted = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    seen = clip_gradients(optimiser, 0.5, "all")
    assert torch.allclose(seen.total, wanted)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        if one.numel():
            assert torch.allclose(one.grad, other.grad)


def test_each_group_by_its_own_norm():
    _, optimiser = with_gradients()
    before = {group["name"]: norm(group["params"]) for group in optimiser.param_groups}
    assert before["no_decay"] < 0.5 < before["decay"]
    seen = clip_gradients(optimiser, 0.5, "group")
    assert {name: float(value) for name, value in seen.groups.items()} == pytest.approx(before)
    after = {group["name"]: norm(group["params"]) for group in optimiser.param_groups}
    assert after == pytest.approx({"decay": 0.5, "no_decay": before["no_decay"]}, rel=1e-4)


def test_zero_does_not_clip_and_what_is_not_a_number_shows():
    module, optimiser = with_gradients()
    clip_gradients(optimiser, 0.0, "all")
    assert module.get_parameter("embed.weight").grad.eq(1).all()
    module.get_parameter("embed.bias").grad[0] = torch.nan
    seen = clip_gradients(optimiser, 1.0, "group")
    assert seen.total.isnan()
    assert [name for name, value in seen.groups.items() if value.isnan()] == ["no_decay"]


def equal(made, wanted) -> None:
    (parameters, norms), (others, other_norms) = made, wanted
    assert norms == pytest.approx(other_norms, rel=1e-4)
    assert parameters.keys() == others.keys()
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, others[name], atol=1e-5), name


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@NEEDS_DISTRIBUTED
@pytest.mark.filterwarnings("ignore::UserWarning:torch.distributed")
def test_a_sharded_model_learns_as_a_plain_one(alone):
    module = sharded_worker.sharded(sharded_worker.model(), 1)
    assert all(hasattr(parameter, "full_tensor") for parameter in module.parameters())
    equal(sharded_worker.train(module), sharded_worker.train(sharded_worker.model()))


@NEEDS_DISTRIBUTED
@pytest.mark.slow
def test_two_processes_that_share_a_model_equal_one(tmp_path):
    worker = Path(sharded_worker.__file__)
    command = [sys.executable, str(worker), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    wanted = sharded_worker.train(sharded_worker.model())
    for rank in range(2):
        equal(torch.load(tmp_path / f"rank{rank}.pt"), wanted)
