"""The projector: embeddings to the space where a loss compares them. Thrown away after pretraining.

Axes: b clips and views together | e embedding | k projection
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.nn.synced import BatchNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """An MLP of two hidden layers with BatchNorm and ReLU, then a linear layer."""

    hidden: int = 2048
    width: int = 64
    """Width of the projection."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.width < 1:
            raise ValueError(f"hidden and width must be positive, got {self.hidden}, {self.width}")


class Projector(nn.Module):
    """BatchNorm over all clips and views of the micro-batch, as LeJEPA publishes it: not a LayerNorm. With several
    processes, over those of all.
    """

    def __init__(self, config: ProjectorConfig, n_in: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, config.hidden),
            BatchNorm(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            BatchNorm(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.width),
        )

    def initialise(self, generator: torch.Generator) -> "Projector":
        """Kaiming-normal matrices and zero biases from the generator."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        return self

    def forward(self, embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b k"]:
        return self.layers(embedding)
