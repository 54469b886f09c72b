import dataclasses

import numpy as np
import pytest
import torch
from einops import rearrange

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark.frame_embedders import EncoderFrames, LogMelFrames
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig

FRONT_END = LogMelConfig(sampling_rate=8000, window=200, hop=80, n_mels=16, f_max=4000.0)
CONFIG = EncoderConfig(
    front_end=FRONT_END,
    patch=PatchConfig(frames=4, mels=8),
    vit=VitConfig(size="nano"),
    clips=ClipConfig(clip_s=0.5, hop_s=0.5),
    pooling="mean",
)
RATE = FRONT_END.sampling_rate


def encoder() -> Encoder:
    return CONFIG.build().initialise(0).eval()


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(size=round(seconds * RATE)).astype(np.float32) * 0.1


@pytest.mark.parametrize("seconds", [0.001, 0.04, 0.3, 0.5, 0.77, 3.01])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_columns_cover_the_whole_song_whatever_its_length(seconds: float, overlap: float) -> None:
    embedded = EncoderFrames(encoder(), overlap=overlap).embed(noise(seconds))
    assert embedded.embeddings.shape == (int(np.ceil(round(seconds * RATE) / 320)), 2 * 64)
    assert embedded.start_s == pytest.approx(np.arange(len(embedded)) * 0.04)
    assert embedded.end_s[:-1] == pytest.approx(embedded.start_s[1:])
    assert embedded.end_s[-1] >= seconds - 1e-9
    assert np.isfinite(embedded.embeddings).all()


def test_a_column_is_the_rows_of_its_patches_side_by_side() -> None:
    model = encoder()
    embedder = EncoderFrames(model)
    assert embedder.columns == 12
    waveform = noise(12 * 0.04)  # exactly one clip
    padded = np.pad(waveform, (60, 200))[: FRONT_END.n_samples(48)]
    outputs = model.vit.layers(*model.tokenise(torch.from_numpy(padded)[None]))
    for layer, output in enumerate(outputs):
        expected = rearrange(output.patches[0], "(t r) d -> t (r d)", r=2).detach().numpy()
        assert EncoderFrames(model, layer=layer).embed(waveform).embeddings == pytest.approx(expected, abs=1e-5)
    assert EncoderFrames(model, layer=-1).embed(waveform).embeddings == pytest.approx(expected, abs=1e-5)


def test_each_column_comes_from_the_clip_in_which_it_lies_most_centrally() -> None:
    model, waveform = encoder(), noise(2.0)
    embedded = EncoderFrames(model, overlap=0.5).embed(waveform)
    # Clips of 12 columns begin every 6: columns 9..14 lie in the middle half of the clip that begins at column 6.
    padded = np.pad(waveform, (60, 400))[6 * 320 :][: FRONT_END.n_samples(48)]
    alone = rearrange(model(torch.from_numpy(padded)[None]).patches[0], "(t r) d -> t (r d)", r=2).detach().numpy()
    assert embedded.embeddings[9:15] == pytest.approx(alone[3:9], abs=1e-5)


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("kind", ["encoder", "log-mel"])
def test_a_click_shows_in_the_frame_that_it_lies_in(kind: str, frames: int) -> None:
    waveform = np.zeros(RATE, dtype=np.float32)
    waveform[round(0.5 * RATE) + 25] = 1.0
    if kind == "encoder":
        config = dataclasses.replace(CONFIG, patch=PatchConfig(frames=frames, mels=8))
        embedder = EncoderFrames(config.build().initialise(0).eval(), layer=0)
    else:
        embedder = LogMelFrames(FRONT_END, frames=frames)
    click, silence = embedder.embed(waveform), embedder.embed(np.zeros_like(waveform))
    changed = np.abs(click.embeddings - silence.embeddings).sum(axis=1)
    place = int(changed.argmax())
    assert click.start_s[place] <= 0.5 + 25 / RATE <= click.end_s[place]


def test_log_mel_frames_equal_the_front_end_and_context_is_put_beside_them() -> None:
    waveform = noise(0.4)
    plain = LogMelFrames(FRONT_END).embed(waveform).embeddings
    expected = FRONT_END.build()(torch.from_numpy(np.pad(waveform, (60, 60)))[None])[0].numpy()
    assert plain == pytest.approx(expected, abs=1e-5)
    wide = LogMelFrames(FRONT_END, context=2).embed(waveform).embeddings
    assert wide.shape == (40, 5 * 16)
    assert wide[10] == pytest.approx(plain[8:13].ravel(), abs=1e-5)
    column = LogMelFrames(FRONT_END, frames=4, context=1).embed(waveform)
    assert column.embeddings[3] == pytest.approx(plain[11:17].ravel(), abs=1e-5)
    assert column.frame_s == pytest.approx(0.04)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="layer"):
        EncoderFrames(encoder(), layer=2)
    with pytest.raises(ValueError, match="one patch column"):
        EncoderFrames(encoder(), clip_s=0.01)
    with pytest.raises(ValueError, match="overlap"):
        EncoderFrames(encoder(), overlap=1.0)
    with pytest.raises(ValueError, match="context"):
        LogMelFrames(FRONT_END, context=-1)
    with pytest.raises(ValueError, match="fixed"):
        LogMelFrames(dataclasses.replace(FRONT_END, normalise="clip"))
    with pytest.raises(ValueError, match="empty"):
        LogMelFrames(FRONT_END).embed(np.zeros(0, dtype=np.float32))
