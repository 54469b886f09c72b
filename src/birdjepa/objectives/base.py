"""What every objective is: a module that owns the encoder in training and turns a batch into a loss.

Axes: b clips | e embedding
"""

import abc
import dataclasses
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Chance:
    """The named random streams of one micro-batch: everything that an objective draws comes from here."""

    seed: int
    step: int
    micro: int = 0

    def generator(self, purpose: str, device: torch.device) -> torch.Generator:
        return random.torch_generator(self.seed, purpose, self.step, self.micro, device=device)


class ObjectiveOutput(NamedTuple):
    """Loss of a micro-batch (a mean over its clips), the terms to log, and the embeddings to watch."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    embedding: Float[Tensor, "b e"]
    """One detached embedding per clip, pooled as the encoder's configuration says."""


class Objective(nn.Module, abc.ABC):
    """Subclasses are final. `encoder` is what gets exported; every other submodule is thrown away after training."""

    encoder: Encoder

    @abc.abstractmethod
    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        """Loss of one micro-batch."""
