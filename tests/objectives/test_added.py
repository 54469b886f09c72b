"""Terms added to any objective: they add up, they train the encoder, and nothing is added at weight 0."""

import pytest
import torch
from objective_examples import CHANCE, SIZE, UNALTERED, make_clips, make_encoder

from birdjepa.models.predictor import PredictorConfig
from birdjepa.models.projector import ProjectorConfig
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.added import (
    AddedConfig,
    AddedDietConfig,
    AddedSigregConfig,
    AddedVarianceConfig,
    WithAdded,
    variance_covariance,
)
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.objectives.views import ViewsConfig

VIEWS = ViewsConfig(global_s=0.48, local_s=0.24, augment=UNALTERED)
SMALL = PredictorConfig(width=32, depth=1, heads=2)
MADE = {
    "lejepa": LejepaConfig(views=VIEWS, projector=ProjectorConfig(hidden=16, width=8)),
    "pixio": PixioConfig(decoder=SMALL),
    "ajepa": AjepaConfig(predictor=SMALL),
    "supervised": SupervisedConfig(),
    "diet": DietConfig(views=VIEWS),
}
PROJECTOR = ProjectorConfig(hidden=16, width=8)
ALL = AddedConfig(
    sigreg=AddedSigregConfig(weight=0.1, projector=PROJECTOR),
    variance=AddedVarianceConfig(weight=0.2, projector=PROJECTOR),
    diet=AddedDietConfig(weight=0.3),
)


def test_every_objective_is_tried() -> None:
    assert MADE.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_add_up_and_reach_the_encoder(name: str) -> None:
    batch = make_clips()
    plain = MADE[name].build(make_encoder(), 0, SIZE)
    objective = ALL.around(MADE[name].build(make_encoder(), 0, SIZE), 0, SIZE)
    assert isinstance(objective, WithAdded)
    alone, both = plain(batch, CHANCE), objective(batch, CHANCE)
    added = {name for name in both.terms if name.startswith("added_")}
    assert added == {"added_sigreg", "added_variance", "added_diet"}
    assert torch.equal(both.embedding, alone.embedding)
    total = alone.loss + sum(term(both.embedding, batch, CHANCE)[0] for term in objective.terms.values())
    torch.testing.assert_close(both.loss, total, rtol=1e-4, atol=1e-5)
    (both.loss - alone.loss.detach()).backward()
    for term in objective.terms.values():
        assert all(p.grad is not None for p in term.parameters())
    assert objective.encoder.vit.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_nothing_is_held_twice(name: str) -> None:
    objective = ALL.around(MADE[name].build(make_encoder(), 0, SIZE), 0, SIZE)
    names = list(objective.state_dict())
    assert all(key.startswith(("objective.", "terms.")) for key in names)
    assert {f"objective.{key}" for key in objective.objective.state_dict()} < set(names)
    assert objective.exported is objective.objective.exported
    assert [panel.name for panel in objective.panels(make_clips(), CHANCE)]


def test_nothing_is_added_at_weight_zero() -> None:
    objective = MADE["pixio"].build(make_encoder(), 0, SIZE)
    assert AddedConfig().around(objective, 0, SIZE) is objective


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="variance has settings but weight 0"):
        AddedConfig(variance=AddedVarianceConfig(covariance=1.0)).check()
    with pytest.raises(ValueError, match=r"diet.weight must be >= 0"):
        AddedConfig(diet=AddedDietConfig(weight=-1.0)).check()
    ALL.check()


def test_variance_and_covariance_written_out() -> None:
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1.0, 3.0])
    variance, covariance = variance_covariance(z)
    spread = (z.var(0) + 1e-4).sqrt()
    torch.testing.assert_close(variance, (1 - spread).clamp_min(0).mean())
    matrix = torch.cov(z.T)
    off = sum(float(matrix[i, j] ** 2) for i in range(4) for j in range(4) if i != j)
    assert float(covariance) == pytest.approx(off / 4, rel=1e-4)
    assert float(variance_covariance(torch.ones(9, 4))[0]) == pytest.approx(0.99, abs=1e-3)  # collapse
