"""What every encoder must keep to, whatever kind it is, and how kinds are told apart in their folders."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hop_encoder import HopConfig, hop_folder

import birdjepa
from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.errors import UsageError
from birdjepa.embed.embedders import AllLayers, Pooled, geometry_of, random_twin
from birdjepa.models import loading
from birdjepa.models.classifier import load_classifier
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.loading import load, read_config, read_provenance, require_spectrogram
from birdjepa.models.patch import PatchConfig
from birdjepa.models.sound_encoder import SoundEncoder, SoundEncoderConfig
from birdjepa.models.vit import VitConfig
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.base import DataSize
from birdjepa.recipes.finetune_config import FinetuneConfig

SPECTROGRAM = EncoderConfig(
    front_end=LogMelConfig(sampling_rate=16_000, window=400, hop=160, n_mels=32, f_max=8_000.0),
    patch=PatchConfig(frames=8, mels=16),
    vit=VitConfig(size="nano"),
    clips=ClipConfig(clip_s=1.0, hop_s=1.0),
    pooling="mean",
)
WAVEFORM = WaveformEncoderConfig(
    network=WaveformConfig(preset="nano"), clips=ClipConfig(clip_s=1.0, hop_s=1.0), pooling="mean+std"
)
LEGACY = dataclasses.replace(
    WAVEFORM, network=WaveformConfig(preset="nano", reach=0, conv_norm="clip", rope=False, legacy_padding=True)
)
CONFIGS: dict[str, SoundEncoderConfig] = {
    "spectrogram": SPECTROGRAM,
    "hops": HopConfig(),
    "waveform": WAVEFORM,
    "legacy padding": LEGACY,
}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "KINDS", (*loading.KINDS, HopConfig))


@pytest.fixture(params=CONFIGS)
def encoder(request: pytest.FixtureRequest) -> SoundEncoder:
    return CONFIGS[request.param].build().initialise(0).requires_grad_(False).eval()


def noise(n_samples: int, n_clips: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(0))


def test_outputs_are_what_the_configuration_says(encoder: SoundEncoder) -> None:
    config = encoder.config
    output = encoder(noise(round(config.clips.clip_s * config.sampling_rate)))
    assert output.patches.shape == (2, config.n_patches, config.token_width)
    assert output.cls.shape[1] == config.n_cls
    assert config.n_patches % config.n_rows == 0
    least = encoder(noise(config.min_samples))
    assert least.patches.shape[1] == config.n_rows
    assert encoder(noise(config.min_samples + config.token_hop)).patches.shape[1] == 2 * config.n_rows
    assert encoder(noise(1)).patches.shape[1] == config.n_rows
    for pooling in ("mean", "mean+std", "rows", "rows+std"):
        width = config.pooled_by(pooling).embedding_width
        assert Pooled(encoder, pooling).width() == encoder.pooled(noise(8_000), pooling).shape[1] == width


def test_layers_end_with_the_output(encoder: SoundEncoder) -> None:
    clips = noise(9_000)
    layers = encoder.layers(clips)
    assert len(layers) == encoder.config.n_layers
    torch.testing.assert_close(layers[-1].patches, encoder(clips).patches)
    assert (layers[0].patches - layers[1].patches).abs().max() > 1e-2


def test_a_column_reads_its_own_samples(encoder: SoundEncoder) -> None:
    """Up to the first layer of the hops, and by the frames of patches: later ones read others through attention."""
    config = encoder.config
    starts_s, ends_s = encoder.patch_spans(3 * config.n_rows)
    assert starts_s[0] == 0
    assert starts_s[config.n_rows] == config.token_hop / config.sampling_rate
    assert ends_s[0] == config.least_s
    geometry = geometry_of(config)
    for n_samples in (1, config.min_samples - 1, config.min_samples, 7_919, 16_000):
        columns = geometry.n_columns(n_samples)
        found = encoder(noise(n_samples)).patches.shape[1] // config.n_rows
        assert max(1, columns) <= found <= columns + (0 if config.trim and columns else 1)
        assert geometry.n_columns(geometry.n_samples(max(1, columns))) == max(1, columns)
    if isinstance(config, HopConfig):
        clips = noise(4_000)
        altered = clips.clone()
        altered[:, round(starts_s[1] * 16_000) : round(ends_s[1] * 16_000)] = 0.5
        differs = (encoder.layers(clips)[0].patches != encoder.layers(altered)[0].patches).any(-1)
        assert torch.equal(differs[0], torch.arange(10) == 1)


def test_columns_are_those_of_the_frames() -> None:
    for frames, window, hop in ((8, 400, 160), (1, 800, 320), (16, 401, 320), (5, 160, 160)):
        front_end = dataclasses.replace(SPECTROGRAM.front_end, window=window, hop=hop)
        geometry = geometry_of(dataclasses.replace(SPECTROGRAM, front_end=front_end, patch=PatchConfig(frames=frames)))
        for n_samples in (0, 1, window - 1, window, *range(10_000, 10_400), 80_000):
            assert geometry.n_columns(n_samples) == front_end.n_frames(n_samples) // frames
        assert [geometry.n_samples(n) for n in (1, 2, 9)] == [front_end.n_samples(n * frames) for n in (1, 2, 9)]


def test_a_twin_is_the_same_architecture_with_other_weights(encoder: SoundEncoder) -> None:
    one, again, other = (random_twin(encoder, seed) for seed in (5, 5, 6))
    assert one.config == encoder.config
    assert not one.training
    clips = noise(8_000)
    assert torch.equal(one.pooled(clips), again.pooled(clips))
    assert not torch.equal(one.pooled(clips), other.pooled(clips))
    assert not torch.equal(one.pooled(clips), encoder.pooled(clips))


def test_a_folder_gives_back_its_kind(encoder: SoundEncoder, tmp_path: Path) -> None:
    folder = encoder.save(tmp_path / "encoder", card="# card", provenance={"seed": 1})
    loaded = birdjepa.load(folder)
    assert type(loaded) is type(encoder)
    assert loaded.config == read_config(folder) == encoder.config
    assert read_provenance(folder) == {"seed": 1}
    wave = noise(40_000, 1)[0].numpy()
    found, expected = (each.embed(wave, sampling_rate=22_050) for each in (loaded, encoder))
    assert torch.equal(found.embedding, expected.embedding)
    assert not loaded.training
    np.testing.assert_allclose(found.end_s[-1], 40_000 / 22_050, atol=1e-4)


def test_an_unknown_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = hop_folder(tmp_path / "encoder")
    path = folder / "config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "config": {**described["config"], "kind": "Tomorrow"}}))
    with pytest.raises(UsageError, match=r"kind must be one of EncoderConfig, .*HopConfig, got 'Tomorrow'") as caught:
        load(folder)
    assert str(path) in str(caught.value)


def test_pooling_that_it_has_no_part_for_is_refused() -> None:
    encoder = HopConfig().build().initialise(0)
    for pooling in ("cls", "fc_norm"):
        for make in (Pooled, AllLayers):
            with pytest.raises(UsageError, match=f"pooling={pooling} needs"):
                make(encoder, pooling)


def test_what_works_on_patches_refuses_other_kinds_in_one_line(tmp_path: Path) -> None:
    folder = hop_folder(tmp_path / "encoder")
    encoder = load(folder)
    spectrogram = SPECTROGRAM.build().initialise(0)
    assert require_spectrogram(spectrogram, "this") is spectrogram
    message = r"works on log-mel patches, and this encoder has none \(HopConfig: the waveform in hops of 400 samples\)"
    with pytest.raises(UsageError, match=f"^fine-tuning {message}"):
        FinetuneConfig(encoder=folder, data="synth").check()
    for name, kind in OBJECTIVES.items():
        if name in ("lejepa", "pixio", "ajepa", "diet", "supervised"):
            with pytest.raises(UsageError, match=f"^{name} {message}"):
                kind().build(encoder, 0, DataSize(4, 2))
    classifier = {"model_type": "birdjepa-head", "library_name": "birdjepa", "format": 1}
    (folder / "head.json").write_text(json.dumps(classifier))
    with pytest.raises(UsageError, match=f"^a classifier {message}"):
        load_classifier(folder)
    assert isinstance(spectrogram, Encoder)
    assert math.isclose(encoder.config.least_s, 0.025)
