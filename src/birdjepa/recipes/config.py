"""The configuration of a run that learns from recordings: every part's own configuration, side by side.

`RunConfig` is what all such runs have, and what the jobs (pretrain, compare, sweep, profile, fork, report) know of
them. How the parts are put together is said by each kind of run: on log-mel patches here, on waveforms in
waveform_config.py, with a codec behind a frozen encoder in codec_config.py.
"""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor, nn

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import processes
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import Batches, Clips, LoaderConfig, labels_of
from birdjepa.data.manifest import ColumnConfig, Manifest
from birdjepa.data.sources import split_weight
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.pool import Pooling
from birdjepa.models.vit import VitConfig
from birdjepa.objectives import AnyObjective
from birdjepa.objectives.added import AddedConfig
from birdjepa.objectives.augment import GROUP
from birdjepa.objectives.base import DataSize, Objective, ObjectiveConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.optim import OPTIMISERS, AnyOptimiser, mup
from birdjepa.optim.groups import AdamWConfig, OptimiserConfig
from birdjepa.optim.mup import WidthRates
from birdjepa.optim.schedules import ScheduleConfig
from birdjepa.recipes.card import model_card
from birdjepa.recipes.run_folder import Say
from birdjepa.train.config import TrainConfig
from birdjepa.train.loop import Judge
from birdjepa.train.state import TrainState


class Order(TypedDict):
    """What decides which recordings a process hears, and at what rate."""

    sampling_rate: int
    seed: int
    rank: int
    world: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(abc.ABC):
    """A whole run. A saved config.json holds exactly this. Subclasses are final."""

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
    encoder: Any
    """What hears; subclasses say what it is, as of the next two."""
    objective: ObjectiveConfig
    optim: OptimiserConfig
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    report: bool = True
    """Write report.html at the end; `birdjepa report` writes it at any time."""

    exports = "encoder"
    """Folder inside the run's for what users get."""

    @property
    @abc.abstractmethod
    def sampling_rate(self) -> int:
        """Hz of the clips that are learnt from."""

    @property
    def optimisers(self) -> Mapping[str, type[OptimiserConfig]]:
        """What `birdjepa pretrain --optim NAME` takes."""
        return {"adamw": AdamWConfig}

    def check(self) -> None:
        """What must hold between the parts.

        Raises:
          UsageError: naming the fields that do not fit.
        """
        if not self.data:
            raise UsageError("--data is missing: give a folder, a manifest, hub:OWNER/NAME, or synth")
        self.schedule.check(self.train.steps)

    def require_shares(self, world: int) -> None:
        """What must hold where several processes share each batch.

        Raises:
          UsageError: naming the fields that do not fit.
        """
        train = self.train
        if train.batch_size % (train.accumulate * world):
            raise UsageError(
                f"train.batch-size={train.batch_size} must be a multiple of train.accumulate={train.accumulate} times "
                f"the {world} processes"
            )

    def encoder_folder(self, run: Path) -> Path:
        """Where the encoder lies once the run is done, for its report."""
        return run / self.exports

    def inputs(self) -> dict[str, str]:
        """What a run reads besides its data: path -> hash. It goes on with the same only."""
        return {}

    def make_judge(self, state: TrainState, clips: Batches, folder: Path, say: Say) -> Judge | None:
        """Who looks at the run on its way; nobody, unless a kind of run has one."""
        return None

    def open_clips(self, sources: list[Manifest]) -> Batches:
        """The run's batches of this process."""
        return Clips(sources, self.weights, self.loader, batch_size=self.train.micro_batch, **self.order)

    @property
    def weights(self) -> list[float]:
        """How often each DATA is heard, relative to each other."""
        return [split_weight(data)[1] for data in self.data]

    @property
    def order(self) -> Order:
        """What decides which recordings this process hears, besides how they are batched."""
        own = processes.here()
        return {"sampling_rate": self.sampling_rate, "seed": self.seed, "rank": own.rank, "world": own.world}

    @abc.abstractmethod
    def make_objective(self, clips: Batches) -> Objective:
        """The run's objective at step 0.

        Raises:
          UsageError: if the data does not suit it.
        """

    def width_rates(self, objective: Objective, clips: Batches) -> WidthRates | None:
        """muP's factors on the rates of the run's objective; None in the standard parameterisation."""
        return None

    @abc.abstractmethod
    def introduction(self, objective: Objective) -> list[str]:
        """What is trained, in a few lines."""

    @abc.abstractmethod
    def export(self, weights: dict[str, Tensor], folder: Path, origin: dict[str, Any], n_recordings: int) -> Path:
        """Writes what users get of the run, given its weights, into a folder inside the run's; returns that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig):
    """A pretraining run on log-mel patches."""

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

    @property
    def sampling_rate(self) -> int:
        return self.front_end.sampling_rate

    @property
    def optimisers(self) -> Mapping[str, type[OptimiserConfig]]:
        return OPTIMISERS

    def check(self) -> None:
        super().check()
        least = self.objective.least_clip_s(self.patch.frames / self.front_end.frame_rate)
        window_s = self.front_end.window / self.front_end.sampling_rate
        if self.loader.clip_s < least + window_s:
            raise UsageError(
                f"loader.clip_s={self.loader.clip_s:g} s is too short: {self.objective.name} needs {least:g} s and a "
                f"window; set --loader.clip-s {least + 1:g}"
            )
        if self.train.micro_batch < 2:
            raise UsageError("train.batch-size / train.accumulate must be at least 2: the objective compares clips")
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
        super().require_shares(world)
        train = self.train
        n_own = train.micro_batch // world
        if world > 1 and self.objective.mixes and n_own % GROUP:
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

    def make_objective(self, clips: Batches) -> Objective:
        """The run's objective around a freshly initialised encoder, with what is added to it.

        Raises:
          UsageError: if it learns single labels and a row has several, or there is only one class.
        """
        if isinstance(self.objective, SupervisedConfig):
            require_classes(clips, is_multi_label=self.objective.is_multi_label)
        made = self._around(clips)
        if self.mup_base_width:
            mup.rescale(made, self.at_base_width()._around(clips))
        return made

    def width_rates(self, objective: Objective, clips: Batches) -> WidthRates | None:
        return mup.width_rates(objective, self.at_base_width()._around(clips)) if self.mup_base_width else None

    def introduction(self, objective: Objective) -> list[str]:
        encoder = objective.encoder
        patch_ms = 1000 * self.patch.frames / self.front_end.frame_rate
        lines = [
            f"encoder: {self.encoder.size}, {millions(encoder)}, "
            f"{encoder.config.n_patches} tokens per {self.clips.clip_s:g} s, {patch_ms:g} ms each",
            f"objective: {self.objective.name}, {millions(objective)} in all that trains",
        ]
        if self.mup_base_width:
            lines.append(f"muP: the encoder is {self.encoder.width / self.mup_base_width:g} times as wide as its base")
        return lines

    def export(self, weights: dict[str, Tensor], folder: Path, origin: dict[str, Any], n_recordings: int) -> Path:
        encoder = self.encoder_config().build()
        encoder.load_state_dict(weights)
        return encoder.save(folder / "encoder", card=model_card(self, encoder, n_recordings), provenance=origin)

    def _around(self, clips: Batches) -> Objective:
        """The objective as the standard parameterisation begins it."""
        size = DataSize(clips.n_recordings, len(clips.classes))
        encoder = self.encoder_config().build().initialise(self.seed)
        return self.added.around(self.objective.build(encoder, self.seed, size), self.seed, size)


def require_classes(clips: Batches, *, is_multi_label: bool) -> None:
    """Refuses data that a classifier cannot learn from.

    Raises:
      UsageError: naming the recording or what is missing.
    """
    if len(clips.classes) < 2:
        raise UsageError(f"the data has {len(clips.classes)} class(es); a classifier needs at least 2")
    for source in () if is_multi_label else clips.sources:
        require_single_labels(source)


def require_single_labels(source: Manifest) -> None:
    """Refuses rows of several labels.

    Raises:
      UsageError: naming the first one.
    """
    for key, labels in zip(source.keys, labels_of(source), strict=True):
        if len(labels) > 1:
            raise UsageError(f"{key} has {len(labels)} labels: set --objective.loss binary")


def millions(module: nn.Module) -> str:
    """How many numbers of a module are trained."""
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return f"{trained / 1e6:.2f} M parameters"
