"""From an encoder's frames to codes: standardised, perhaps projected to fewer numbers, then rounded to fixed levels.

An encoder that was trained without thinking of codes has dimensions that hardly move, or lie off centre: rounded as
they are, they would use one level. So each dimension is brought to mean 0 and variance 1 by statistics that are
measured once over the training data and then never change; the levels of FSQ are made for that.

Axes: b clips | t frames | d code dimensions | q quantised dimensions
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.nn.fsq import FsqConfig, Quantised


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantiserConfig:
    """Levels, and how many numbers of a frame are rounded to them."""

    fsq: FsqConfig = FsqConfig()
    dims: int = 0
    """Numbers of a frame that are quantised, made by a learnt linear layer; 0 takes the encoder's as they are."""

    def __post_init__(self) -> None:
        if self.dims < 0:
            raise ValueError(f"dims must be >= 0, got {self.dims}")

    def width(self, n_in: int) -> int:
        """Quantised numbers of a frame that has n_in."""
        return self.dims or n_in

    def build(self, n_in: int) -> "Quantiser":
        return Quantiser(self, n_in)


class Quantiser(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, config: QuantiserConfig, n_in: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("std", torch.ones(n_in))
        self.project = nn.ModuleList([nn.Linear(n_in, config.dims)] if config.dims else [])
        self.fsq = config.fsq.build(config.width(n_in))

    def initialise(self, generator: torch.Generator) -> "Quantiser":
        """Orthogonal projection; statistics of 0 and 1 until they are measured."""
        for project in self.project:
            assert isinstance(project, nn.Linear)
            nn.init.orthogonal_(project.weight, generator=generator)
            nn.init.zeros_(project.bias)
        return self

    def measure(self, frames: Float[Tensor, "n d"]) -> None:
        """Takes mean and standard deviation of each dimension from many frames."""
        self.mean.copy_(frames.double().mean(0))
        self.std.copy_(frames.double().std(0).clamp_min(1e-6))

    def forward(self, frames: Float[Tensor, "b t d"]) -> Quantised:
        """In float32 under autocast too, so that the same frames always give the same codes."""
        with torch.autocast(frames.device.type, enabled=False):
            z = (frames.float() - self.mean) / self.std
            for project in self.project:
                z = project(z)
            return self.fsq.quantise(z)
