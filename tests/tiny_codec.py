"""A codec small enough for tests, a batch of clips for it, and a run that learns it."""

import dataclasses
from pathlib import Path

import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.core.batch import ClipBatch
from birdjepa.data.loader import LoaderConfig
from birdjepa.models.codec import Codec, CodecConfig
from birdjepa.models.discriminators import DiscriminatorsConfig
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.objectives.codec import CodecObjective, CodecObjectiveConfig
from birdjepa.objectives.codec_losses import MelLossConfig, StftLossConfig
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.train.config import MonitorConfig

ENCODER = WaveformEncoderConfig(
    network=WaveformConfig(preset="nano", sampling_rate=8_000),
    clips=ClipConfig(clip_s=1.0, hop_s=1.0),
    pooling="mean+std",
)
CODEC = CodecConfig(encoder=ENCODER, vocoder=VocoderConfig(preset="nano"))
OBJECTIVE = CodecObjectiveConfig(
    segment_s=0.2,
    mel_weight=1.0,
    disc_start_step=2,
    stft=StftLossConfig(windows=(256, 128)),
    mel=MelLossConfig(windows=(256,)),
    discriminators=DiscriminatorsConfig(periods=(2, 3), n_scales=2, divisor=32),
)


def build(config: CodecConfig = CODEC, seed: int = 0) -> Codec:
    """A codec of random weights."""
    codec = config.build()
    codec.encoder.initialise(seed)
    return codec.initialise(seed)


def build_objective(config: CodecObjectiveConfig = OBJECTIVE, seed: int = 0) -> CodecObjective:
    return CodecObjective(config, build(), seed)


def batch(lengths: tuple[int, ...] = (4000, 3001, 1, 320)) -> ClipBatch:
    """Noise of these lengths, zeros behind it."""
    longest, n = max(lengths), len(lengths)
    noise = 0.1 * torch.randn(n, longest, generator=torch.Generator().manual_seed(1))
    sound = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return ClipBatch(
        clips=noise * sound,
        lengths=torch.tensor(lengths),
        label=torch.full((n,), -1),
        labels=torch.zeros(n, 0, dtype=torch.bool),
        recording=torch.arange(n),
        refused=(),
    )


def tiny_codec_run(songs: Path, encoder: Path, out: Path) -> PretrainCodecConfig:
    """A whole configuration."""
    default = PretrainCodecConfig()
    settings = {"steps": 4, "batch_size": 4, "accumulate": 2, "checkpoint_every": 2, "log_every": 1, "threads": 1}
    return dataclasses.replace(
        default,
        data=(str(songs),),
        out=out,
        seed=3,
        encoder=encoder,
        quantiser=QuantiserConfig(dims=8),
        vocoder=VocoderConfig(preset="nano"),
        measured=8,
        loader=LoaderConfig(clip_s=0.5, workers=0),
        objective=OBJECTIVE,
        train=dataclasses.replace(
            default.train, **settings, ema_decay=0.5, monitor=MonitorConfig(every=2, bank=16, least_rank=0.0)
        ),
        sample_every=2,
        report=False,
    )
