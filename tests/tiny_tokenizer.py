"""A codec small enough for tests: random weights, nano presets, 50 frames a second at 16 kHz."""

from pathlib import Path

import numpy as np
import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.codec.tokenizer import Tokenizer, TokenizerConfig
from birdjepa.core import random
from birdjepa.models.codec import Codec, CodecConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig

RATE, HOP = 16_000, 320


def codec(seed: int = 0, *, reach: int = 2, clip_s: float = 0.4) -> Codec:
    """Uses all of its levels on noise. reach=0 looks at whole clips."""
    encoder = WaveformEncoderConfig(
        network=WaveformConfig(preset="nano", reach=reach, kernel=5),
        clips=ClipConfig(clip_s=clip_s, hop_s=clip_s),
        pooling="mean",
    )
    made = CodecConfig(encoder=encoder, vocoder=VocoderConfig(preset="nano")).build()
    made.encoder.initialise(seed)
    made.quantiser.initialise(random.torch_generator(seed, "quantiser"))
    made.vocoder.initialise(random.torch_generator(seed, "vocoder"))
    with torch.no_grad():
        made.quantiser.measure(made.encoder.network(torch.from_numpy(noise(2 * RATE, seed=9))[None]).values[0])
    return made.eval()


def tokenizer(codec: Codec, chunk_s: float = 0.0) -> Tokenizer:
    return Tokenizer(codec, TokenizerConfig(chunk_s=chunk_s))


def write(folder: Path, seed: int = 0, *, reach: int = 2) -> Path:
    """Its folder."""
    return codec(seed, reach=reach).save(folder, card="a codec for tests\n", provenance={})


def noise(n_samples: int, *, seed: int = 0) -> np.ndarray:
    """Noise whose level wanders, float32."""
    drawn = np.random.default_rng(seed).normal(size=n_samples)
    return (drawn * 0.1 * (1.2 + np.sin(np.arange(n_samples) / 3000))).astype(np.float32)
