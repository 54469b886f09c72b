"""The tokenizer: exact lengths, the same codes in whatever company and pieces, no sound of another codec's codes."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_tokenizer
import torch
from tiny_tokenizer import HOP, RATE, noise, tokenizer

import birdjepa
from birdjepa.audio.decode import resample
from birdjepa.codec.container import read_codes, write_codes
from birdjepa.codec.tokenizer import Tokenizer, TokenizerConfig, load_codec
from birdjepa.core import files
from birdjepa.core.errors import AudioError, CodeError, UsageError


@pytest.fixture(scope="module")
def codec():
    return tiny_tokenizer.codec()


@pytest.fixture(scope="module")
def whole(codec):
    """Everything in one piece."""
    return tokenizer(codec, 1e6)


@pytest.mark.parametrize("n_samples", [1, HOP - 1, HOP, HOP + 1, 7 * HOP, 7 * HOP + 1])
@pytest.mark.parametrize("silent", [False, True])
def test_round_trips_give_back_exactly_the_length(whole, n_samples, silent):
    waveform = np.zeros(n_samples, np.float32) if silent else noise(n_samples)
    codes = whole.encode(waveform, sampling_rate=RATE)
    assert (codes.n_samples, codes.n_frames) == (n_samples, -(-n_samples // HOP))
    sound = whole.decode(codes)
    assert (sound.dtype, len(sound)) == (np.float32, n_samples)
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() <= 1
    np.testing.assert_array_equal(whole.roundtrip(waveform, sampling_rate=RATE), sound)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_other_rates_and_channels_are_resampled_and_mixed(whole, rate):
    mono = noise(rate // 3)
    codes = whole.encode(mono, sampling_rate=rate)
    heard = resample(mono, rate, RATE)
    assert codes.n_samples == len(heard)
    np.testing.assert_array_equal(codes.packed, whole.encode(heard, sampling_rate=RATE).packed)
    for given in (np.stack([mono, mono]), torch.from_numpy(mono)[None], mono.tolist()):
        np.testing.assert_array_equal(whole.encode(given, sampling_rate=rate).packed, codes.packed)
    assert whole.encode(mono[:1], sampling_rate=rate).n_samples >= 1


def test_a_recording_has_the_same_codes_twice_and_in_whatever_company(codec, whole):
    """Nothing is drawn, nothing remembered, and padded beside longer clips the network gives the same too."""
    clips = [noise(n, seed=n) for n in (3 * HOP + 5, 10 * HOP, HOP)]
    alone = [whole.encode(clip, sampling_rate=RATE).indices() for clip in clips]
    codec.train()
    again = Tokenizer(codec, TokenizerConfig(chunk_s=1e6))
    assert not codec.training
    padded = torch.zeros(3, 10 * HOP)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = torch.from_numpy(clip)
    beside = codec.encode(padded, torch.tensor([len(clip) for clip in clips]))
    for row, (clip, indices) in enumerate(zip(clips, alone, strict=True)):
        np.testing.assert_array_equal(again.encode(clip, sampling_rate=RATE).indices(), indices)
        np.testing.assert_array_equal(beside.indices[row, : len(indices)].numpy(), indices)


def test_no_part_of_a_codec_draws_numbers(codec):
    assert not [name for name, module in codec.named_modules() if "dropout" in type(module).__name__.lower()]


@pytest.mark.parametrize("n_samples", [RATE * 5 + 123, RATE * 5, 111 * HOP + 1])
def test_chunks_give_the_codes_and_the_sound_of_the_whole(codec, whole, n_samples):
    """The bound: not one code in ten thousand differs, and none where rounding decides nothing."""
    waveform = noise(n_samples, seed=3)
    cut = tokenizer(codec, 0.3)
    assert cut.is_bounded
    assert cut.context * HOP >= codec.config.encoder.network.receptive_field
    codes, one = cut.encode(waveform, sampling_rate=RATE), whole.encode(waveform, sampling_rate=RATE)
    assert codes.chunk_frames == 15 + 2 * cut.context < codes.n_frames
    assert (codes.overlap_frames, one.chunk_frames) == (2 * cut.context, 0)
    assert (codes.indices() != one.indices()).mean() <= 1e-4
    assert len(np.unique(one.indices())) == 4


def test_too_little_context_is_seen(codec, whole):
    """That the test above can fail."""
    waveform = noise(5 * RATE, seed=3)
    cut = tokenizer(codec, 0.3)
    cut.context = 1
    assert (
        cut.encode(waveform, sampling_rate=RATE).indices() != whole.encode(waveform, sampling_rate=RATE).indices()
    ).mean() > 1e-3


def test_sound_is_decoded_in_pieces_as_in_one(codec, whole, monkeypatch):
    codes = whole.encode(noise(3 * RATE + 7), sampling_rate=RATE)
    one = whole.decode(codes)
    monkeypatch.setattr("birdjepa.codec.tokenizer.CHUNK_S", 0.2)
    pieces = list(whole.decode_blocks(codes))
    assert len(pieces) == 16
    np.testing.assert_allclose(np.concatenate(pieces), one, atol=1e-5)


def test_without_a_bound_the_middles_of_overlapping_clips_are_taken():
    cut = tokenizer(tiny_tokenizer.codec(reach=0, clip_s=0.4))
    assert (cut.is_bounded, cut.new, cut.context) == (False, 10, 5)
    waveform = noise(2 * RATE + 5)
    codes = cut.encode(waveform, sampling_rate=RATE)
    assert (codes.chunk_frames, codes.overlap_frames, codes.n_frames) == (20, 10, 101)
    second = cut.encode(waveform[10 * HOP : 30 * HOP], sampling_rate=RATE)
    assert second.chunk_frames == 0  # as long as a clip
    np.testing.assert_array_equal(codes.packed[15:25], second.packed[5:15])
    assert len(cut.decode(codes)) == len(waveform)


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_recordings_are_read_in_blocks_and_give_what_waveforms_give(codec, tmp_path, monkeypatch, rate):
    monkeypatch.setattr("birdjepa.codec.tokenizer._BLOCK", 5000)
    stereo = np.stack([noise(2 * rate, seed=1), noise(2 * rate, seed=2)])
    soundfile.write(tmp_path / "a.wav", stereo.T, rate, subtype="FLOAT")
    cut = tokenizer(codec, 0.3)
    seen = []
    codes = cut.encode_recording(tmp_path / "a.wav", source="a.wav", before_chunk=lambda: seen.append(1))
    assert len(seen) > 1
    assert codes.source == "a.wav"
    np.testing.assert_array_equal(codes.packed, cut.encode(stereo, sampling_rate=rate).packed)


def test_codes_of_another_codec_are_refused_in_one_line(whole, tmp_path):
    codes = tokenizer(tiny_tokenizer.codec(seed=1)).encode(noise(HOP), sampling_rate=RATE, source="b.wav")
    with pytest.raises(CodeError, match=r"^b\.wav: was made by codec [0-9a-f]{12}, and this one is [0-9a-f]{12}") as e:
        whole.decode(codes)
    assert "\n" not in str(e.value)
    liar = dataclasses.replace(codes, codec=whole.sha256, hop=HOP // 2, n_samples=HOP // 2)
    with pytest.raises(CodeError, match="rates or levels"):
        whole.decode(liar)


@pytest.mark.parametrize(
    ("waveform", "rate", "told"),
    [([], RATE, "not empty"), ([float("nan")], RATE, "NaN"), (np.array([1, 2]), RATE, "32768"), ([0.5], 0, "positive")],
)
def test_what_is_no_waveform_is_refused(whole, waveform, rate, told):
    with pytest.raises(ValueError, match=told):
        whole.encode(waveform, sampling_rate=rate)


def test_numbers_that_are_not_finite_never_become_codes(tmp_path):
    broken = tiny_tokenizer.codec()
    with torch.no_grad():
        broken.quantiser.mean.fill_(float("nan"))
    with pytest.raises(AudioError, match="not finite"):
        tokenizer(broken).encode(noise(HOP), sampling_rate=RATE, source="a")


def test_a_folder_gives_the_tokenizer_and_files_name_it(tmp_path):
    folder = tiny_tokenizer.write(tmp_path / "codec")
    ours = birdjepa.load_codec(folder)
    waveform = noise(5 * HOP)
    codes = ours.encode(waveform, sampling_rate=RATE)
    np.testing.assert_array_equal(
        codes.packed, tokenizer(tiny_tokenizer.codec()).encode(waveform, sampling_rate=RATE).packed
    )
    assert codes.codec == files.sha256(folder / "model.safetensors")
    write_codes(tmp_path / "a.bjt", codes)
    np.testing.assert_array_equal(
        ours.decode(read_codes(tmp_path / "a.bjt")), ours.roundtrip(waveform, sampling_rate=RATE)
    )
    big = load_codec(folder, config=TokenizerConfig(group_size=4, order="big"))
    assert big.encode(waveform, sampling_rate=RATE).packed.shape == (5, 4)
    np.testing.assert_array_equal(ours.decode(big.encode(waveform, sampling_rate=RATE)), ours.decode(codes))
    with pytest.raises(UsageError, match=r"config\.json: missing"):
        birdjepa.load_codec(tmp_path)
    with pytest.raises(ValueError, match="chunk_s"):
        TokenizerConfig(chunk_s=-1.0)


def test_the_documented_calls_work(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "load_codec" in block)
    tiny_tokenizer.write(tmp_path / "runs" / "codec" / "codec")
    waveform = noise(4410)
    soundfile.write(tmp_path / "a.flac", waveform, 44_100)
    monkeypatch.chdir(tmp_path)
    names = {"waveform": waveform}
    exec(block, names)
    assert len(names["sound"]) == names["codes"].n_samples == 1600
