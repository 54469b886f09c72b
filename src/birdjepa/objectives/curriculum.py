"""A curriculum of masks: from random blocks to whole stripes of time or frequency, as a pure function of the step.

In each batch a coin decides between the easy and the hard masks; its probability grows over the run.

Source: A-JEPA, arXiv 2311.15830, whose growth is the root-2 competence of Platanios et al. 2019.
"""

import dataclasses
import math
from typing import Literal

import torch

from birdjepa.objectives.masks import BlockMaskConfig, MaskConfig, Masks, StripeMaskConfig, draw_uniform

Pace = Literal["sqrt", "linear", "quadratic", "step", "constant", "inverse"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumConfig(MaskConfig):
    """Easy masks at first, hard ones more and more often."""

    easy: BlockMaskConfig = BlockMaskConfig()
    hard: StripeMaskConfig = StripeMaskConfig()
    pace: Pace = "sqrt"
    """How the share of hard batches grows; step jumps from none to all at half-time, constant keeps one half, inverse
    is sqrt from hard to easy."""
    start: float = 0.01
    """Share of hard batches at the first step (c0); of sqrt, linear, quadratic and inverse."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"start must be in [0, 1), got {self.start}")

    def draw(self, columns: int, rows: int, batch: int, progress: float, generator: torch.Generator) -> Masks:
        hard = draw_uniform((0.0, 1.0), generator) < hard_probability(progress, self.pace, self.start)
        return (self.hard if hard else self.easy).draw(columns, rows, batch, progress, generator)


def hard_probability(progress: float, pace: Pace, start: float) -> float:
    """Probability of hard masks after a share of the run, in [0, 1].

    sqrt: min(1, sqrt(progress * (1 - start^2) + start^2)).
    """
    if pace == "constant":
        return 0.5
    if pace == "step":
        return float(progress >= 0.5)
    if pace == "inverse":
        return 1.0 - hard_probability(progress, "sqrt", start)
    power = {"sqrt": 0.5, "linear": 1.0, "quadratic": 2.0}[pace]
    lowest = start ** (1 / power)
    return min(1.0, math.pow(progress * (1 - lowest) + lowest, power))
