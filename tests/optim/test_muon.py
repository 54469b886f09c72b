"""Muon: parity with torch's own on plain matrices, AdamW on the rest, and matrices that are fused or sharded."""

import copy

import pytest
import torch
from torch import nn

from birdjepa.models.projector import Projector, ProjectorConfig
from birdjepa.models.vit import VitConfig
from birdjepa.optim import muon
from birdjepa.optim.groups import AdamWConfig, describe, parameter_table, with_moments
from birdjepa.optim.muon import Muon, MuonConfig, orthogonalise, orthogonalise_all
from birdjepa.optim.roles import ROLES, Role, roles

CONFIG = MuonConfig(lr=3e-3, weight_decay=0.1, momentum=0.9, beta1=0.8, beta2=0.9, eps=1e-6)


@pytest.fixture
def in_bf16(monkeypatch):
    """The precision that torch.optim.Muon always computes in."""
    monkeypatch.setattr(muon, "has_bf16", lambda device: True)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vit(**settings):
    return VitConfig(size="nano", n_registers=2, **settings).build(16).initialise(torch.Generator().manual_seed(0))


def give_gradients(module, seed):
    for number, parameter in enumerate(module.parameters()):
        parameter.grad = drawn(*parameter.shape, seed=1000 * seed + number)


class Plain(nn.Module):
    """Two hidden matrices, one of them tall, and a vector."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Parameter(drawn(24, 40))
        self.tall = nn.Parameter(drawn(40, 24))
        self.gain = nn.Parameter(torch.ones(24))


@pytest.fixture
def plain_roles(monkeypatch):
    hidden = Role("hidden")
    monkeypatch.setitem(ROLES, Plain, {"wide": hidden, "tall": hidden, "gain": Role("vector")})


def stepped(module, optimisers, n_steps=4):
    for step in range(n_steps):
        give_gradients(module, step)
        for optimiser in optimisers:
            optimiser.step()
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def test_plain_matrices_move_as_torchs_muon_moves_them(plain_roles, in_bf16):
    mine, theirs = Plain(), Plain()
    torchs = torch.optim.Muon(
        [theirs.wide, theirs.tall], lr=3e-3, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    others = torch.optim.AdamW([theirs.gain], lr=3e-3, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.0, fused=True)
    ours, wanted = stepped(mine, [CONFIG.build(mine)]), stepped(theirs, [torchs, others])
    assert torch.equal(ours["gain"], wanted["gain"])
    for name in ("wide", "tall"):
        moved = (wanted[name] - getattr(Plain(), name)).abs().max()
        assert (ours[name] - wanted[name]).abs().max() < 0.01 * moved, name


def test_float32_agrees_with_bfloat16(plain_roles, monkeypatch):
    ended = []
    for bf16 in (False, True):
        monkeypatch.setattr(muon, "has_bf16", lambda device, bf16=bf16: bf16)
        module = Plain()
        ended.append(stepped(module, [CONFIG.build(module)])["wide"] - Plain().wide.detach())
    assert (ended[0] - ended[1]).norm() < 0.02 * ended[0].norm()


def test_all_but_hidden_matrices_move_as_adamw_moves_them():
    mine, theirs = vit(), vit()
    adamw = AdamWConfig(lr=3e-3, weight_decay=0.1, beta1=0.8, beta2=0.9, eps=1e-6)
    ours, wanted = stepped(mine, [CONFIG.build(mine)]), stepped(theirs, [adamw.build(theirs)])
    hidden = {row.name for row in parameter_table(mine, with_muon=True) if row.parts}
    assert hidden == {
        f"blocks.{block}.{name}.weight"
        for block in range(2)
        for name in ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")
    }
    for name in ours:
        assert torch.equal(ours[name], wanted[name]) == (name not in hidden), name


@pytest.mark.parametrize(("mlp", "parts"), [("gelu", {"qkv": 3}), ("swiglu", {"qkv": 3, "fc1": 2})])
def test_fused_matrices_move_as_separate_ones(in_bf16, mlp, parts):
    module = vit(mlp=mlp)
    rows = {row.name: row for row in parameter_table(module, with_muon=True) if row.parts}
    assert {name.split(".")[-2]: row.parts for name, row in rows.items() if row.parts > 1} == parts
    before = copy.deepcopy(module)
    stepped(module, [CONFIG.build(module)], n_steps=1)
    for fused in parts:
        (name,) = (name for name in rows if name.startswith("blocks.1.") and f"{fused}." in name)
        old, new = before.get_parameter(name), module.get_parameter(name)
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        for was, became, its in zip(*(each.chunk(parts[fused]) for each in (old, new, gradient)), strict=True):
            single = nn.Parameter(was.detach().clone())
            single.grad = its.clone()
            alone = torch.optim.Muon([single], lr=3e-3, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
            alone.step()
            assert (became - single).norm() < 0.01 * (single - was).norm()


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_a_kernel_moves_as_the_matrix_of_its_first_axis_by_the_others(kind):
    convolution = kind(6, 8, 5)
    before, rows = convolution.weight.detach().clone(), len(convolution.weight)
    matrix = nn.Linear(before[0].numel(), rows, bias=False)
    with torch.no_grad():
        matrix.weight.copy_(before.flatten(1))
    optimiser = CONFIG.build(convolution)
    groups = {"params": [matrix.weight], "parts": [1], "weight_decay": 0.1, "name": "muon"}
    other = with_moments(Muon([groups], lr=3e-3, momentum=0.9, betas=(0.8, 0.9), eps=1e-6))
    for seed in range(3):
        give_gradients(convolution, seed)
        assert convolution.weight.grad is not None
        matrix.weight.grad = convolution.weight.grad.flatten(1)
        optimiser.step()
        other.step()
    assert torch.equal(convolution.weight.flatten(1), matrix.weight)
    assert not torch.equal(convolution.weight, before)


def test_singular_values_come_near_one():
    """Rectangles: all within [0.68, 1.14]. Squares of noise have some near 0, which stay below 0.5: under 2 %."""
    for shape in ((192, 768), (768, 192), (64, 1024)):
        values = torch.linalg.svdvals(orthogonalise(drawn(4, *shape)))
        assert values.min() > 0.5, shape
        assert values.max() < 1.5, shape
    values = torch.linalg.svdvals(orthogonalise(drawn(4, 192, 192)))
    assert (values < 0.5).float().mean() < 0.02
    assert values.max() < 1.5


def test_it_keeps_singular_vectors(monkeypatch):
    monkeypatch.setattr(muon, "has_bf16", lambda device: False)
    matrix = drawn(16, 48)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalise(matrix[None])[0] @ right.T
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-4


def test_matrices_of_one_shape_together_equal_one_by_one():
    matrices = [drawn(8, 24, seed=1), drawn(24, 8, seed=2), drawn(8, 24, seed=3), torch.zeros(8, 24)]
    together = orthogonalise_all(matrices)
    for one, matrix in zip(together, matrices, strict=True):
        assert torch.allclose(one, orthogonalise(matrix[None])[0], atol=1e-5)
    assert not together[3].any()


def test_a_step_has_the_size_of_one_of_adamw(plain_roles):
    module = Plain()
    before = module.wide.detach().clone()
    stepped(module, [MuonConfig(lr=1.0, weight_decay=0.0).build(module)], n_steps=1)
    assert 0.15 < float((module.wide.detach() - before).square().mean().sqrt()) < 0.25


def test_projectors_have_one_hidden_matrix():
    projector = Projector(ProjectorConfig(hidden=8, width=4), 6)
    rows = parameter_table(projector, with_muon=True)
    assert [row.name for row in rows if row.parts] == ["layers.3.weight"]
    assert {row.name: row.group for row in rows}["layers.0.weight"] == "decay"


def test_a_parameter_without_a_role_is_refused():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit()
            self.extra = nn.Linear(3, 4)

    with pytest.raises(ValueError, match=r"extra.weight \(4, 3\) has no role: say in optim/roles.py"):
        CONFIG.build(Mine())


def test_roles_survive_a_wrapped_class():
    class Wrapped(Projector):
        """As FSDP makes one."""

    assert roles(Wrapped(ProjectorConfig(), 4)) == roles(Projector(ProjectorConfig(), 4))


def test_moments_are_there_from_the_start():
    optimiser = CONFIG.build(vit())
    before = {key: set(state) for key, state in optimiser.state.items()}
    assert {frozenset(names) for names in before.values()} == {
        frozenset({"momentum"}),
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
    }
    give_gradients(vit(), 0)
    optimiser.step()
    assert before == {key: set(state) for key, state in optimiser.state.items()}


def test_the_table_says_who_is_whose():
    *lines, clipped = describe(CONFIG.build(vit()), 1.0, "group")
    assert clipped == "optimiser: gradient norm at most 1, in each group by itself"
    assert [line.split()[1:3] for line in lines] == [["AdamW", "decay"], ["Muon", "muon"], ["AdamW", "no_decay"]]
    assert "lr 0.003" in lines[1]
    assert "weight decay 0.1" in lines[1]


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"lr": 0.0}, {"beta2": 1.0}, {"layer_decay": 0.0}])
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(ValueError, match=r"momentum must be|need "):
        MuonConfig(**settings)
