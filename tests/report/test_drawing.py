"""Drawing what was predicted: an honest decoder, its floors, and what the picture shows as it is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import tiny, write_songs

from birdjepa.data.loader import Clips
from birdjepa.objectives.ajepa import Ajepa, AjepaConfig
from birdjepa.objectives.base import Chance, DataSize
from birdjepa.objectives.patches import augmented_frames
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.pretrain import open_sources
from birdjepa.report.contents import Absent
from birdjepa.report.drawing import (
    PLACE,
    STRENGTHS,
    TEACHER,
    TRAINED,
    UNTRAINED,
    Drawn,
    _parts,
    draw_predictions,
    fit_best,
    fit_ridge,
)

CHANCE = Chance(seed=3, step=5, n_steps=10)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    made = tiny(write_songs(tmp_path_factory.mktemp("songs"), 40), Path("nowhere"), batch_size=32, accumulate=2)
    return dataclasses.replace(made, patch=dataclasses.replace(made.patch, mels=8), objective=AjepaConfig())


@pytest.fixture(scope="module")
def clips(config: PretrainConfig) -> Clips:
    return config.open_clips(open_sources(config))


def make(config: PretrainConfig, seed: int) -> Ajepa:
    encoder = config.encoder_config().build().initialise(seed)
    return AjepaConfig().build(encoder, seed, DataSize(0, 0)).requires_grad_(False).eval()


def draw(ajepa: Ajepa, clips: Clips, *, n_clips: int = 40) -> Drawn:
    batch = clips.batch(0)
    drawn = draw_predictions(ajepa, clips, batch, [CHANCE], n_clips=n_clips, held=set(batch.recording.tolist()))
    assert not isinstance(drawn, Absent)
    return drawn


def test_ridge_agrees_with_scikit_learn():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 6, generator=generator, dtype=torch.double) * torch.tensor([1.0, 9, 1, 1, 0.1, 1]) + 4
    y = torch.randn(50, 3, generator=generator, dtype=torch.double)
    scaler = StandardScaler().fit(x.numpy())
    theirs = Ridge(alpha=50 * 0.01).fit(scaler.transform(x.numpy()), y.numpy())
    np.testing.assert_allclose(fit_ridge(x, y, 0.01)(x), theirs.predict(scaler.transform(x.numpy())), atol=1e-6)


def test_features_that_say_nothing_are_penalised_away():
    generator = torch.Generator().manual_seed(0)
    noise, value = torch.randn(80, 60, generator=generator), torch.randn(80, 2, generator=generator)
    clip = torch.arange(80) // 4
    fitted = fit_best(noise, value, clip)
    assert torch.equal(fitted.weights, fit_ridge(noise, value, STRENGTHS[-1]).weights)
    told = fit_best(noise, noise[:, :2], clip)
    assert torch.equal(told.weights, fit_ridge(noise, noise[:, :2], STRENGTHS[0]).weights)


def test_it_beats_the_mean_where_the_context_tells_the_pitch(config: PretrainConfig, clips: Clips):
    """Steady tones of two pitches: whoever hears the context knows the target, even through random weights."""
    scores = draw(make(config, 11), clips).drawing.scores
    assert scores[PLACE].value < scores[TRAINED].low
    assert scores[TRAINED].value > 0.2
    assert scores[TRAINED].value < scores[TEACHER].value <= 1


def test_the_untrained_objective_has_no_lead_over_itself(config: PretrainConfig, clips: Clips):
    drawing = draw(make(config, CHANCE.seed), clips).drawing
    assert drawing.scores[TRAINED] == drawing.scores[UNTRAINED]
    assert drawing.lead.value == drawing.lead.low == drawing.lead.high == 0
    assert drawing.n_held == 16
    assert drawing.n_fitted <= 40


def test_what_is_held_out_is_never_fitted(clips: Clips):
    held = set(clips.batch(0).recording.tolist())
    parts = _parts(clips, 10, held)
    fitted = [recording for part in parts for recording in part.recording.tolist()]
    assert 0 < len(fitted) <= 10
    assert not held & set(fitted)
    assert _parts(clips, 10, set(range(clips.n_recordings))) == []


@pytest.mark.parametrize("normalise", ["fixed", "clip"])
def test_the_context_is_shown_as_it_is_and_the_rest_is_hidden(config: PretrainConfig, clips: Clips, normalise: str):
    front_end = dataclasses.replace(config.front_end, normalise=normalise)
    ajepa = make(dataclasses.replace(config, front_end=front_end), 11)
    [panel] = draw(ajepa, clips).panels
    batch = clips.batch(0)
    frames = augmented_frames(ajepa.encoder, batch, ajepa.config.augment, CHANCE)
    context, *targets = ajepa.panels(batch, CHANCE)
    seen, asked = ~context.frames.isnan(), torch.stack([~target.frames.isnan() for target in targets]).any(0)
    torch.testing.assert_close(panel.frames[seen], frames[seen], rtol=0, atol=1e-3)
    assert torch.equal(~panel.frames.isnan(), seen | asked)
    assert (panel.frames[asked] - frames[asked]).abs().mean() < 15  # dB: drawn in the unit of the frames


def test_the_same_run_gives_the_same_drawing(config: PretrainConfig, clips: Clips):
    one, other = (draw(make(config, 11), clips, n_clips=8) for _ in "ab")
    assert one.drawing.scores == other.drawing.scores
    assert torch.equal(one.panels[0].frames.nan_to_num(), other.panels[0].frames.nan_to_num())
