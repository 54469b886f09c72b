"""Parameter groups: every trainable parameter is in exactly one, and vectors and tokens are not decayed."""

import pytest
import torch
from torch import nn

from birdjepa.models.vit import VitConfig
from birdjepa.optim.groups import AdamWConfig, parameter_table


def vit(**settings):
    model = VitConfig(**{"size": "nano", "n_cls": 2, "n_registers": 3, "layer_scale": 0.1, **settings}).build(16)
    return model.initialise(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [{}, {"mlp": "swiglu"}, {"n_registers": 0, "layer_scale": 0.0}])
def test_the_table_is_complete(settings):
    model = vit(**settings)
    table = {row.name: row for row in parameter_table(model)}
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters() if p.numel()}
    assert {name: row.shape for name, row in table.items()} == wanted


def test_vectors_and_tokens_are_not_decayed_and_matrices_are():
    table = {row.name: row.group for row in parameter_table(vit())}
    assert table["cls"] == table["registers"] == "no_decay"
    for name, group in table.items():
        is_matrix = name.endswith("weight") and "norm" not in name
        assert group == ("decay" if is_matrix else "no_decay"), name
    assert {"blocks.0.norm1.weight", "blocks.1.scale2.gain", "embed.bias"} <= {
        name for name, group in table.items() if group == "no_decay"
    }


def test_the_optimiser_holds_each_parameter_once():
    model = vit()
    model.embed.requires_grad_(False)
    config = AdamWConfig(lr=2e-3, weight_decay=0.1, beta1=0.8, beta2=0.9, eps=1e-6)
    optimiser = config.build(model)
    held = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters() if p.requires_grad and p.numel()}
    assert [(group["name"], group["weight_decay"]) for group in optimiser.param_groups] == [
        ("decay", 0.1),
        ("no_decay", 0),
    ]
    assert all(
        (group["lr"], group["betas"], group["eps"]) == (2e-3, (0.8, 0.9), 1e-6) for group in optimiser.param_groups
    )


def test_decay_moves_matrices_only():
    """With gradients of zero, a step of AdamW only decays."""
    model = vit()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = AdamWConfig(lr=0.1, weight_decay=0.5).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, parameter in model.named_parameters():
        group = "decay" if name.endswith("weight") and "norm" not in name else "no_decay"
        wanted = before[name] * 0.95 if group == "decay" else before[name]
        assert torch.allclose(parameter, wanted, rtol=1e-6), name


def test_a_module_of_vectors_only_builds():
    assert len(AdamWConfig().build(nn.LayerNorm(4)).param_groups) == 1


class Tuned(nn.Module):
    """What fine-tuning trains: an encoder with a transformer inside, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.vit = vit()
        self.head = nn.Linear(4, 2)


def test_rates_fall_from_block_to_block_towards_the_input():
    rates = {row.name: row.rate for row in parameter_table(Tuned(), layer_decay=0.5, head_rate=10.0)}
    assert rates["head.weight"] == rates["head.bias"] == 10.0
    assert rates["encoder.vit.norm.weight"] == 1.0
    assert rates["encoder.vit.blocks.1.mlp.fc1.weight"] == 0.5
    assert rates["encoder.vit.blocks.0.attention.qkv.bias"] == 0.25
    assert rates["encoder.vit.embed.weight"] == rates["encoder.vit.cls"] == rates["encoder.vit.registers"] == 0.125


def test_groups_carry_their_rate_and_each_parameter_is_in_one():
    module = Tuned()
    optimiser = AdamWConfig(layer_decay=0.5, head_rate=10.0).build(module)
    rates = {row.name: row.rate for row in parameter_table(module, 0.5, 10.0)}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    held = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters() if p.numel())
    for group in optimiser.param_groups:
        assert {rates[names[id(parameter)]] for parameter in group["params"]} == {group["rate"]}
        assert group["full_weight_decay"] == (0.05 if group["name"].startswith("decay") else 0.0)


@pytest.mark.parametrize("settings", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"head_rate": 0.0}])
def test_rates_outside_their_limits_are_refused(settings):
    with pytest.raises(ValueError, match="need 0 < layer_decay <= 1"):
        AdamWConfig(**settings)


@pytest.mark.parametrize(
    "settings", [{"lr": 0.0}, {"weight_decay": -1.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"eps": 0.0}]
)
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(ValueError, match="need lr > 0"):
        AdamWConfig(**settings)
