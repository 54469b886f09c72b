import pytest
import torch
from torch import nn

from birdjepa.models.projector import Projector, ProjectorConfig
from birdjepa.nn.synced import BatchNorm


def projector() -> Projector:
    return Projector(ProjectorConfig(hidden=16, width=8), 12).initialise(torch.Generator().manual_seed(0))


def test_layers_are_the_published_ones() -> None:
    kinds = [type(layer) for layer in projector().layers]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU, nn.Linear, BatchNorm, nn.ReLU, nn.Linear]


def test_batch_norm_sees_the_whole_batch() -> None:
    module = projector()
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    together = module(x)
    assert together.shape == (6, 8)
    assert not torch.allclose(together[:3], module(x[:3]))


def test_weights_come_from_the_generator() -> None:
    first, again = projector().state_dict(), projector().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = Projector(ProjectorConfig(hidden=16, width=8), 12).initialise(torch.Generator().manual_seed(1))
    assert not torch.equal(first["layers.0.weight"], other.state_dict()["layers.0.weight"])


@pytest.mark.parametrize(("hidden", "width"), [(0, 8), (8, 0)])
def test_bad_settings_are_refused(hidden: int, width: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ProjectorConfig(hidden=hidden, width=width)
