"""Every recipe is a whole, consistent configuration whose objective takes a batch."""

import dataclasses

import pytest
import torch

from birdjepa.core.batch import ClipBatch
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.base import Chance, DataSize
from birdjepa.recipes.named import RECIPES

SIZES = {**dict.fromkeys(OBJECTIVES, "tiny"), "demo": "tiny", "small": "small"}


def test_every_recipe_is_listed_here() -> None:
    assert RECIPES.keys() == SIZES.keys()
    assert set(OBJECTIVES) < set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_turns_a_batch_into_a_loss(name: str) -> None:
    config = dataclasses.replace(RECIPES[name](), data=("songs/",))
    config.check()
    assert config.encoder.size == SIZES[name]
    encoder = config.encoder_config().build().initialise(config.seed)
    objective = config.objective.build(encoder, config.seed, DataSize(2, 3))
    noise = torch.randn(
        2, round(config.loader.clip_s * encoder.sampling_rate), generator=torch.Generator().manual_seed(0)
    )
    batch = ClipBatch(
        clips=0.1 * noise,
        lengths=torch.full((2,), noise.shape[1]),
        label=torch.tensor([0, 2]),
        labels=torch.eye(3)[[0, 2]].bool(),
        recording=torch.tensor([0, 1]),
        refused=(),
    )
    output = objective(batch, Chance(config.seed, 0, 10))
    assert torch.isfinite(output.loss)
    assert output.embedding.shape == (2, encoder.config.embedding_width)
