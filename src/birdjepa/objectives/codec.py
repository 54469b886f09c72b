"""A codec behind a fixed encoder: frames become codes, and a vocoder learns to make the sound of them again.

The loss is a weighted sum of L1 between waveforms, a multi-resolution STFT loss, a multi-scale mel loss, and from
`disc_start_step` on an adversarial and a feature-matching loss. Until then the discriminators do not exist for anybody:
neither do they learn, nor does anything learn from them.

Both sides learn in one backward pass. The discriminators judge the real sound and the made sound twice: once cut off
from the vocoder, for their own loss, and once with their weights held fixed, for the vocoder's. So no gradient of one
side's loss reaches the other's weights.

The encoder hears whole clips; a stretch of each is decoded and judged. The quantiser's statistics are measured once,
before the first step (`measure`); its projection, where it has one, learns with the vocoder.

Axes: b clips | s audio samples | n frames of a clip | t frames of a stretch | q quantised dimensions
Source: Kong et al. 2020, "HiFi-GAN", arXiv 2010.05646; weights of "Density-Adaptive JEPA", arXiv 2512.07168.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from birdjepa.core import processes, random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.codec import Codec, Coded
from birdjepa.models.discriminators import DiscriminatorsConfig
from birdjepa.models.waveform_encoder import WaveformEncoder
from birdjepa.objectives import codec_losses as losses
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.codec_losses import MelLossConfig, StftLossConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecObjectiveConfig(ObjectiveConfig):
    """Weights of the losses, and the discriminators. The default weights are the public system's."""

    name = "codec"
    segment_s: float = 0.0
    """Stretch of each clip that is decoded, in seconds, drawn anew each time; 0 decodes all of it."""
    waveform_weight: float = 1.0
    stft_weight: float = 2.0
    mel_weight: float = 0.0
    """0 leaves it out; HiFi-GAN has 45, DAC 15, without the STFT loss."""
    adversarial_weight: float = 0.1
    feature_weight: float = 0.2
    """The public system's 0.1 times HiFi-GAN's 2."""
    disc_start_step: int = 5000
    """First step at which the discriminators learn, and are learnt from."""
    stft: StftLossConfig = StftLossConfig()
    mel: MelLossConfig = MelLossConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()

    def __post_init__(self) -> None:
        if self.segment_s < 0 or self.disc_start_step < 0:
            raise ValueError(
                f"need segment_s >= 0 and disc_start_step >= 0, got {self.segment_s}, {self.disc_start_step}"
            )
        of_sound = (self.waveform_weight, self.stft_weight, self.mel_weight)
        of_play = (self.adversarial_weight, self.feature_weight)
        if min(*of_sound, *of_play) < 0 or not any(of_sound):
            raise ValueError(
                "weights must not be negative, and waveform_weight, stft_weight and mel_weight not all be 0; got "
                f"{of_sound}, {of_play}"
            )

    def decoded(self, n_frames: int, frame_rate: float) -> int:
        """Frames that are decoded of a clip of n_frames."""
        return min(math.ceil(self.segment_s * frame_rate), n_frames) or n_frames

    def build(self, encoder: Codec, seed: int, data: DataSize) -> "CodecObjective":  # pyright: ignore
        """The objective around a codec with its encoder's weights; what learns of it gets its first weights here."""
        return CodecObjective(self, encoder, seed)


class Stretch(NamedTuple):
    """What of each clip is decoded."""

    values: Float[Tensor, "b t q"]
    real: Float[Tensor, "b s"]
    valid: Bool[Tensor, "b s"]
    """Samples that are sound."""


class CodecObjective(Objective):
    def __init__(self, config: CodecObjectiveConfig, codec: Codec, seed: int) -> None:
        super().__init__()
        self.config = config
        self.codec = codec.initialise(seed)
        self.discriminators = config.discriminators.build()
        self.discriminators.initialise(random.torch_generator(seed, "initialise", "discriminators"))
        self.mels = config.mel.build(codec.config.sampling_rate)

    @property
    def encoder(self) -> WaveformEncoder:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Fixed: see `Codec`."""
        return self.codec.encoder

    @property
    def exported(self) -> nn.Module:
        """Quantiser and vocoder: the encoder is where it came from."""
        return self.codec.learnt

    @property
    def averaged(self) -> nn.Module:
        return self.codec.learnt

    @property
    def watched_width(self) -> int:
        return self.codec.config.width

    def sleeps(self, group: str, step: int) -> bool:
        return group.startswith("discriminators") and step < self.config.disc_start_step

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        config = self.config
        coded = self.codec.encode(batch.clips, batch.lengths)
        part = self.stretch(batch, coded, chance)
        made = self.codec.decode(part.values)
        found = {
            "waveform": losses.waveform_loss(made, part.real, part.valid),
            "stft": losses.stft_loss(made, part.real, config.stft, part.valid),
        }
        loss = config.waveform_weight * found["waveform"] + config.stft_weight * found["stft"]
        if config.mel_weight:
            found["mel"] = losses.mel_loss(made, part.real, self.mels, part.valid)
            loss = loss + config.mel_weight * found["mel"]
        if chance.step >= config.disc_start_step:
            found |= self.play(made, part)
            loss = loss + config.adversarial_weight * found["adversarial"] + config.feature_weight * found["feature"]
            loss = loss + found["discriminator"]
        else:  # engines that exchange gradients wait for one of each parameter
            silence = made.new_zeros(1, self.config.discriminators.least_samples)
            loss = loss + 0.0 * torch.stack([judged.score.sum() for judged in self.discriminators(silence)]).sum()
        embedding = coded.values.detach().sum(1) / coded.kept.sum(1, keepdim=True)
        return ObjectiveOutput(
            loss=loss,
            terms={name: each.detach() for name, each in found.items()} | self.usage(coded),
            embedding=embedding,
            watched=embedding,
        )

    def play(self, made: Float[Tensor, "b s"], part: Stretch) -> dict[str, Float[Tensor, ""]]:
        """The losses of both sides."""
        valid = part.valid
        made = losses.silenced(made, valid)
        real = self.discriminators(losses.silenced(part.real, valid))
        cut_off = self.discriminators(made.detach())
        with held_fixed(self.discriminators):
            judged = self.discriminators(made)
        return {
            "adversarial": losses.adversarial_loss(judged, valid),
            "feature": losses.feature_loss(judged, real, valid),
            "discriminator": losses.discriminator_loss(cut_off, real, valid),
        }

    def stretch(self, batch: ClipBatch, coded: Coded, chance: Chance) -> Stretch:
        """The frames of each clip that are decoded, and their sound; anywhere within what is sound."""
        network = self.encoder.config.network
        hop, whole = network.hop, coded.values.shape[1]
        n = self.config.decoded(whole, network.frame_rate)
        room = (coded.kept.sum(1) - n).clamp_min(0)
        drawn = chance.draws("stretch", batch.clips.device).uniform((len(room),), clips=0)
        first = (drawn * (room + 1)).long().clamp_max(room)[:, None]
        frames = first + torch.arange(n, device=first.device)
        samples = first * hop + torch.arange(n * hop, device=first.device)
        clips = nn.functional.pad(batch.clips, (0, whole * hop - batch.clips.shape[1]))
        index = frames[:, :, None].expand(-1, -1, coded.values.shape[2])
        return Stretch(coded.values.gather(1, index), clips.gather(1, samples), samples < batch.lengths[:, None])

    def usage(self, coded: Coded) -> dict[str, Float[Tensor, ""]]:
        """How much of the levels the clips of all processes use: the least share of any dimension, and the mean entropy
        in bits.
        """
        every = coded.indices[coded.kept]
        levels = self.codec.quantiser.fsq.n_levels
        own = torch.stack([(every == level).sum(0) for level in range(int(levels.max()))])
        counts = processes.here().add(own)
        shares = counts / counts.sum(0)
        bits = torch.special.entr(shares).sum(0) / math.log(2)
        return {"least_used": ((counts > 0).sum(0) / levels).min(), "level_bits": bits.mean()}

    @torch.no_grad()
    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        """Log-mel pictures of the clips, and of what is made of their codes."""
        n_samples = batch.clips.shape[1]
        coded = self.codec.encode(batch.clips, batch.lengths)
        valid = torch.arange(n_samples, device=batch.clips.device) < batch.lengths[:, None]
        made = losses.silenced(self.codec.decode(coded.values)[:, :n_samples], valid)
        front_end = self.encoder.config.log_mel.build().to(made.device)
        told = {"decoded": "made of its codes", "original": ""}
        pictures = []
        for (name, caption), clips in zip(told.items(), (made, batch.clips), strict=True):
            frames = front_end.log_mel(clips)
            start = torch.zeros(len(frames), dtype=torch.long, device=frames.device)
            pictures.append(Panel(name, caption, start, torch.full_like(start, frames.shape[1]), frames))
        return pictures


@torch.no_grad()
def measure(codec: Codec, batches: Iterable[ClipBatch]) -> None:
    """Gives the quantiser the statistics of the frames of some batches, of all processes."""
    found = []
    for batch in batches:
        frames = codec.frames(batch.clips, batch.lengths)
        found.append(frames.values[frames.kept])
    of_all = processes.here().objects(torch.cat(found).numpy())
    codec.quantiser.measure(torch.from_numpy(np.concatenate(of_all)))


@contextlib.contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """While it is open, no gradient reaches the module's parameters; it passes through them as ever."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
