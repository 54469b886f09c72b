"""The configuration of a pretraining run on waveforms."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from birdjepa.audio.clips import ClipConfig
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import Batches
from birdjepa.data.manifest import Manifest
from birdjepa.data.packing import PackConfig, PackedClips
from birdjepa.models.pool import Pooling
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.objectives.base import DataSize, Objective
from birdjepa.objectives.daam import DaamConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.recipes.config import RunConfig, millions
from birdjepa.recipes.waveform_card import waveform_card


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainWaveformConfig(RunConfig):
    """A pretraining run on waveforms. Recordings are heard as long as they are, up to loader.clip_s; a batch has as
    much sound as train.batch_size clips of that length.
    """

    encoder: WaveformConfig = WaveformConfig()
    """The network."""
    pooling: Pooling = "mean+std"
    """How frames become the embedding that is watched and that users get."""
    clips: ClipConfig = ClipConfig()
    pack: PackConfig = PackConfig()
    objective: DaamConfig = DaamConfig()
    optim: AdamWConfig = AdamWConfig()

    @property
    def sampling_rate(self) -> int:
        return self.encoder.shape.sampling_rate

    def check(self) -> None:
        super().check()
        hop_s = 1 / self.encoder.frame_rate
        least = self.objective.least_clip_s(hop_s)
        if self.loader.clip_s < least:
            raise UsageError(
                f"loader.clip_s={self.loader.clip_s:g} s is too short: frames are {hop_s:g} s long, and "
                f"{self.objective.name} needs {least:g} s; raise it"
            )
        if self.train.micro_batch < 2:
            raise UsageError("train.batch-size / train.accumulate must be at least 2: statistics are over clips")
        if self.encoder.legacy_padding:
            raise UsageError("encoder.legacy_padding is for checkpoints of the public system: leave it off to pretrain")
        if self.optim.layer_decay != 1:
            raise UsageError("optim.layer_decay is for fine-tuning a transformer: leave it at 1 for waveforms")
        self.encoder_config()

    def encoder_config(self) -> WaveformEncoderConfig:
        """The exported encoder's own configuration."""
        try:
            return WaveformEncoderConfig(network=self.encoder.spelt_out, clips=self.clips, pooling=self.pooling)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def open_clips(self, sources: list[Manifest]) -> Batches:
        return PackedClips(
            sources, self.weights, self.loader, self.pack, batch_size=self.train.micro_batch, **self.order
        )

    def make_objective(self, clips: Batches) -> Objective:
        encoder = self.encoder_config().build().initialise(self.seed)
        return self.objective.build(encoder, self.seed, DataSize(clips.n_recordings, len(clips.classes)))

    def introduction(self, objective: Objective) -> list[str]:
        encoder, shape = self.encoder, self.encoder.shape
        return [
            f"encoder: {encoder.preset}, {millions(objective.encoder)}, {encoder.frame_rate:g} frames a second of "
            f"{shape.code_dim} numbers at {shape.sampling_rate} Hz",
            f"objective: {self.objective.name}, {millions(objective)} in all that trains; "
            f"{self.objective.masks.share:.0%} of the frames hidden in the {self.objective.mask_at}",
        ]

    def export(self, weights: dict[str, Tensor], folder: Path, origin: dict[str, Any], n_recordings: int) -> Path:
        encoder = self.encoder_config().build()
        encoder.load_state_dict(weights)
        return encoder.save(folder / "encoder", card=waveform_card(self, encoder, n_recordings), provenance=origin)
