"""DIET: each recording is a class; the head is no part of what leaves the run."""

import pytest
import torch
from objective_examples import CHANCE, SIZE, UNALTERED, make_clips, make_encoder
from torch.nn import functional as F

from birdjepa.models.source_head import SourceHead, SourceHeadConfig
from birdjepa.objectives.base import Chance
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.views import ViewsConfig

VIEWS = ViewsConfig(global_s=0.48, local_s=0.24, augment=UNALTERED)


def make(**head):
    return DietConfig(views=VIEWS, head=SourceHeadConfig(**{"rank": 16, **head})).build(make_encoder(), 0, SIZE)


@pytest.mark.parametrize("rank", [0, 16])
def test_the_loss_is_a_smoothed_cross_entropy_over_recordings(rank: int) -> None:
    head = SourceHead(SourceHeadConfig(rank=rank, smoothing=0.3), 24, 50)
    head.initialise(torch.Generator().manual_seed(0))
    assert head.classes.shape == (50, rank or 24)
    embedding = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    logits = head.narrow(head.norm(embedding)) @ head.classes.T
    recording = torch.tensor([3, 3, 49, 0])
    expected = F.cross_entropy(logits, recording, label_smoothing=0.3)
    torch.testing.assert_close(head(embedding, recording), expected)
    assert 0.5 < float(logits.detach().std()) < 2.0  # logits begin at unit size


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
def test_the_excess_is_zero_for_a_perfect_head(smoothing: float) -> None:
    head = SourceHead(SourceHeadConfig(rank=0, smoothing=smoothing), 4, 5)
    wanted = F.one_hot(torch.tensor(2), 5) * (1 - smoothing) + smoothing / 5
    least = -(wanted * wanted.clamp_min(1e-30).log()).sum()
    assert float(head.excess(least)) == pytest.approx(0.0, abs=1e-6)


def test_what_trains_and_what_is_exported() -> None:
    objective = make()
    output = objective(make_clips(), CHANCE)
    output.loss.backward()
    cls = {"encoder.vit.cls"}  # attended to, and thus reached as well
    still = {name for name, p in objective.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    assert still <= cls
    assert {name.split(".")[0] for name in objective.exported.state_dict()} == {"vit"}
    assert not any("classes" in name for name in objective.exported.state_dict())


def test_it_learns_to_tell_recordings_apart() -> None:
    objective = make(smoothing=0.1)
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss = objective(make_clips(seed=step), Chance(0, step, 40)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_panels_are_its_views() -> None:
    assert [panel.name for panel in make().panels(make_clips(), CHANCE)] == ["G1", "G2", "L1", "L2"]


@pytest.mark.parametrize("changes", [{"smoothing": 1.0}, {"rank": -1}])
def test_bad_settings_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="need 0 <= smoothing < 1"):
        SourceHeadConfig(**changes)
