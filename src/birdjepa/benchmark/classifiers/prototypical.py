"""Prototypes on tokens: a class adds up how much the most similar token resembles each of its prototypes.

Axes: b examples | t tokens | d width | c classes | j prototypes of a class
Source: AudioProtoPNet (Heinrich et al. 2025) as Bird-MAE's prototypical probe has it (Rauch et al., arXiv 2504.12880).
"""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.benchmark.classifiers.reading import Scaling
from birdjepa.benchmark.classifiers.training import GradientClassifier, GridConfig, HeadModule
from birdjepa.models.heads import PrototypicalHead

CONSTANT = 1e-4
"""Of two channels that are put behind tokens and prototypes: a token of zeros is like nothing instead of NaN."""
DIVISOR = 1.01
"""The cosine is divided by it, so that it never reaches 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrototypicalConfig(GradientClassifier):
    """Bird-MAE's recipe on the tokens as they are cached.

    What differs: the recipe subtracts the CLS token, where features here hold none, so `scaling` takes away what all
    tokens have in common instead; and its patch grid is not upsampled, for which the cache has no use.
    """

    scaling: Scaling = "standardise"
    n_prototypes: int = 20
    """Of each class."""
    last_rate: float = 0.01
    """Learning rate of the last layer as a share of the prototypes': 4e-4 of 0.04."""
    orthogonality: float = 0.01
    """Weight of the mean squared cosine between two prototypes of a class."""
    grid: GridConfig = GridConfig(rates=(0.04,), decays=(1e-4,), batch_size=64)

    def __post_init__(self) -> None:
        if self.n_prototypes < 1 or self.last_rate <= 0 or self.orthogonality < 0:
            raise ValueError(
                "need n_prototypes >= 1, last_rate > 0 and orthogonality >= 0, got "
                f"{self.n_prototypes}, {self.last_rate} and {self.orthogonality}"
            )

    @property
    def needs_tokens(self) -> bool:
        return True

    def build(self, width: int, n_classes: int) -> HeadModule:
        return _Prototypical(self, width, n_classes)

    def activations(self, n_tokens: int, width: int, n_classes: int) -> int:
        return n_tokens * (2 * width + 3 * n_classes * self.n_prototypes)


class _Prototypical(HeadModule):
    """`PrototypicalHead` with the recipe's own guard against zeros, and its divisor."""

    def __init__(self, config: PrototypicalConfig, width: int, n_classes: int) -> None:
        super().__init__()
        self.head = PrototypicalHead(width, n_classes, config.n_prototypes)
        self.rate_factors = {"head.weight": config.last_rate, "head.bias": config.last_rate}
        self._orthogonality = config.orthogonality

    def initialise(self, generator: torch.Generator) -> None:
        self.head.initialise(generator)

    def forward(
        self, x: Float[Tensor, "b t d"], weights: Float[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        prototypes = rearrange(_unit(self.head.prototypes), "c j d -> d (c j)")
        likeness = F.relu(_unit(x) @ prototypes / DIVISOR)
        best = likeness.masked_fill((weights <= 0).unsqueeze(-1), 0.0).amax(1)
        best = rearrange(best, "b (c j) -> b c j", c=self.head.bias.shape[0])
        logits = (best * F.relu(self.head.weight)).sum(-1) + self.head.bias
        return logits, self._orthogonality * self.head.orthogonality()


def _unit(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d2"]:
    """Of length 1 together with its two constant channels."""
    x = F.pad(x, (0, 2), value=CONSTANT)
    return x * x.square().sum(-1, keepdim=True).rsqrt()
