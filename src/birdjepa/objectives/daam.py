"""Density-adaptive JEPA on waveforms: predict, from some frames of a clip, how an averaged teacher describes the rest.

Spans of frames are hidden. The context encoder hears what is left, the teacher (an exponential moving average of it)
the whole clip; the predictor must say what the teacher says where the context heard nothing. Where hiding happens is a
setting: in the waveform, so that the context cannot know of what it must predict; behind the convolutions, whose reach
leaks at the edges of spans; or behind the whole encoder, as the public system does, whose context has heard it all.

A teacher that is an average of the context says nothing of sound by itself, and learns to slowly. So there can be an
anchor, which the public system has not: a linear layer must tell the spectrum of each frame that the context heard.

Axes: b clips | s audio samples | n frames | d code dimensions | e embedding | t log-mel frames of a frame | m mels
Source: arXiv 2512.07168; the anchor is our own.
"""

import copy
import dataclasses
import math
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.audio.logmel import LogMel
from birdjepa.core import processes, random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.frame_predictor import FramePredictorConfig
from birdjepa.models.waveform import Frames
from birdjepa.models.waveform_encoder import WaveformEncoder, WaveformEncoderConfig
from birdjepa.nn import synced
from birdjepa.nn.sigreg import SigregConfig, directions, null_floor, sigreg
from birdjepa.nn.spread import effective_rank
from birdjepa.objectives.ajepa import standardised
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.spans import SpanMaskConfig, draw_spans
from birdjepa.objectives.teacher import follow

FLOOR = 1e-8
"""Mel power below which the spectrum is silence (-80 dB): what is quieter need not be told apart."""
RANKED = 512
"""Frames of a batch whose rank is found, for a log line at each step."""
MaskAt = Literal["waveform", "features", "output"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameSigregConfig:
    """SIGReg on the context's frames: their cloud should look standard normal, which suits a quantiser too."""

    weight: float = 0.0
    """0 leaves it out."""
    n_frames: int = 1024
    """Frames of a micro-batch that it is judged on, drawn at random."""
    sigreg: SigregConfig = dataclasses.field(default_factory=SigregConfig)

    def __post_init__(self) -> None:
        if self.weight < 0 or self.n_frames < 2:
            raise ValueError(f"need weight >= 0 and n_frames >= 2, got {self.weight}, {self.n_frames}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DaamConfig(ObjectiveConfig):
    """Masks, predictor, targets and teacher."""

    name = "daam"
    masks: SpanMaskConfig = SpanMaskConfig()
    mask_at: MaskAt = "waveform"
    """Where frames are hidden from the context: their samples, what the convolutions made of them, or only what the
    whole encoder says of them (the public system's way, a leak)."""
    predictor: FramePredictorConfig = FramePredictorConfig()
    loss: Literal["l2", "l1"] = "l2"
    """Mean squared or mean absolute error."""
    target_norm: Literal["layer", "instance", "none"] = "none"
    """Standardise each of the teacher's frames over its width, or each dimension over the clip's frames; the encoder's
    last norm stands in any case."""
    momentum: tuple[float, float] = (0.996, 0.996)
    """Share of itself that the teacher keeps at an update: from the first step to the last, linearly. Equal ends are a
    constant."""
    export: Literal["teacher", "context"] = "teacher"
    """Which encoder leaves the run."""
    sigreg: FrameSigregConfig = FrameSigregConfig()
    spectrum_weight: float = 0.0
    """Of the mean absolute error, in 20 dB, of the log-mel spectrum that a linear layer tells of each frame that the
    context heard; 0 leaves it out, as the public system does."""
    gain_db: float = 6.0
    """Level of a clip: uniform within plus or minus this."""
    noise: float = 0.0
    """Standard deviation of white noise that is added to every clip."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum must ascend within [0, 1], got {self.momentum[0]}, {self.momentum[1]}")
        if min(self.gain_db, self.noise, self.spectrum_weight) < 0:
            raise ValueError(
                "need gain_db, noise and spectrum_weight >= 0, got "
                f"{self.gain_db}, {self.noise}, {self.spectrum_weight}"
            )

    def build(self, encoder: WaveformEncoder, seed: int, data: DataSize) -> "Daam":  # pyright: ignore
        return Daam(self, encoder, seed)


class Look(NamedTuple):
    """One pass of teacher, context encoder and predictor."""

    context: Frames
    target: Float[Tensor, "b n d"]
    predicted: Float[Tensor, "b n d"]
    teacher: Frames
    hidden: Bool[Tensor, "b n"]


class Daam(Objective):
    def __init__(self, config: DaamConfig, encoder: WaveformEncoder, seed: int) -> None:
        super().__init__()
        self.config = config
        self.encoder: WaveformEncoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride]
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = config.predictor.build(encoder.config.network)
        self.predictor.initialise(random.torch_generator(seed, "initialise", "predictor"))
        self.spectrum = nn.ModuleList([Spectrum(encoder.config)] if config.spectrum_weight else [])
        for spectrum in self.spectrum:
            assert isinstance(spectrum, Spectrum)
            spectrum.initialise(random.torch_generator(seed, "initialise", "spectrum"))
        self.floor = null_floor(config.sigreg.sigreg) if config.sigreg.weight else 0.0

    @property
    def exported(self) -> WaveformEncoder:
        return self.teacher if self.config.export == "teacher" else self.encoder

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        clips = self.altered(batch, chance)
        look = self.look(clips, batch, chance)
        loss = masked_loss(look.predicted, look.target, look.hidden, self.config.loss)
        embedding = self.encoder.pool_frames(look.context)
        with torch.no_grad():
            watched = self.teacher.pool_frames(look.teacher)
            terms = {"hidden_share": look.hidden.float().sum() / look.teacher.kept.sum()}
            for name, frames in (("context", look.context), ("teacher", look.teacher)):
                every = frames.values[frames.kept].float()
                terms[f"{name}_std"] = every.std(0).mean()
                terms[f"{name}_rank"] = torch.tensor(effective_rank(every[:RANKED].cpu()))
        weight = self.config.sigreg.weight
        if weight:
            normality = self._normality(look.context, chance)
            loss = loss + weight * normality
            terms["sigreg_excess"] = normality.detach() - self.floor
        for spectrum in self.spectrum:
            told, true = spectrum(look.context.values, clips)
            error = masked_loss(told, true, look.context.kept, "l1")
            loss = loss + self.config.spectrum_weight * error
            terms["spectrum"] = error.detach()
        return ObjectiveOutput(
            loss=loss,
            terms=terms,
            embedding=embedding,
            watched=watched if self.config.export == "teacher" else embedding.detach(),
        )

    def after_update(self, chance: Chance) -> None:
        follow(self.teacher, self.encoder, self.config.momentum, chance.progress)

    @torch.no_grad()
    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        """Log-mel pictures of what is heard and what is hidden."""
        hidden = self.hidden(batch, chance)
        front_end = self.encoder.config.log_mel
        frames = front_end.build().to(batch.clips.device).log_mel(batch.clips)
        moment = torch.arange(frames.shape[1], device=frames.device) * front_end.hop
        of_frame = (moment // self.encoder.config.network.hop).clamp_max(hidden.shape[1] - 1)
        gone = hidden.to(frames.device)[:, of_frame, None]
        start = torch.zeros(len(frames), dtype=torch.long, device=frames.device)
        span = torch.full_like(start, frames.shape[1])
        where = {"waveform": "heard", "features": "kept of the convolutions' frames", "output": "kept of its frames"}
        return [
            Panel(
                "context",
                f"what the context encoder {where[self.config.mask_at]}",
                start,
                span,
                frames.masked_fill(gone, torch.nan),
            ),
            Panel(
                "targets",
                "must be predicted, as the teacher hears them",
                start,
                span,
                frames.masked_fill(~gone, torch.nan),
            ),
        ]

    def altered(self, batch: ClipBatch, chance: Chance) -> Float[Tensor, "b s"]:
        """The clips at drawn levels, with noise where they hold sound."""
        draws, clips = chance.draws("augment", batch.clips.device), batch.clips
        if self.config.gain_db:
            level = draws.uniform((len(clips), 1), -self.config.gain_db, self.config.gain_db, clips=0)
            clips = clips * 10 ** (level / 20)
        if self.config.noise:
            there = torch.arange(clips.shape[1], device=clips.device) < batch.lengths[:, None]
            clips = clips + self.config.noise * draws.normal(clips.shape, clips=0) * there
        return clips

    def hidden(self, batch: ClipBatch, chance: Chance) -> Bool[Tensor, "b n"]:
        """Frames that the context must not hear; on the CPU."""
        network = self.encoder.config.network
        counts = [network.n_frames(int(n)) for n in batch.lengths]
        return draw_spans(counts, network.n_frames(batch.clips.shape[1]), self.config.masks, chance)

    def look(self, clips: Float[Tensor, "b s"], batch: ClipBatch, chance: Chance) -> Look:
        """One pass of teacher, context encoder and predictor over clips of the batch's lengths."""
        hidden = self.hidden(batch, chance)
        with torch.no_grad():
            teacher = self.teacher.network(clips, batch.lengths)
            target = standardised_frames(teacher, self.config.target_norm)
        here = hidden.to(clips.device)
        network = self.encoder.network
        if self.config.mask_at == "waveform":
            context = network(clips, batch.lengths, ~hidden)
        elif self.config.mask_at == "features":
            values, kept = network.convolved(clips, batch.lengths, None)
            context = network.mix(values, kept & ~here)
        else:
            context = network(clips, batch.lengths)
        predicted = self.predictor(context.values, here, teacher.kept)
        return Look(context, target, predicted.float(), teacher, here)

    def _normality(self, context: Frames, chance: Chance) -> Float[Tensor, ""]:
        """SIGReg of frames drawn from those that the context saw."""
        config = self.config.sigreg
        every = context.values[context.kept].float()
        generator = chance.generator("sigreg", every.device)
        order = torch.randint(len(every), (config.n_frames,), generator=generator, device=every.device)
        slices = directions(chance.seed, chance.step, every.shape[1], config.sigreg.n_slices, every.device)
        return sigreg(every[order].unsqueeze(0), slices, config.sigreg)


class Spectrum(nn.Module):
    """What a linear layer tells of the log-mel spectrum within each frame, and what it is.

    A frame has as many log-mel frames as are nearest to one in 10 ms and divide it; each is centred on its part.
    """

    def __init__(self, config: WaveformEncoderConfig) -> None:
        super().__init__()
        usual, hop = config.log_mel, config.network.hop
        self.parts = next(n for n in range(math.ceil(hop / usual.hop), hop + 1) if hop % n == 0)
        self.front_end = LogMel(dataclasses.replace(usual, hop=hop // self.parts, floor=FLOOR))
        self.tell = nn.Linear(config.token_width, self.parts * usual.n_mels)

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights of gain 1; at first every frame is told to be as loud as the front end's mean."""
        nn.init.normal_(self.tell.weight, std=self.tell.in_features**-0.5, generator=generator)
        nn.init.zeros_(self.tell.bias)

    def forward(
        self, frames: Float[Tensor, "b n d"], clips: Float[Tensor, "b s"]
    ) -> tuple[Float[Tensor, "b n tm"], Float[Tensor, "b n tm"]]:
        """Told and true, normalised; behind the end of a clip there are zeros."""
        told = self.tell(frames)
        window, hop = self.front_end.config.window, self.front_end.config.hop
        before = (window - hop) // 2
        wanted = self.front_end.config.n_samples(frames.shape[1] * self.parts)
        with torch.no_grad():
            heard = self.front_end(F.pad(clips, (before, wanted - before - clips.shape[1])))
        return told, rearrange(heard, "b (n t) m -> b n (t m)", t=self.parts)


def masked_loss(
    predicted: Float[Tensor, "b n d"],
    target: Float[Tensor, "b n d"],
    hidden: Bool[Tensor, "b n"],
    kind: Literal["l2", "l1"],
) -> Float[Tensor, ""]:
    """Mean over the hidden frames of all processes, and over the width, of the squared or absolute error; in float32.

    The mean over processes of what each returns is that over all their frames, whoever has more of them.
    """
    error = {"l2": F.mse_loss, "l1": F.l1_loss}[kind](predicted.float(), target.float(), reduction="none")
    total = (error.mean(2) * hidden).sum()
    own = processes.here()
    n_hidden = synced.summed(hidden.sum().float()) / own.world
    return total / n_hidden.clamp_min(1)


def standardised_frames(frames: Frames, norm: Literal["layer", "instance", "none"]) -> Float[Tensor, "b n d"]:
    """As `ajepa.standardised`, with statistics over the frames that are kept."""
    values = frames.values.float()
    if norm != "instance":
        return standardised(values, norm)
    kept = frames.kept[:, :, None].float()
    count = kept.sum(1, keepdim=True)
    mean = (values * kept).sum(1, keepdim=True) / count
    variance = ((values - mean).square() * kept).sum(1, keepdim=True) / count
    return (values - mean) * (variance + 1e-5).rsqrt()
