"""Every recipe is a whole, consistent configuration whose objective takes a batch."""

import dataclasses

import pytest
import torch

from birdjepa.core.batch import ClipBatch
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.base import Chance, DataSize, Objective
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.config import PretrainConfig, RunConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.waveform_config import PretrainWaveformConfig

SIZES = {**dict.fromkeys(OBJECTIVES, "tiny"), "daam": "small", "codec": "small", "demo": "tiny", "small": "small"}


def test_every_recipe_is_listed_here() -> None:
    assert RECIPES.keys() == SIZES.keys()
    assert set(OBJECTIVES) < set(RECIPES)


def begin(config: RunConfig, size: str, data: DataSize) -> Objective:
    """The recipe's objective around an encoder of random weights, and its size as the recipe says it."""
    if isinstance(config, PretrainCodecConfig):
        assert config.vocoder.preset == size
        return config.objective.build(config.make_codec(config.codec_config()), config.seed, data)
    if isinstance(config, PretrainWaveformConfig):
        assert config.encoder.preset == size
        return config.objective.build(config.encoder_config().build().initialise(config.seed), config.seed, data)
    assert isinstance(config, PretrainConfig)
    assert config.encoder.size == size
    return config.objective.build(config.encoder_config().build().initialise(config.seed), config.seed, data)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_turns_a_batch_into_a_loss(name: str, tmp_path) -> None:
    config = dataclasses.replace(RECIPES[name](), data=("songs/",))
    if isinstance(config, PretrainCodecConfig):
        encoder = RECIPES["daam"]().encoder_config().build().initialise(0)
        config = dataclasses.replace(config, encoder=encoder.save(tmp_path / "encoder", card="", provenance={}))
    config.check()
    objective = begin(config, SIZES[name], DataSize(2, 3))
    n_samples = round(config.loader.clip_s * config.sampling_rate)
    noise = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
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
    assert output.embedding.shape == (2, objective.watched_width)
