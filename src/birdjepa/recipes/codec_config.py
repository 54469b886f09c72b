"""The configuration of a run that learns a codec behind an encoder of waveforms, which stays as it is."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import Batches, LoaderConfig
from birdjepa.models.codec import Codec, CodecConfig
from birdjepa.models.loading import load, read_config
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.objectives.base import DataSize, Objective
from birdjepa.objectives.codec import CodecObjective, CodecObjectiveConfig, measure
from birdjepa.optim.adversarial import ADVERSARIAL, AdversarialAdamWConfig, AnyAdversarial
from birdjepa.optim.groups import OptimiserConfig
from birdjepa.recipes.codec_card import codec_card
from birdjepa.recipes.codec_samples import Samples
from birdjepa.recipes.config import RunConfig, millions
from birdjepa.recipes.run_folder import Say
from birdjepa.train.config import MonitorConfig, OnlineProbeConfig, TrainConfig
from birdjepa.train.loop import Judge
from birdjepa.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainCodecConfig(RunConfig):
    """A run that learns a vocoder for the codes of a fixed encoder."""

    encoder: Path = Path("runs/stage1/encoder")
    """Folder of the encoder of waveforms (birdjepa pretrain daam leaves one). It does not learn."""
    quantiser: QuantiserConfig = QuantiserConfig()
    vocoder: VocoderConfig = VocoderConfig()
    """What makes sound of codes; its preset must have the encoder's hop."""
    group_size: int = 7
    """Codes of a frame that are packed into one integer."""
    measured: int = 64
    """Clips from which the quantiser's statistics are taken, before the first step."""
    loader: LoaderConfig = LoaderConfig(clip_s=2.0)
    objective: CodecObjectiveConfig = CodecObjectiveConfig()
    optim: AnyAdversarial = AdversarialAdamWConfig()
    train: TrainConfig = TrainConfig(
        clip_by="group",
        probe=OnlineProbeConfig(enabled=False),
        monitor=MonitorConfig(least_rank=0.0),  # what is watched are codes, which do not learn
    )
    sample_every: int = 500
    """Steps between two looks at some clips: sound and pictures in samples/, distances in metrics.jsonl, a [TOK] line;
    0 takes none."""
    n_samples: int = 2
    """Clips that are looked at: the first of the run's first batch."""

    exports = "codec"

    def __post_init__(self) -> None:
        if self.sample_every < 0 or self.n_samples < 1 or self.measured < 2:
            raise ValueError(
                "need sample_every >= 0, n_samples >= 1, measured >= 2; got "
                f"{self.sample_every}, {self.n_samples}, {self.measured}"
            )

    @property
    def sampling_rate(self) -> int:
        return read_config(self.encoder).sampling_rate

    @property
    def optimisers(self) -> Mapping[str, type[OptimiserConfig]]:
        return ADVERSARIAL

    def check(self) -> None:
        super().check()
        codec = self.codec_config()
        hop_s = codec.hop / codec.sampling_rate
        if self.loader.clip_s < hop_s:
            raise UsageError(
                f"loader.clip_s={self.loader.clip_s:g} s is shorter than a frame, which is {hop_s:g} s: raise it"
            )
        network, least = codec.encoder.network, self.objective.discriminators.least_samples
        whole = network.n_frames(round(self.loader.clip_s * codec.sampling_rate))
        n_samples = self.objective.decoded(whole, network.frame_rate) * codec.hop
        if n_samples < least:
            raise UsageError(
                f"{n_samples} samples of each clip are judged, and the discriminators need {least}: raise "
                "objective.segment_s or loader.clip_s, or leave out long objective.discriminators.periods"
            )
        if self.train.clip_by != "group":
            raise UsageError(
                "train.clip_by must be group: vocoder and discriminators have gradients of different sizes, and one "
                "norm over both would let each slow the other"
            )
        if self.train.probe.enabled:
            raise UsageError("train.probe watches an encoder that learns, and this one does not: leave it off")
        self.make_codec(codec)

    def codec_config(self) -> CodecConfig:
        """The exported codec's own configuration.

        Raises:
          UsageError: if the folder holds no encoder of waveforms, or the parts do not fit together.
        """
        encoder = read_config(self.encoder)
        if not isinstance(encoder, WaveformEncoderConfig):
            raise UsageError(
                f"{self.encoder}: hears spectrograms ({encoder.described}), and a codec needs an encoder of waveforms: "
                "give one of birdjepa pretrain daam"
            )
        try:
            return CodecConfig(
                encoder=encoder, quantiser=self.quantiser, vocoder=self.vocoder.spelt_out, group_size=self.group_size
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def make_codec(self, config: CodecConfig) -> Codec:
        """The codec with its encoder's weights.

        Raises:
          UsageError: if they are not in the folder.
        """
        codec = config.build()
        codec.encoder.load_state_dict(load(self.encoder).state_dict())
        return codec

    def inputs(self) -> dict[str, str]:
        return {str(self.encoder): files.sha256(self.encoder / "model.safetensors")}

    def encoder_folder(self, run: Path) -> Path:
        return self.encoder

    def make_objective(self, clips: Batches) -> Objective:
        codec = self.make_codec(self.codec_config())
        measure(codec, (clips.batch(number) for number in range(-(-self.measured // self.train.micro_batch))))
        return self.objective.build(codec, self.seed, DataSize(clips.n_recordings, len(clips.classes)))

    def make_judge(self, state: TrainState, clips: Batches, folder: Path, say: Say) -> Judge | None:
        if not self.sample_every:
            return None
        return Samples(
            self.make_codec(self.codec_config()),
            state,
            clips,
            folder / "samples",
            every=self.sample_every,
            last=self.train.steps,
            n=self.n_samples,
            say=say,
        )

    def introduction(self, objective: Objective) -> list[str]:
        assert isinstance(objective, CodecObjective)
        codec = objective.codec.config
        frame_rate = codec.sampling_rate / codec.hop
        return [
            f"encoder: {self.encoder}, fixed; {frame_rate:g} frames a second of {codec.width} codes",
            f"vocoder: {codec.vocoder.preset}, {millions(objective.codec.vocoder)}, a hop of {codec.hop} samples",
            f"discriminators: {millions(objective.discriminators)}, from step {self.objective.disc_start_step} on",
        ]

    def export(self, weights: dict[str, Tensor], folder: Path, origin: dict[str, Any], n_recordings: int) -> Path:
        codec = self.make_codec(self.codec_config())
        codec.learnt.load_state_dict(weights)
        return codec.save(folder / self.exports, card=codec_card(self, codec, n_recordings), provenance=origin)
