"""Learning-rate schedules as pure functions of the step: nothing to save, and a decay can be forked from any stable
checkpoint.
"""

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Factor on the learning rate over a run; lengths are shares of the run's steps."""

    shape: Literal["wsd", "cosine", "constant"] = "wsd"
    """wsd: warm up, hold, decay over the last part; cosine: warm up, then half a cosine; constant: warm up, then hold.
    """
    warmup: float = 0.05
    """Share of the run that the linear warm-up takes."""
    decay: float = 0.3
    """Share of the run that the decay of wsd takes."""
    decay_shape: Literal["sqrt", "linear"] = "sqrt"
    """1 - sqrt(progress), or 1 - progress."""
    start: float = 0.0
    """Factor that the warm-up rises from."""
    final: float = 0.0
    """Factor that wsd and cosine fall to, reached just after the last step."""
    final_weight_decay: float = 1.0
    """Factor on the weight decay just after the last step, reached along half a cosine; 1 keeps it."""

    def __post_init__(self) -> None:
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise ValueError(f"need warmup + decay <= 1, both >= 0, got {self.warmup} + {self.decay}")
        if not (0 <= self.start <= 1 and 0 <= self.final <= 1):
            raise ValueError(f"start and final must be in [0, 1], got {self.start}, {self.final}")
        if self.final_weight_decay < 0:
            raise ValueError(f"final_weight_decay must be >= 0, got {self.final_weight_decay}")


def factor(step: int, n_steps: int, config: ScheduleConfig) -> float:
    """Factor for the update that is number `step` (0-based) of n_steps."""
    warmup = round(config.warmup * n_steps)
    if step < warmup:
        return config.start + (1 - config.start) * (step + 1) / (warmup + 1)
    if config.shape == "constant":
        return 1.0
    if config.shape == "cosine":
        progress = (step - warmup) / max(1, n_steps - warmup)
        return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2
    decay = round(config.decay * n_steps)
    progress = (step - (n_steps - decay)) / decay if decay else 0.0
    if progress <= 0:
        return 1.0
    fallen = math.sqrt(progress) if config.decay_shape == "sqrt" else progress
    return config.final + (1 - config.final) * (1 - fallen)


def weight_decay_factor(step: int, n_steps: int, config: ScheduleConfig) -> float:
    """Factor on the weight decay for the update that is number `step` (0-based) of n_steps."""
    return 1.0 + (config.final_weight_decay - 1.0) * (1 - math.cos(math.pi * step / n_steps)) / 2
