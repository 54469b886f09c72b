"""The average of weights, to the last digit that float32 has."""

import pytest
import torch
from torch import nn

from birdjepa.optim.ema import Ema


def test_the_average_is_the_recurrence():
    module = nn.Linear(3, 2)
    ema = Ema(module, 0.9)
    wanted = module.weight.detach().double()
    for step in range(20):
        with torch.no_grad():
            module.weight.add_(step + 1.0)
        wanted = 0.9 * wanted + 0.1 * module.weight.detach().double()
        ema.update(module)
    assert torch.allclose(ema.state_dict()["weight"].double(), wanted, rtol=1e-6)
    assert set(ema.state_dict()) == set(module.state_dict())


def test_it_starts_as_a_copy_of_its_own():
    module = nn.Linear(3, 2)
    ema = Ema(module, 0.5)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(ema.state_dict()["weight"], before)


def test_half_precision_is_averaged_in_float32():
    """In bfloat16 a change of 1e-3 would be lost: 1 + 1e-3 is 1."""
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = Ema(module, 0.999)
    with torch.no_grad():
        module.weight.fill_(2.0)
    ema.update(module)
    assert ema.state_dict()["weight"].dtype == torch.float32
    assert float(ema.state_dict()["weight"].detach()) == pytest.approx(1.001, rel=1e-6)


def test_counters_are_copied():
    module = nn.BatchNorm1d(2)
    ema = Ema(module, 0.9)
    module(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    ema.update(module)
    assert int(ema.state_dict()["num_batches_tracked"]) == 1


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 1.5])
def test_decays_outside_their_limits_are_refused(decay):
    with pytest.raises(ValueError, match="decay must be in"):
        Ema(nn.Linear(1, 1), decay)
