import pytest
import torch
from tiny_codec import build_objective
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from birdjepa.core import config as configs
from birdjepa.optim.adversarial import AdversarialAdamWConfig, AdversarialMuonConfig


def players() -> nn.Module:
    module = nn.Module()
    module.add_module("vocoder", nn.Conv1d(2, 3, 3))
    module.add_module("discriminators", weight_norm(nn.Conv1d(1, 4, 5)))
    return module


def test_each_side_has_groups_of_its_own_and_gains_are_not_decayed() -> None:
    module = players()
    optimiser = AdversarialAdamWConfig(lr=1e-3, weight_decay=0.1, discriminator_rate=0.25).build(module)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {
        names[id(parameter)]: (group["name"], group["rate"], group["full_weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert found == {
        "vocoder.weight": ("decay", 1.0, 0.1),
        "vocoder.bias": ("no_decay", 1.0, 0.0),
        "discriminators.bias": ("discriminators no_decay", 0.25, 0.0),
        "discriminators.parametrizations.weight.original0": ("discriminators no_decay", 0.25, 0.0),
        "discriminators.parametrizations.weight.original1": ("discriminators decay", 0.25, 0.1),
    }
    assert all(len(optimiser.state[parameter]) == 3 for parameter in module.parameters())


def test_together_they_learn_as_by_two_optimisers() -> None:
    config = AdversarialAdamWConfig(lr=1e-2, weight_decay=0.1)
    together, apart = players(), players()
    apart.load_state_dict(together.state_dict())
    one = config.build(together)
    parts = {name: list(apart.get_submodule(name).parameters()) for name in ("vocoder", "discriminators")}
    rates = {"vocoder": 1e-2, "discriminators": 0.5e-2}
    two = []
    for name, parameters in parts.items():
        decayed = [each for each in parameters if each.ndim > 1 and each.shape[1:] != (1, 1)]
        rest = [each for each in parameters if all(each is not other for other in decayed)]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        two.append(torch.optim.AdamW(groups, lr=rates[name], betas=(0.8, 0.99), eps=1e-8))
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for mine, other in zip(together.parameters(), apart.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for group in one.param_groups:
            group["lr"] = 1e-2 * group["rate"]  # as the loop does
        for optimiser in (one, *two):
            optimiser.step()
    for mine, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_muon_takes_what_lies_within_the_vocoder() -> None:
    """The rest of it and the discriminators move as by AdamW alone, to the bit."""
    mine, theirs = build_objective(), build_objective()
    by_muon, by_adamw = AdversarialMuonConfig(lr=1e-3).build(mine), AdversarialAdamWConfig(lr=1e-3).build(theirs)
    (muon,) = (group for group in by_muon.param_groups if "parts" in group)
    names = {id(parameter): name for name, parameter in mine.named_parameters()}
    hidden = {names[id(parameter)] for parameter in muon["params"]}
    vocoder = {name for name, parameter in mine.named_parameters() if ".vocoder." in name and parameter.ndim == 3}
    assert hidden == vocoder - {"codec.vocoder.enter.weight", "codec.vocoder.leave.weight"}
    assert len(hidden) > 10
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            if one.requires_grad:
                one.grad = torch.randn(one.shape, generator=generator)
                other.grad = one.grad.clone()
        for optimiser in (by_muon, by_adamw):
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * group["rate"]
            optimiser.step()
    for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other) == (name not in hidden), name


def test_bad_settings_are_refused() -> None:
    for settings, match in (
        ({"layer_decay": 0.5}, "for encoders that learn"),
        ({"head_rate": 2.0}, "for encoders that learn"),
        ({"discriminator_rate": 0.0}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=match):
            AdversarialAdamWConfig(**settings)
    with pytest.raises(ValueError, match="momentum must be in"):
        AdversarialMuonConfig(momentum=1.0)
    for kind in (AdversarialAdamWConfig, AdversarialMuonConfig):
        config = kind(discriminator_rate=2.0)
        assert configs.from_json(kind, configs.to_json(config)) == config
