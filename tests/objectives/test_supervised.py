"""The supervised baseline: its losses against published formulas, mixtures and their labels, and that it learns."""

import dataclasses

import pytest
import torch
from objective_examples import CHANCE, SIZE, UNALTERED, make_clips, make_encoder
from torch.nn import functional as F

from birdjepa.models.heads import HeadConfig
from birdjepa.nn.regularised import RegularisedMaskingConfig
from birdjepa.objectives.base import Chance
from birdjepa.objectives.supervised import (
    SupervisedConfig,
    asymmetric_loss,
    classification_loss,
    hits,
    mixed_up,
    targets,
)


def make(**changes):
    return SupervisedConfig(**{"augment": UNALTERED, **changes}).build(make_encoder(), 0, SIZE)


def test_targets_of_one_and_of_several_labels() -> None:
    batch = make_clips(3)
    several = dataclasses.replace(batch, labels=torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]]).bool())
    assert targets(batch, is_multi_label=False).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert targets(several, is_multi_label=True).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_the_losses_equal_torchs() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    wanted = F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    soft = classification_loss(logits, wanted, SupervisedConfig(smoothing=0.2))
    torch.testing.assert_close(soft, F.cross_entropy(logits, wanted.argmax(1), label_smoothing=0.2))
    binary = classification_loss(logits, wanted, SupervisedConfig(loss="binary"))
    torch.testing.assert_close(binary, F.binary_cross_entropy_with_logits(logits, wanted))


def test_the_asymmetric_loss_written_out_and_its_limit() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    wanted = (torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), wanted.flatten().tolist(), strict=True):
        p = 1 / (1 + 2.718281828459045**-z)
        q = max(p - 0.05, 0.0)
        positive = (1 - p) ** 1 * torch.log(torch.tensor(p, dtype=torch.float64))
        negative = q**4 * torch.log(torch.tensor(1 - q, dtype=torch.float64))
        total -= float(y * positive + (1 - y) * negative)
    assert float(asymmetric_loss(logits, wanted, 4.0, 1.0, 0.05)) == pytest.approx(total / 15, rel=1e-6)
    plain = asymmetric_loss(logits, wanted, 0.0, 0.0, 0.0)
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, wanted))


def test_sure_and_wrong_negatives_stay_finite() -> None:
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor([[0.0, 1.0]]), 4.0, 1.0, 0.05)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_mixtures_have_the_sound_and_the_labels_of_both() -> None:
    batch = make_clips()
    config = SupervisedConfig(mixup=0.4)
    wanted = targets(batch, is_multi_label=False)
    mixed, both = mixed_up(batch, wanted, config, CHANCE)
    torch.testing.assert_close(both.sum(1), torch.ones(6))
    again, _ = mixed_up(batch, wanted, config, CHANCE)
    assert torch.equal(mixed.clips, again.clips)
    other, _ = mixed_up(batch, wanted, config, Chance(0, 6, 10))
    assert not torch.equal(mixed.clips, other.clips)
    # Each mixture is a combination of two clips: least squares over all clips finds its two shares.
    shares = torch.linalg.lstsq(batch.clips.T.double(), mixed.clips.T.double()).solution.T
    torch.testing.assert_close(shares.sum(1).float(), torch.ones(6), rtol=0, atol=1e-4)
    torch.testing.assert_close((shares.float() @ wanted), both, rtol=0, atol=1e-4)
    _, union = mixed_up(batch, wanted, dataclasses.replace(config, loss="binary"), CHANCE)
    assert set(union.unique().tolist()) <= {0.0, 1.0}
    assert (union >= wanted).all()


@pytest.mark.parametrize("form", ["pooled", "mean", "attentive", "prototypical"])
def test_what_trains_is_the_encoder_and_the_head(form) -> None:
    objective = make(head=HeadConfig(form=form))
    output = objective(make_clips(), CHANCE)
    output.loss.backward()
    still = {name for name, p in objective.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    assert not {name for name in still if name.startswith("encoder.")}
    assert not output.watched.requires_grad


@pytest.mark.parametrize("loss", ["softmax", "binary", "asymmetric"])
def test_it_learns(loss) -> None:
    objective = make(loss=loss, masking=RegularisedMaskingConfig(share=0.1), smoothing=0.0)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    numbers = torch.arange(6) // 2  # two levels a class
    for step in range(80):
        labels = F.one_hot(numbers, 3).bool()
        batch = dataclasses.replace(make_clips(seed=step), label=numbers, labels=labels)
        output = objective(batch, Chance(0, step, 80))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    assert float(output.terms["train_accuracy"]) > 0.8


def test_hits_of_hard_and_soft_targets() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    wanted = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.5, 0.5]])
    assert hits(logits, wanted).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("changes", [{"smoothing": 1.0}, {"mixup": -1.0}, {"margin": 1.0}, {"gamma_negative": -1.0}])
def test_bad_settings_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"need 0 <= smoothing|gammas must be"):
        SupervisedConfig(**changes)


def test_mixtures_lie_in_groups_of_neighbours_and_are_the_same_for_two_processes() -> None:
    batch = make_clips(16)
    batch = dataclasses.replace(batch, lengths=batch.lengths - torch.arange(16))
    wanted, config = torch.eye(16), SupervisedConfig(mixup=0.4)
    mixed, both = mixed_up(batch, wanted, config, CHANCE)
    longest = [int(batch.lengths[row > 0].max()) for row in both]
    assert mixed.lengths.tolist() == longest
    assert torch.equal(both[:8, 8:], torch.zeros(8, 8))
    assert torch.equal(both[8:, :8], torch.zeros(8, 8))
    for rank in range(2):
        own = slice(8 * rank, 8 * rank + 8)
        part = batch.select(list(range(16))[own])
        ours, _ = mixed_up(part, wanted[own], config, dataclasses.replace(CHANCE, rank=rank, world=2))
        assert torch.equal(ours.clips, mixed.clips[own])
