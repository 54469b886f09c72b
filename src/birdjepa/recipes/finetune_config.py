"""The configuration of a fine-tuning run, and the recipe that makes it for an encoder."""

import dataclasses
from pathlib import Path
from typing import Literal

from birdjepa.audio.clips import ClipConfig
from birdjepa.core import processes
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import LoaderConfig
from birdjepa.data.manifest import ColumnConfig
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.loading import read_config, require_spectrogram_config
from birdjepa.nn.regularised import RegularisedMaskingConfig
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.schedules import ScheduleConfig
from birdjepa.train.config import MonitorConfig, OnlineProbeConfig, TrainConfig

LINEAR_HEADS = ("pooled", "mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A whole fine-tuning run. A saved config.json holds exactly this."""

    encoder: Path = Path("runs/first/encoder")
    """Encoder folder to start from: its front end, patches, transformer, pooling and weights."""
    data: str = ""
    """DATA with labels."""
    out: Path = Path("runs/finetuned")
    """Run folder; must not exist yet, or be empty."""
    seed: int = 0
    """Everything that is drawn in the run follows from it."""
    columns: ColumnConfig = ColumnConfig()
    folds: str = ""
    """Column with the names of folds, or with train / val / test; rows where it is blank are left out. Without it, or
    where the column has no test, nothing is held out for one."""
    test: str = ""
    """The fold that is held out for the test. Where a column of folds is named and no test, each fold is held out in
    turn, in a run of its own."""
    validation: float = 0.15
    """Share of the training groups that is held out to tell when to stop, where the column has no val; 0 learns from
    all of them, to the last step."""
    blocks: int = -1
    """Blocks of the encoder that learn, counted from the last, with the norm behind them; -1: all of it; 0: none, only
    the head learns."""
    start: Literal["auto", "probe", "random"] = "auto"
    """probe: the head begins as the logistic regression on the frozen encoder's embeddings of the training part
    (LP-FT, Kumar et al. 2022), for linear heads of single-label classifiers; random: as drawn; auto: probe for these,
    random for others."""
    loader: LoaderConfig = LoaderConfig(draw="recording", examples="segments", workers=1)
    objective: SupervisedConfig = SupervisedConfig(
        augment=AugmentConfig(gain_db=3.0, mix_probability=0.0, mask_mels=0, mask_share=0.0),
        masking=RegularisedMaskingConfig(share=0.1),
    )
    """Head, loss, mixup, augmentation and regularised masking."""
    optim: AdamWConfig = AdamWConfig(lr=1e-3, weight_decay=0.05, beta2=0.999, layer_decay=0.75)
    probe_rate: float = 0.1
    """Factor on the head's rate where it begins as a probe: it knows the classes, and large steps would undo that."""
    schedule: ScheduleConfig = ScheduleConfig(shape="cosine", warmup=0.1)
    evaluate_every: int = 20
    """Steps between two looks at the validation part."""
    patience: int = 10
    """Looks in a row without a better score after which the run ends; 0 goes on to the last step. The best model is
    kept in either case."""
    train: TrainConfig = TrainConfig(
        steps=200,
        batch_size=32,
        checkpoint_every=50,
        probe=OnlineProbeConfig(enabled=False),
        monitor=MonitorConfig(least_rank=0.0),  # c classes pull embeddings together to c - 1 directions, as they should
    )

    def __post_init__(self) -> None:
        if self.blocks < -1 or self.evaluate_every < 1 or self.patience < 0:
            raise ValueError(
                "need blocks >= -1, evaluate_every >= 1 step, patience >= 0; got "
                f"{self.blocks}, {self.evaluate_every}, {self.patience}"
            )
        if self.probe_rate <= 0:
            raise ValueError(f"probe_rate must be positive, got {self.probe_rate}")
        if not 0 <= self.validation <= 0.5:
            raise ValueError(f"validation must be in [0, 0.5], got {self.validation}")

    def check(self) -> None:
        """What must hold between the parts.

        Raises:
          UsageError: naming the fields that do not fit.
        """
        if not self.data:
            raise UsageError("--data is missing: give a manifest with a label column, or synth")
        if self.test and not self.folds:
            raise UsageError(f"--test {self.test} needs --folds COLUMN, the column that it is a value of")
        if self.train.engine != "single" or processes.asked().world > 1:
            raise UsageError("fine-tuning is one process: leave train.engine=single, and start it without torchrun")
        if self.train.ema_decay:
            raise UsageError("train.ema_decay averages the encoder and not its head: leave it 0 for fine-tuning")
        if self.start == "probe" and self.objective.head.form not in LINEAR_HEADS:
            raise UsageError(
                f"start=probe needs a linear head, got objective.head.form={self.objective.head.form}: set --start auto"
            )
        if self.start == "probe" and self.objective.is_multi_label:
            raise UsageError(f"start=probe is for single labels, got loss={self.objective.loss}: set --start auto")
        self.schedule.check(self.train.steps)
        encoder = require_spectrogram_config(read_config(self.encoder), "fine-tuning")
        if self.blocks > (depth := encoder.vit.dimensions[1]):
            raise UsageError(f"--blocks {self.blocks}: the encoder has {depth}; -1 lets all of it learn")
        if self.loader.clip_s < encoder.least_s:
            raise UsageError(
                f"loader.clip_s={self.loader.clip_s:g} s is too short: one patch needs {encoder.least_s:.3f} s"
            )
        try:
            self.heard(encoder)
        except ValueError as error:
            raise UsageError(f"loader.clip_s: {error}") from None

    @property
    def starts_as_probe(self) -> bool:
        """Whether the head begins as a fitted probe."""
        linear = self.objective.head.form in LINEAR_HEADS and not self.objective.is_multi_label
        return linear and self.start != "random"

    @property
    def learning(self) -> AdamWConfig:
        """The optimiser, with the head's rate as its start asks for."""
        rate = self.optim.head_rate * (self.probe_rate if self.starts_as_probe else 1.0)
        return dataclasses.replace(self.optim, head_rate=rate)

    def heard(self, encoder: EncoderConfig) -> EncoderConfig:
        """The configuration of the encoder that is exported: recordings are cut into clips as long as those that it
        learnt from.
        """
        clip_s = self.loader.clip_s
        if clip_s == encoder.clips.clip_s:
            return encoder
        return dataclasses.replace(encoder, clips=ClipConfig(clip_s=clip_s, hop_s=min(clip_s, encoder.clips.hop_s)))


def for_encoder(encoder: Path) -> FinetuneConfig:
    """The recipe for an encoder: clips as long as the ones that it was made for.

    Raises:
      UsageError: if there is no encoder in the folder.
    """
    default = FinetuneConfig(encoder=encoder)
    clip_s = read_config(encoder).clips.clip_s
    return dataclasses.replace(default, loader=dataclasses.replace(default.loader, clip_s=clip_s))
