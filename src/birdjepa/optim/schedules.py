"""Learning-rate schedules as pure functions of the step: nothing to save, and a decay can be forked from a checkpoint.

A run has phases: it warms up over [0, warmup), holds, and decays over [decay, end). Where two boundaries fall together
the phase between them is empty. A forked run goes through its parent's phases up to the fork, and decays from there.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForkConfig:
    """Where a run left the one that it was forked from. Up to there it is its parent; its last train.steps - step
    updates are the decay.
    """

    step: int
    """Updates that the parent had done."""
    planned: int
    """The parent's train.steps: what shares of the run, the weight decay, masks on a curriculum and a teacher's
    momentum still count by; past it they stay as they were at its end."""

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.planned:
            raise ValueError(f"need 1 <= step <= planned, got {self.step}, {self.planned}")


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
    """1 - sqrt(progress), or 1 - progress; of wsd and of every fork."""
    start: float = 0.0
    """Factor that the warm-up rises from."""
    final: float = 0.0
    """Factor that wsd, cosine and every fork fall to, reached just after the last step."""
    final_weight_decay: float = 1.0
    """Factor on the weight decay just after the last step, reached along half a cosine; 1 keeps it."""
    fork: ForkConfig | None = None
    """Written by `birdjepa pretrain --fork`: the run leaves another one's schedule for a decay of its own."""

    def __post_init__(self) -> None:
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise ValueError(f"need warmup + decay <= 1, both >= 0, got {self.warmup} + {self.decay}")
        if not (0 <= self.start <= 1 and 0 <= self.final <= 1):
            raise ValueError(f"start and final must be in [0, 1], got {self.start}, {self.final}")
        if self.final_weight_decay < 0:
            raise ValueError(f"final_weight_decay must be >= 0, got {self.final_weight_decay}")

    def planned(self, n_steps: int) -> int:
        """Updates that the shares of a run of n_steps count by: a forked run goes on by its parent's."""
        return self.fork.planned if self.fork else n_steps

    def check(self, n_steps: int) -> None:
        """What must hold between the schedule and the length of its run.

        Raises:
          UsageError: if a fork leaves no step for its decay, or nothing to decay from.
        """
        if self.fork is None:
            return
        step, parent = self.fork.step, phases(self.fork.planned, self)
        if n_steps <= step:
            raise UsageError(f"train.steps={n_steps} must be more than schedule.fork.step={step}, to decay after it")
        if step < parent.warmup:
            raise UsageError(f"a run cannot be forked at step {step}, for it warms up until step {parent.warmup}")
        if _unforked(step, parent, self) <= self.final:
            raise UsageError(
                f"a run cannot be forked at step {step}, for its learning rate has fallen to schedule.final already; "
                f"fork it where it is higher, best before its own decay, which began at {parent.decay}"
            )


class Phases(NamedTuple):
    """Boundaries of a run in steps: 0 <= warmup <= decay <= end."""

    warmup: int
    """First step after the warm-up."""
    decay: int
    """First step of the decay; `end` where there is none."""
    end: int


def phases(n_steps: int, config: ScheduleConfig) -> Phases:
    """Boundaries of a run of n_steps that is not forked. Shares are rounded to whole steps; a decay that rounding would
    let begin within the warm-up begins where that ends.
    """
    warmup = round(config.warmup * n_steps)
    if config.shape == "constant":
        return Phases(warmup, n_steps, n_steps)
    if config.shape == "cosine":
        return Phases(warmup, warmup, n_steps)
    return Phases(warmup, max(warmup, n_steps - round(config.decay * n_steps)), n_steps)


def factor(step: int, n_steps: int, config: ScheduleConfig) -> float:
    """Factor for the update that is number `step` (0-based) of n_steps."""
    fork = config.fork
    if fork is None:
        return _unforked(step, phases(n_steps, config), config)
    parent = phases(fork.planned, config)
    if step < fork.step:
        return _unforked(step, parent, config)
    top = _unforked(fork.step, parent, config)
    return _decayed(top, (step - fork.step) / (n_steps - fork.step), config)


def weight_decay_factor(step: int, n_steps: int, config: ScheduleConfig) -> float:
    """Factor on the weight decay for the update that is number `step` (0-based) of n_steps."""
    progress = min(1.0, step / config.planned(n_steps))
    return 1.0 + (config.final_weight_decay - 1.0) * (1 - math.cos(math.pi * progress)) / 2


def _unforked(step: int, run: Phases, config: ScheduleConfig) -> float:
    if step < run.warmup:
        return config.start + (1 - config.start) * (step + 1) / (run.warmup + 1)
    if step < run.decay or run.decay == run.end:
        return 1.0
    progress = (step - run.decay) / (run.end - run.decay)
    if config.shape == "cosine":
        return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2
    return _decayed(1.0, progress, config)


def _decayed(top: float, progress: float, config: ScheduleConfig) -> float:
    """From top, exactly, at progress 0 to final at 1."""
    if progress <= 0:
        return top
    fallen = math.sqrt(progress) if config.decay_shape == "sqrt" else progress
    return config.final + (top - config.final) * (1 - fallen)
