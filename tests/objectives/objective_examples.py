"""What the tests of objectives share: a nano encoder, and clips that differ."""

from typing import Any

import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.base import Chance, DataSize

FRONT_END = LogMelConfig(sampling_rate=8_000, window=256, hop=80, n_mels=64, f_min=0.0, f_max=4_000.0)
CHANCE = Chance(seed=0, step=5, n_steps=10)
SIZE = DataSize(n_recordings=6, n_classes=3)
UNALTERED = AugmentConfig(gain_db=0.0, mix_probability=0.0, mask_mels=0, mask_share=0.0)


def make_encoder(**vit: Any) -> Encoder:
    """Patches of 8 frames x 8 mels: 8 rows."""
    config = EncoderConfig(
        front_end=FRONT_END,
        patch=PatchConfig(frames=8, mels=8),
        vit=VitConfig(**{"size": "nano", **vit}),
        clips=ClipConfig(),
        pooling="rows",
    )
    return config.build().initialise(0)


def make_clips(n_clips: int = 6, n_columns: int = 12, *, seed: int = 0) -> ClipBatch:
    """Noise of a level of its own for each clip, n_columns patches long; three classes, a recording each."""
    n_samples = FRONT_END.n_samples(8 * n_columns)
    noise = torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(seed))
    numbers = torch.arange(n_clips)
    loud = 0.02 * 2.0 ** numbers[:, None]
    labels = torch.nn.functional.one_hot(numbers % 3, 3).bool()
    whole = torch.full((n_clips,), n_samples)
    return ClipBatch(clips=loud * noise, lengths=whole, label=numbers % 3, labels=labels, recording=numbers, refused=())
