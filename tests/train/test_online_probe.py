"""The online probe: learns what there is to learn, from labelled clips only, and touches nothing else."""

import pytest
import torch

from birdjepa.train.config import OnlineProbeConfig
from birdjepa.train.probe import OnlineProbe

CPU = torch.device("cpu")


def test_learns_separable_labels():
    probe = OnlineProbe(OnlineProbeConfig(), 8, 2, 0, CPU)
    generator = torch.Generator().manual_seed(0)
    seen = None
    for _ in range(400):
        label = torch.randint(2, (16,), generator=generator)
        embedding = torch.randn(16, 8, generator=generator)
        embedding[:, 0] += 12.0 * label
        seen = probe.step(embedding, label)
    assert seen is not None
    assert seen[1] == 1.0
    assert seen[0] < 0.4


def test_gradient_does_not_reach_the_embedding():
    embedding = torch.randn(4, 8, requires_grad=True)
    OnlineProbe(OnlineProbeConfig(), 8, 2, 0, CPU).step(embedding, torch.tensor([0, 1, 0, 1]))
    assert embedding.grad is None


def test_unlabelled_clips_do_not_count():
    one, other = (OnlineProbe(OnlineProbeConfig(), 8, 2, 0, CPU) for _ in range(2))
    embedding = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, -1, 1, -1, 0, 1])
    assert one.step(embedding, label) == other.step(embedding[label >= 0], label[label >= 0])
    assert one.step(embedding, torch.full((6,), -1)) is None
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True))


def test_initial_weights_come_from_the_seed():
    torch.manual_seed(1)
    one = OnlineProbe(OnlineProbeConfig(), 8, 3, 5, CPU).module[1].weight
    torch.manual_seed(2)
    assert torch.equal(one, OnlineProbe(OnlineProbeConfig(), 8, 3, 5, CPU).module[1].weight)
    assert not torch.equal(one, OnlineProbe(OnlineProbeConfig(), 8, 3, 6, CPU).module[1].weight)


def test_weight_and_clipping_do_what_they_say():
    gradients = {}
    for name, settings in (
        ("plain", {"clip_norm": 0.0}),
        ("double", {"clip_norm": 0.0, "weight": 2.0}),
        ("cut", {"clip_norm": 0.01}),
    ):
        probe = OnlineProbe(OnlineProbeConfig(**settings), 8, 2, 0, CPU)
        probe.step(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1] * 3))
        gradients[name] = torch.cat([p.grad.flatten() for p in probe.module.parameters()])
    assert torch.allclose(gradients["double"], 2 * gradients["plain"])
    assert float(gradients["cut"].norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(gradients["plain"].norm()) > 0.1
    with pytest.raises(ValueError, match="need weight > 0"):
        OnlineProbeConfig(weight=0.0)
