"""Embedders: pooling confined to segments, layers, and the log-mel floor against plain NumPy."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from birdjepa.core.errors import UsageError
from birdjepa.data.manifest import Manifest
from birdjepa.embed.embedders import (
    AllLayers,
    LogMelStatistics,
    Pooled,
    geometry_of,
    overlap,
    random_twin,
    require_confined,
    stretch_of_row,
)
from birdjepa.models.encoder import Encoder

ALL = np.array([[0.0, math.inf]])


def noise(n_clips: int, n_samples: int = 16_000) -> torch.Tensor:
    return 0.1 * torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(0))


def test_overlap_counts_what_lies_inside() -> None:
    start_s, end_s = np.array([0.0, 1.0, 2.0]), np.array([1.25, 2.25, 3.25])
    inside_s = np.array([[1.1, 1.2], [0.0, math.inf], [1.5, 2.5]])
    expected = [[1, 1, 0], [1, 1, 1], [0, 1, 0.5 / 0.75]]
    np.testing.assert_allclose(overlap(start_s, end_s, inside_s).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "mean+std", "max", "rows", "rows+std"])
def test_a_whole_clip_is_pooled_as_the_encoder_pools_it(encoder: Encoder, pooling) -> None:
    clips = noise(3)
    got = Pooled(encoder, pooling).embed(clips, np.repeat(ALL, 3, axis=0))
    torch.testing.assert_close(got, encoder.pooled(clips, pooling), atol=1e-6, rtol=0)
    assert Pooled(encoder, pooling).width() == got.shape[1]


@pytest.mark.parametrize("pooling", ["mean", "mean+std", "max", "rows", "rows+std"])
def test_only_patches_that_touch_the_segment_count(encoder: Encoder, pooling) -> None:
    """Without attention, sound outside the segment's patches must not matter at all."""
    shallow = encoder.config.build().initialise(0).eval()
    shallow.vit.blocks = nn.ModuleList()
    inside_s = np.array([[0.40, 0.45]])
    start_s, end_s = shallow.patch_spans(12)
    touched = (start_s < 0.45) & (end_s > 0.40)
    lo, hi = round(start_s[touched].min() * 16_000), round(end_s[touched].max() * 16_000)
    assert 0 < lo < hi < 16_000
    clips = noise(1)
    outside, within = clips.clone(), clips.clone()
    outside[:, :lo], outside[:, hi:] = 0.3, -0.3
    within[:, round(0.42 * 16_000)] += 0.5
    embedder = Pooled(shallow, pooling)
    reference = embedder.embed(clips, inside_s)
    torch.testing.assert_close(embedder.embed(outside, inside_s), reference, atol=0, rtol=0)
    assert (embedder.embed(within, inside_s) - reference).abs().max() > 1e-3


def test_all_layers_end_with_the_encoders_output(encoder: Encoder) -> None:
    sweep, clips = AllLayers(encoder, "mean"), noise(2)
    layers = sweep.split(sweep.embed(clips, np.repeat(ALL, 2, axis=0)).numpy())
    assert [layer.shape for layer in layers] == [(2, 64), (2, 64)]
    np.testing.assert_allclose(layers[-1], encoder.pooled(clips).numpy(), atol=1e-6)
    assert np.abs(layers[0] - layers[1]).max() > 1e-2


def test_log_mel_statistics_are_mean_and_std_over_time(encoder: Encoder) -> None:
    clips = noise(2)
    frames = encoder.front_end(clips).numpy()
    got = LogMelStatistics(encoder.config).embed(clips, np.array([[0.0, math.inf], [0.3, 0.6]])).numpy()
    np.testing.assert_allclose(got[0], np.concatenate((frames[0].mean(0), frames[0].std(0))), atol=1e-4)
    start_s = np.arange(98) * 0.01
    weights = (np.minimum(start_s + 0.025, 0.6) - np.maximum(start_s, 0.3)).clip(0)
    mean = np.average(frames[1], axis=0, weights=weights)
    std = np.sqrt(np.average((frames[1] - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(got[1], np.concatenate((mean, std)), atol=1e-4)


def test_log_mel_statistics_keep_loudness(encoder: Encoder) -> None:
    front_end = dataclasses.replace(encoder.config.front_end, normalise="clip")
    config = dataclasses.replace(encoder.config, front_end=front_end)
    floor = LogMelStatistics(config)
    soft, loud = floor.embed(noise(1), ALL), floor.embed(10 * noise(1), ALL)
    torch.testing.assert_close(loud[:, :32] - soft[:, :32], torch.full((1, 32), 20.0 / 20.0), atol=1e-3, rtol=0)
    assert not geometry_of(config).trim
    assert floor.embed(noise(1, 50), ALL).isfinite().all()  # shorter than one window


def test_random_twin_is_reproducible_and_another_network(encoder: Encoder) -> None:
    clips = noise(1)
    one, again, other = (random_twin(encoder, seed).pooled(clips) for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_cls_cannot_be_confined(encoder: Encoder) -> None:
    manifest = Manifest(
        name="songs",
        root=Path("."),
        keys=["a", "b", "c"],
        onset_s=np.array([0.0, 1.0, 1.0]),
        offset_s=np.array([np.nan, 2.0, np.nan]),
        duration_s=np.full(3, np.nan),
        columns={"label": ["", "", ""]},
    )
    with pytest.raises(UsageError, match="another pooling"):
        require_confined([Pooled(encoder, "mean"), Pooled(encoder, "cls")], manifest)
    require_confined([Pooled(encoder, "cls")], manifest.select([0]))
    require_confined([Pooled(encoder, "mean")], manifest)
    assert math.isnan(stretch_of_row(manifest, 0)[1])
    assert stretch_of_row(manifest, 1) == (1.0, 2.0)
    assert stretch_of_row(manifest, 2) == (1.0, math.inf)
