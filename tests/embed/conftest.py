"""A small encoder and recordings for it: 1 s clips at 16 kHz, 6 columns of 16 frames each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig

FRONT_END = LogMelConfig(sampling_rate=16_000, window=400, hop=160, n_mels=32, f_max=8_000.0)
CONFIG = EncoderConfig(
    front_end=FRONT_END,
    patch=PatchConfig(frames=16, mels=16),
    vit=VitConfig(size="nano"),
    clips=ClipConfig(clip_s=1.0, hop_s=1.0),
    pooling="mean",
)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return CONFIG.build().initialise(0).requires_grad_(False).eval()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes noise bursts of a length to a file whose suffix decides the format."""

    def write_noise(name: str, duration_s: float, sampling_rate: int = 16_000, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        n = round(duration_s * sampling_rate)
        swell = 0.2 + np.abs(np.sin(np.arange(n) / sampling_rate * 2.3 + seed))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, (0.1 * swell * rng.standard_normal(n)).astype(np.float32), sampling_rate)
        return path

    return write_noise
