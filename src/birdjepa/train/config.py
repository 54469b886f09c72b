"""Settings of the training loop."""

import dataclasses
from typing import Literal

from birdjepa.checkpoint.store import RetentionConfig
from birdjepa.optim.clipping import ClipBy
from birdjepa.optim.groups import AdamWConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineProbeConfig:
    """A linear classifier on detached embeddings, trained along for watching: it cannot change the encoder."""

    enabled: bool = True
    """Off also where the data has fewer than two labels."""
    weight: float = 1.0
    """Factor on the probe's own loss."""
    optimiser: AdamWConfig = AdamWConfig(lr=1e-3, weight_decay=1e-6, beta2=0.999)
    clip_norm: float = 1.0
    """Largest norm of the probe's own gradient; 0 does not clip."""

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.clip_norm < 0:
            raise ValueError(
                f"need weight > 0 (enabled=False turns it off), clip_norm >= 0; got {self.weight}, {self.clip_norm}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """What is watched besides the loss."""

    every: int = 50
    """Steps between two looks at rank, spread and neighbours."""
    bank: int = 512
    """Newest embeddings that ranks and neighbours are computed from."""
    neighbours: int = 5
    """Neighbours that vote in the kNN accuracy."""
    least_rank: float = 0.02
    """Alarm when the effective rank falls below this share of the best possible one."""
    least_std: float = 1e-3
    """Alarm when the mean standard deviation per dimension falls below this."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.bank < 8 or not 1 <= self.neighbours < self.bank:
            raise ValueError(
                "need every >= 1 step, bank >= 8 embeddings, 1 <= neighbours < bank; got "
                f"{self.every}, {self.bank}, {self.neighbours}"
            )
        if not 0 <= self.least_rank < 1 or self.least_std < 0:
            raise ValueError(f"need 0 <= least_rank < 1, least_std >= 0; got {self.least_rank}, {self.least_std}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinksConfig:
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = False
    wandb_project: str = ""
    """W&B project; empty for none."""
    wandb_run: str = ""
    """Name of the W&B run; empty takes the run folder's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and bookkeeping of a run."""

    steps: int = 1000
    """Optimiser updates."""
    batch_size: int = 128
    """Clips per update, over all micro-batches."""
    accumulate: int = 1
    """Micro-batches per update; batch statistics see one micro-batch."""
    engine: Literal["single", "ddp", "fsdp", "deepspeed"] = "single"
    """Who trains: one process, or all that torchrun started, each with a part of every batch. ddp: each holds all of
    the model; fsdp: each holds a part of it; deepspeed (an extra): as deepspeed_config says. The numbers are the same,
    but for rounding."""
    deepspeed_config: str = ""
    """Path of a ds_config.json; empty is ZeRO-2."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast, or float32; auto takes bf16 where the processor has instructions for it."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    clip_by: ClipBy = "all"
    """all: one norm over all parameters; group: each group of the optimiser by a norm of its own."""
    ema_decay: float = 0.0
    """Averages the weights and exports the average; 0 does not."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step is always saved."""
    retention: RetentionConfig = RetentionConfig()
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    device: str = "auto"
    """auto takes a GPU if there is one; else a torch device such as cpu, cuda:1, mps."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    probe: OnlineProbeConfig = OnlineProbeConfig()
    monitor: MonitorConfig = MonitorConfig()
    sinks: SinksConfig = SinksConfig()

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.accumulate, self.checkpoint_every, self.log_every) < 1:
            raise ValueError("steps, batch_size, accumulate, checkpoint_every and log_every must be at least 1")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}")
        if self.deepspeed_config and self.engine != "deepspeed":
            raise ValueError(
                f"deepspeed_config={self.deepspeed_config!r} needs engine='deepspeed', got {self.engine!r}"
            )
        if self.clip_norm < 0 or not 0 <= self.ema_decay < 1 or self.threads < 0:
            raise ValueError(
                "need clip_norm >= 0, 0 <= ema_decay < 1, threads >= 0; got "
                f"{self.clip_norm}, {self.ema_decay}, {self.threads}"
            )

    @property
    def micro_batch(self) -> int:
        """Clips per forward pass."""
        return self.batch_size // self.accumulate
