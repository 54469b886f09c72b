import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from birdjepa.audio.clips import ClipConfig, cut
from birdjepa.audio.decode import resample
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.loading import load
from birdjepa.models.patch import PatchConfig
from birdjepa.models.pool import POOLINGS, Pooling
from birdjepa.models.sound_encoder import batches_of_equal_length
from birdjepa.models.vit import VitConfig

CONFIG = EncoderConfig(
    front_end=LogMelConfig(),
    patch=PatchConfig(frames=16, mels=32),
    vit=VitConfig(size="32x2x2", n_cls=2),
    clips=ClipConfig(clip_s=1.0, hop_s=0.5),
    pooling="mean+std",
)


def make(**changes: Any) -> Encoder:
    config = dataclasses.replace(CONFIG, **changes)
    return config.build().initialise(0).eval()


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return make().save(tmp_path / "encoder", card="# card", provenance={"seed": 0})


def test_save_and_load_are_bit_exact(saved: Path) -> None:
    encoder, loaded, samples = make(), load(saved), noise(70_000)
    assert loaded.config == encoder.config
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    found, expected = (each.embed(samples, sampling_rate=44_100) for each in (loaded, encoder))
    assert torch.equal(found.embedding, expected.embedding)
    assert (saved / "README.md").read_text() == "# card"
    assert {path.name for path in saved.iterdir()} == {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize("vit", [VitConfig(size="32x1x2", n_cls=0), VitConfig(size="32x1x2", n_registers=2)])
def test_any_number_of_special_tokens_is_saved(tmp_path: Path, vit: VitConfig) -> None:
    encoder = make(vit=vit)
    loaded = load(encoder.save(tmp_path, card="", provenance={}))
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())


def describe(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage_weights(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def drop_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["vit.norm.bias"]
    save_file(weights, path)
    describe(folder, weights_sha256=files.sha256(path))


def not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>")
    describe(folder, weights_sha256=files.sha256(folder / "model.safetensors"))


def unknown_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())["config"]
    describe(folder, config={**config, "pooled": "mean"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, r"model\.safetensors: does not match the hash"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: missing"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: missing; give an encoder folder"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json: not a birdjepa encoder"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), r"config\.json: not valid JSON"),
        (lambda folder: describe(folder, model_type="vit"), r"config\.json: not a birdjepa encoder"),
        (lambda folder: describe(folder, format=99), r"config\.json: not a birdjepa encoder of format 1"),
        (lambda folder: describe(folder, config=None), r"config\.json: config must be a table"),
        (unknown_setting, r"has no setting 'pooled'; did you mean 'pooling'\?"),
        (drop_a_tensor, r"model\.safetensors: .*norm\.bias"),
        (not_safetensors, r"model\.safetensors: "),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(saved: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(saved)
    with pytest.raises(UsageError, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("rate", [8000, 22_050, 32_000, 44_100, 250_000])
def test_embed_cuts_and_resamples_as_recordings_are(rate: int) -> None:
    encoder, samples = make(), noise(round(2.3 * rate))
    result = encoder.embed(samples, sampling_rate=rate)
    pieces = list(cut([samples], rate, CONFIG.clips, least_s=CONFIG.least_s))
    for row, start, end, (first, piece) in zip(*result, pieces, strict=True):
        clip = torch.from_numpy(resample(piece, rate, 32_000))[None]
        torch.testing.assert_close(encoder.pooled(clip)[0], row, rtol=0, atol=1e-5)
        assert (round(start * rate), round(end * rate)) == (first, first + len(piece))
    assert result.end_s[-1] == pytest.approx(2.3, abs=1e-4)


def test_embed_takes_channels_lists_and_tensors() -> None:
    encoder, left, right = make(), noise(40_000), noise(40_000, seed=1)
    expected = encoder.embed((left + right) / 2, sampling_rate=32_000).embedding
    for waveform in (np.stack((left, right)), torch.from_numpy(np.stack((left, right))).requires_grad_()):
        found = encoder.embed(waveform, sampling_rate=32_000).embedding
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    mono = encoder.embed(left, sampling_rate=32_000).embedding
    for waveform in (left.tolist(), left.astype(np.float64), torch.from_numpy(left), left[None]):
        assert torch.equal(encoder.embed(waveform, sampling_rate=32_000).embedding, mono)


@pytest.mark.parametrize("n_samples", [1, 2, 799, 5000])
def test_embed_takes_anything_however_short(n_samples: int) -> None:
    for rate in (8000, 32_000, 250_000):
        result = make().embed(noise(n_samples), sampling_rate=rate)
        assert result.embedding.shape == (1, CONFIG.embedding_width)
        assert result.embedding.isfinite().all()
        assert result.end_s[0] == n_samples / rate


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.array([0.1, np.nan]), "NaN or infinite"),
        (np.array([0.1, np.inf]), "NaN or infinite"),
        (np.zeros(0), "not empty"),
        (np.zeros((2, 0)), "not empty"),
        (np.zeros((1, 2, 100)), r"\(channels, time\)"),
        (np.zeros((100, 2)), "transpose it"),
        (np.zeros(100, dtype=np.int16), "divide 16-bit samples by 32768"),
        (torch.zeros(100, dtype=torch.int16), "divide 16-bit samples by 32768"),
    ],
)
def test_embed_refuses_what_is_no_waveform(waveform: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().embed(waveform, sampling_rate=32_000)


@pytest.mark.parametrize(("rate", "batch_size"), [(0, 16), (-1, 16), (32_000, 0)])
def test_embed_refuses_senseless_numbers(rate: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        make().embed(noise(100), sampling_rate=rate, batch_size=batch_size)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_batch_size_does_not_matter_and_widths_are_as_said(pooling: Pooling) -> None:
    vit = dataclasses.replace(CONFIG.vit, fc_norm=pooling == "fc_norm")
    encoder, samples = make(pooling=pooling, vit=vit), noise(32_000 * 4)
    found = [encoder.embed(samples, sampling_rate=32_000, batch_size=size).embedding for size in (1, 3, 16)]
    assert found[0].shape == (7, encoder.config.embedding_width)
    assert found[0].dtype == torch.float32
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-5)
    asked = make(vit=vit).embed(samples, sampling_rate=32_000, pooling=pooling).embedding
    assert torch.equal(asked, found[-1])


def test_patch_spans_are_the_samples_that_a_patch_reads() -> None:
    encoder, samples = make(), torch.from_numpy(noise(32_000))[None]
    tokens, grid = encoder.tokenise(samples)
    start_s, end_s = encoder.patch_spans(tokens.shape[1])
    centre_s = (start_s + end_s) / 2
    np.testing.assert_allclose(centre_s, grid[0, :, 0].numpy(), atol=1e-6)
    patch = 9
    first, end = round(start_s[patch] * 32_000), round(end_s[patch] * 32_000)
    other = torch.from_numpy(noise(32_000, seed=1))[None]
    other[:, first:end] = samples[:, first:end]
    assert torch.equal(encoder.tokenise(other)[0][0, patch], tokens[0, patch])
    for sample in (first + 1, end - 2):
        moved = samples.clone()
        moved[:, sample] += 0.5
        assert not torch.equal(encoder.tokenise(moved)[0][0, patch], tokens[0, patch])


def test_tokens_and_grid_belong_together() -> None:
    encoder = make()
    tokens, grid = encoder.tokenise(torch.from_numpy(noise(20_000))[None])
    assert tokens.shape[1] == grid.shape[1] == 3 * CONFIG.n_rows


def test_initial_weights_are_those_of_the_seed() -> None:
    first, again, other = (CONFIG.build().initialise(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vit.embed.weight"], other["vit.embed.weight"])


def test_patch_height_must_divide_the_bands() -> None:
    with pytest.raises(ValueError, match=r"patch\.mels must divide n_mels=128, got 24"):
        dataclasses.replace(CONFIG, patch=PatchConfig(mels=24))


FIXED = LogMelConfig(clip_samples=32_000, clip_frames=112)
"""Encoders of one second of 98 frames, which are padded to 7 patch columns."""


def test_what_does_not_fit_a_fixed_length_is_refused() -> None:
    vit = VitConfig(size="32x2x2", position="absolute", n_positions=28)
    assert dataclasses.replace(CONFIG, front_end=FIXED, vit=vit).n_patches == 28
    with pytest.raises(ValueError, match=r"clips.clip_s=2 s is too long: this encoder takes clips of at most 1 s"):
        dataclasses.replace(CONFIG, front_end=FIXED, clips=ClipConfig(clip_s=2.0, hop_s=2.0))
    for front_end in (LogMelConfig(), LogMelConfig(clip_samples=32_000, clip_frames=128)):
        with pytest.raises(ValueError, match=r"vit.n_positions=28 must be the patches of a whole clip"):
            dataclasses.replace(CONFIG, front_end=front_end, vit=vit)
    with pytest.raises(ValueError, match="needs position='absolute'"):
        VitConfig(n_positions=28)
    with pytest.raises(ValueError, match="pooling=fc_norm needs an encoder with that norm"):
        dataclasses.replace(CONFIG, pooling="fc_norm")


def test_padding_of_short_clips_does_not_count_and_a_whole_clip_counts_all() -> None:
    encoder = make(front_end=FIXED, pooling="mean")
    for n_samples, columns in ((32_000, 7), (31_999, 7), (20_000, 4), (5 * 16 * 320, 5), (100, 1)):
        clip = torch.from_numpy(noise(n_samples))[None]
        output = encoder(clip)
        weights = encoder.heard(output, n_samples)
        assert weights.tolist() == [[1.0] * columns * 4 + [0.0] * (7 - columns) * 4]
        expected = output.patches[:, : columns * 4].mean(1)
        torch.testing.assert_close(encoder.pooled(clip), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="clips have 32001 samples, this front end takes 32000"):
        encoder(torch.zeros(1, 32_001))


def test_a_folder_of_before_loads_and_keeps_its_hash(saved: Path) -> None:
    """Golden: what version 0.1.0 wrote of these, before encoders of one length only."""
    described = json.loads((saved / "config.json").read_text())["config"]
    assert set(described["front_end"]) == {
        *("kind", "sampling_rate", "window", "hop", "n_mels", "f_min", "f_max", "window_shape", "mel_scale", "filters"),
        *("pre_emphasis", "remove_dc", "gain", "unit", "floor", "normalise", "mean", "std"),
    }
    assert set(described["vit"]) == {
        *("kind", "size", "mlp", "mlp_ratio", "position", "qk_norm", "n_cls", "n_registers", "layer_scale"),
        *("drop_path", "activation_checkpointing"),
    }
    assert configs.fingerprint(LogMelConfig()) == "e17216f32c6dc7d6"
    assert configs.fingerprint(VitConfig()) == "9a4a05321f4fb566"
    assert load(saved).config == CONFIG


def test_batches_are_runs_of_one_length() -> None:
    lengths = [5, 5, 5, 5, 4, 5, 5]
    batches = batches_of_equal_length([noise(length) for length in lengths], 3)
    assert [[len(clip) for clip in batch] for batch in batches] == [[5, 5, 5], [5], [4], [5, 5]]
