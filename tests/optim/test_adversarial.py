import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from birdjepa.core import config as configs
from birdjepa.optim.adversarial import AdversarialAdamWConfig


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


def test_bad_settings_are_refused() -> None:
    for settings, match in (
        ({"layer_decay": 0.5}, "for encoders that learn"),
        ({"head_rate": 2.0}, "for encoders that learn"),
        ({"discriminator_rate": 0.0}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=match):
            AdversarialAdamWConfig(**settings)
    config = AdversarialAdamWConfig(discriminator_rate=2.0)
    assert configs.from_json(AdversarialAdamWConfig, configs.to_json(config)) == config
