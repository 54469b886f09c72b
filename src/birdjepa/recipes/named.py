"""Named recipes: functions that return a whole configuration, each headed by what it is for.

The CPU recipes differ in their objective and its learning rate only: same audio, front end, patches, encoder, pooling
and schedule, so that `birdjepa compare` compares objectives. benchmarks/RESULTS.md has what they reached.
"""

import dataclasses
import functools

from birdjepa.data.loader import LoaderConfig
from birdjepa.models.discriminators import DiscriminatorsConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.projector import ProjectorConfig
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vit import VitConfig
from birdjepa.nn.fsq import FsqConfig
from birdjepa.objectives import OBJECTIVES, AnyObjective
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.codec import CodecObjectiveConfig
from birdjepa.objectives.codec_losses import MelLossConfig, StftLossConfig
from birdjepa.objectives.daam import DaamConfig
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.objectives.views import ViewsConfig
from birdjepa.optim.adversarial import AdversarialMuonConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.schedules import ScheduleConfig
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.waveform_config import PretrainWaveformConfig
from birdjepa.train.config import TrainConfig

VIEWS = ViewsConfig(
    n_global=2,
    global_s=1.92,
    n_local=2,
    local_s=0.96,
    stretch=(0.6, 1.5),
    zoom=(0.8, 1.2),
    augment=AugmentConfig(tilt_db=3.0),
)
"""Short views of 5 s, strongly altered."""


def on_cpu(objective: AnyObjective, lr: float = 1e-3) -> PretrainConfig:
    """An objective on what suits a CPU: a tiny ViT, 320 ms patches, clips of 5 s."""
    return PretrainConfig(
        loader=LoaderConfig(clip_s=5.0, workers=1),
        patch=PatchConfig(frames=32, mels=16),
        pooling="rows+std",
        objective=objective,
        optim=AdamWConfig(lr=lr),
        train=TrainConfig(steps=1000, batch_size=128),
    )


def lejepa() -> PretrainConfig:
    """The default, sized for a CPU. benchmarks/real_audio.py runs it on real recordings."""
    return on_cpu(LejepaConfig(views=VIEWS, projector=ProjectorConfig(hidden=512)), lr=2e-3)


def pixio() -> PretrainConfig:
    """The masked autoencoder with a decoder of 128 x 4 for the tiny encoder."""
    return on_cpu(PixioConfig(), lr=2e-3)


def ajepa() -> PretrainConfig:
    """A-JEPA for some hundred steps: a teacher that forgets its random weights, targets without what patches share."""
    return on_cpu(AjepaConfig(momentum=(0.9, 1.0), target_norm="instance"))


def diet() -> PretrainConfig:
    """Source prediction on the views of the LeJEPA recipe."""
    return on_cpu(DietConfig(views=VIEWS))


def daam() -> PretrainWaveformConfig:
    """Density-adaptive JEPA in half an hour on one core: clips of up to 2 s, a teacher that forgets its random weights,
    and spectra, without which so short a training leaves frames that say little of the sound.
    """
    return PretrainWaveformConfig(
        loader=LoaderConfig(clip_s=2.0, workers=1),
        objective=DaamConfig(target_norm="layer", momentum=(0.99, 1.0), spectrum_weight=2.0),
        optim=AdamWConfig(lr=1e-3),
        train=TrainConfig(steps=1400, batch_size=16, checkpoint_every=100),
    )


def codec() -> PretrainCodecConfig:
    """A codec behind the small waveform encoder, for an hour on one core: stretches of half a second, and recordings
    that are shorter than a second as they are. Discriminators, a sixteenth as wide as HiFi-GAN's, are for longer runs:
    so early they cost more than they give.
    """
    default = PretrainCodecConfig()
    return dataclasses.replace(
        default,
        quantiser=QuantiserConfig(fsq=FsqConfig(levels=(8,))),
        loader=LoaderConfig(clip_s=1.0, short="silence", workers=1),
        objective=CodecObjectiveConfig(
            segment_s=0.5,
            mel_weight=10.0,
            stft=StftLossConfig(floor=1e-3),
            mel=MelLossConfig(floor=3e-4),
            discriminators=DiscriminatorsConfig(n_scales=2, divisor=16),
        ),
        optim=AdversarialMuonConfig(lr=3e-3),
        schedule=ScheduleConfig(shape="cosine"),
        train=dataclasses.replace(default.train, steps=3200, batch_size=8),
    )


def demo() -> PretrainConfig:
    """The default on the embedded data set in a few minutes: what `make demo` runs. In float32, for figures that depend
    on the CPU as little as they can.
    """
    base = lejepa()
    train = dataclasses.replace(base.train, steps=90, batch_size=96, checkpoint_every=45, precision="fp32")
    return dataclasses.replace(base, train=train)


def small() -> PretrainConfig:
    """A ViT-S for a GPU: the numbers of views, batch and learning rate that LeJEPA publishes, 160 ms patches on 5 s.

    Not measured yet.
    """
    return PretrainConfig(
        loader=LoaderConfig(clip_s=6.0, workers=8, pin_memory=True),
        patch=PatchConfig(frames=16, mels=16),
        encoder=VitConfig(size="small"),
        pooling="rows+std",
        objective=LejepaConfig(views=ViewsConfig(n_global=2, global_s=5.0, n_local=6, local_s=1.6)),
        optim=AdamWConfig(lr=5e-4),
        train=TrainConfig(steps=50_000, batch_size=512, checkpoint_every=1000),
    )


RECIPES = {
    **{name: functools.partial(on_cpu, kind()) for name, kind in OBJECTIVES.items()},
    "lejepa": lejepa,
    "pixio": pixio,
    "ajepa": ajepa,
    "diet": diet,
    "daam": daam,
    "codec": codec,
    "demo": demo,
    "small": small,
}
"""What `birdjepa pretrain NAME` takes: every objective by its name, and some more."""
