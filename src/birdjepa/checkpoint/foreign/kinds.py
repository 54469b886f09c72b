"""What is published of each encoder of another maker: front end, clip length, licence, and what it was trained on.

Sources, read in November 2026: for Bird-MAE the model cards and configuration files of DBD-research-group/Bird-MAE-*
on the Hub, and public re-implementations that load them strictly; for Audio-MAE the repository
facebookresearch/AudioMAE and the card of gaunernst/vit_base_patch16_1024_128.audiomae_as2m.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from birdjepa.audio.logmel import LogMelConfig, bird_mae
from birdjepa.models.patch import PatchConfig

PATCH = PatchConfig(frames=16, mels=16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of encoders with one front end."""

    title: str
    front_end: LogMelConfig
    clip_s: float
    """Length of the clips that it was trained on, in seconds."""
    hub: tuple[str, ...]
    """Where its weights are on the Hub."""
    licence: str
    """For the front matter of the model card, by the Hub's names."""
    terms: str
    """What may be done with the weights."""
    trained_on: str
    overlap: str
    """Which public benchmarks it has met in training."""
    settings: Mapping[str, Mapping[str, Any]]
    """What its files must say, where they are there and say anything of it."""

    @property
    def n_patches(self) -> int:
        """Patches of a whole clip."""
        return self.front_end.clip_frames // PATCH.frames * PATCH.n_rows(self.front_end.n_mels)


BIRD_MAE = Kind(
    title="Bird-MAE",
    front_end=dataclasses.replace(bird_mae(), centre=True, clip_samples=160_000, clip_frames=512, padding="least"),
    clip_s=5.0,
    hub=tuple(f"DBD-research-group/Bird-MAE-{size}" for size in ("Base", "Large", "Huge")),
    licence="unknown",
    terms="no licence is declared, neither with the weights nor with the code: nothing permits sharing them",
    trained_on="BirdSet's XCL (recordings of Xeno-Canto), without labels",
    overlap="it has heard focal recordings of Xeno-Canto, which the training parts of all BirdSet tasks are",
    settings={
        "config.json": {
            "img_size_x": 512,
            "img_size_y": 128,
            "patch_size": 16,
            "in_chans": 1,
            "mlp_ratio": 4,
            "qkv_bias": True,
            "qk_norm": False,
            "init_values": None,
            "norm_layer_eps": 1e-6,
        },
        "preprocessor_config.json": {
            "sampling_rate": 32_000,
            "num_mel_bins": 128,
            "target_length": 512,
            "mean": -7.2,
            "std": 4.43,
            "window_type": "hanning",
            "frame_shift": 10,
            "htk_compat": True,
            "use_energy": False,
            "dither": 0.0,
        },
    },
)

AUDIO_MAE = Kind(
    title="Audio-MAE",
    front_end=dataclasses.replace(
        bird_mae(),
        sampling_rate=16_000,
        window=400,
        hop=160,
        f_max=8000.0,
        mean=-4.2677393,
        std=2 * 4.5689974,
        centre=True,
        clip_samples=160_000,
        clip_frames=1024,
        padding="zero",
    ),
    clip_s=10.0,
    hub=("gaunernst/vit_base_patch16_1024_128.audiomae_as2m",),
    licence="cc-by-nc-4.0",
    terms="CC BY-NC 4.0, the licence of facebookresearch/AudioMAE: not for commercial use, whatever a copy's card says",
    trained_on="AudioSet-2M, without labels",
    overlap="it has heard AudioSet; a copy that was fine-tuned (as20k) has learnt its labels too",
    settings={
        "config.json": {"in_chans": 1, "img_size": [1024, 128]},
    },
)

KINDS: dict[str, Kind] = {"bird-mae": BIRD_MAE, "audio-mae": AUDIO_MAE}
"""By the name that `birdjepa convert` takes."""
