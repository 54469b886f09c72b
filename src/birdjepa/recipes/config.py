"""The configuration of a pretraining run: every part's own configuration, side by side."""

import dataclasses
from pathlib import Path

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import LoaderConfig
from birdjepa.data.manifest import ColumnConfig
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.pool import Pooling
from birdjepa.models.vit import VitConfig
from birdjepa.objectives import AnyObjective
from birdjepa.objectives.added import AddedConfig
from birdjepa.objectives.augment import GROUP
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.optim import AnyOptimiser
from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.schedules import ScheduleConfig
from birdjepa.train.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A whole pretraining run. A saved config.json holds exactly this."""

    data: tuple[str, ...] = ()
    """DATA to learn from: folders, manifests, shards, hub:OWNER/NAME, or synth; "DATA@2" counts twice as much in the
    mixture."""
    out: Path = Path("runs/first")
    """Run folder; must not exist yet, or be empty."""
    seed: int = 0
    """Everything that is drawn in the run follows from it."""
    splits: tuple[str, ...] = ()
    """Rows of a manifest to learn from, by their split column; none given takes all."""
    exclude: tuple[str, ...] = ()
    """DATA whose recordings are left out wherever else they are named: what a probe will test."""
    columns: ColumnConfig = ColumnConfig()
    loader: LoaderConfig = LoaderConfig()
    front_end: LogMelConfig = LogMelConfig()
    patch: PatchConfig = PatchConfig()
    encoder: VitConfig = VitConfig()
    """The transformer."""
    pooling: Pooling = "mean+std"
    """How tokens become the embedding that the objective compares and that users get."""
    clips: ClipConfig = ClipConfig()
    objective: AnyObjective = LejepaConfig()
    """What the encoder learns by; which one is chosen by the recipe, or by `kind` in a file."""
    added: AddedConfig = AddedConfig()
    """Terms added to the objective's loss."""
    optim: AnyOptimiser = AdamWConfig()
    """How weights are updated: adamw or muon, chosen by `--optim NAME`, or by `kind` in a file."""
    mup_base_width: int = 0
    """Width of the encoder that the learning rate was found at: muP scales initial values and rates to the width in
    hand, so that it stays the best. 0 is the standard parameterisation."""
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    report: bool = True
    """Write report.html at the end; `birdjepa report` writes it at any time."""

    def check(self) -> None:
        """What must hold between the parts.

        Raises:
          UsageError: naming the fields that do not fit.
        """
        if not self.data:
            raise UsageError("--data is missing: give a folder, a manifest, hub:OWNER/NAME, or synth")
        least = self.objective.least_clip_s(self.patch.frames / self.front_end.frame_rate)
        window_s = self.front_end.window / self.front_end.sampling_rate
        if self.loader.clip_s < least + window_s:
            raise UsageError(
                f"loader.clip_s={self.loader.clip_s:g} s is too short: {self.objective.name} needs {least:g} s and a "
                f"window; set --loader.clip-s {least + 1:g}"
            )
        if self.train.micro_batch < 2:
            raise UsageError("train.batch-size / train.accumulate must be at least 2: the objective compares clips")
        self.schedule.check(self.train.steps)
        try:
            self.added.check()
        except ValueError as error:
            raise UsageError(f"added: {error}") from None
        self.encoder_config()
        if self.front_end.clip_samples or self.encoder.n_positions or self.encoder.fc_norm:
            raise UsageError(
                "front_end.clip_samples, encoder.n_positions and encoder.fc_norm are for converted encoders, which are "
                "fine-tuned: leave them as they are for pretraining, which begins with weights of its own"
            )
        if self.mup_base_width:
            self.at_base_width()

    def at_base_width(self) -> "PretrainConfig":
        """The same run with the encoder of muP's base width: as deep, with heads as wide, and therefore fewer of them.

        Raises:
          UsageError: if no such encoder exists.
        """
        width, depth, heads = self.encoder.dimensions
        base, rest = divmod(self.mup_base_width, width // heads)
        if base < 1 or rest:
            raise UsageError(
                f"mup_base_width={self.mup_base_width} must be a positive multiple of {width // heads}, the width of "
                f"one head of the encoder ({width}x{depth}x{heads}): heads keep their width, and their number grows"
            )
        size = f"{self.mup_base_width}x{depth}x{base}"
        return dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, size=size))

    def require_shares(self, world: int) -> None:
        """What must hold where several processes share each batch.

        Raises:
          UsageError: naming the fields that do not fit.
        """
        train = self.train
        if world == 1:
            return
        if train.batch_size % (train.accumulate * world):
            raise UsageError(
                f"train.batch-size={train.batch_size} must be a multiple of train.accumulate={train.accumulate} times "
                f"the {world} processes"
            )
        n_own = train.micro_batch // world
        if self.objective.mixes and n_own % GROUP:
            raise UsageError(
                f"objective {self.objective.name} mixes clips in groups of {GROUP}, and each of the {world} processes "
                f"has {n_own} of a micro-batch: set train.batch-size to a multiple of "
                f"{GROUP * world * train.accumulate}, or do not mix (mix-probability, mixup)"
            )

    def encoder_config(self) -> EncoderConfig:
        """The exported encoder's own configuration."""
        try:
            return EncoderConfig(
                front_end=self.front_end, patch=self.patch, vit=self.encoder, clips=self.clips, pooling=self.pooling
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
