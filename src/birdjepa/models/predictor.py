"""The predictor: from the embeddings of some patches to what lies at others. Thrown away after training.

One class for the predictor of a JEPA (embeddings out) and the decoder of a masked autoencoder (pixels out). It reads
context embeddings and where they lie, puts one mask token at each target position, runs a narrower transformer over
both, and reads the answer at the targets. CLS tokens of the encoder may come along; they stand nowhere.

Axes: b clips | s CLS tokens | n context patches | k target patches | d encoder width | o output width
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.models.vit import VitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Shape of the predictor; what is not said here (positions, QK-norm, MLP) is the encoder's."""

    width: int = 128
    depth: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        self.vit(VitConfig())

    def vit(self, encoder: VitConfig) -> VitConfig:
        """The transformer inside, like the encoder's but for its dimensions, and without tokens of its own."""
        size = f"{self.width}x{self.depth}x{self.heads}"
        return dataclasses.replace(encoder, size=size, n_cls=0, n_registers=0, drop_path=0.0)

    def build(self, encoder: VitConfig, n_out: int) -> "Predictor":
        return Predictor(self, encoder, n_out)


class Predictor(nn.Module):
    def __init__(self, config: PredictorConfig, encoder: VitConfig, n_out: int) -> None:
        super().__init__()
        self.vit = config.vit(encoder).build(encoder.width)
        self.mask = nn.Parameter(torch.empty(config.width))
        self.head = nn.Linear(config.width, n_out)

    def initialise(self, generator: torch.Generator) -> "Predictor":
        """As a ViT; the mask token is truncated normal 0.02, all from the generator."""
        self.vit.initialise(generator)
        nn.init.trunc_normal_(self.mask, std=0.02, a=-0.04, b=0.04, generator=generator)
        nn.init.xavier_uniform_(self.head.weight, generator=generator)
        nn.init.zeros_(self.head.bias)
        return self

    def forward(
        self,
        cls: Float[Tensor, "b s d"],
        context: Float[Tensor, "b n d"],
        context_grid: Float[Tensor, "b n 2"],
        target_grid: Float[Tensor, "b k 2"],
    ) -> Float[Tensor, "b k o"]:
        """What lies at the target positions."""
        seen = self.vit.embed(torch.cat((cls, context), 1))
        n_still = cls.shape[1]
        known = seen[:, n_still:] + self.vit.place(context_grid).to(seen.dtype)
        asked = self.mask.to(seen.dtype) + self.vit.place(target_grid).to(seen.dtype)
        x = torch.cat((seen[:, :n_still], known, asked), 1)
        y = self.vit.run(x, torch.cat((context_grid, target_grid), 1), n_still)
        return self.head(y[:, -target_grid.shape[1] :])
