"""Linear and two-layer heads on the pooled embedding.

Axes: b examples | e pooled embedding | c classes
"""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.benchmark.classifiers.reading import Scaling
from birdjepa.benchmark.classifiers.training import GradientClassifier, GridConfig, HeadModule


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearConfig(GradientClassifier):
    """One linear layer. Starts at zero: what it says before it has learnt is nothing."""

    scaling: Scaling = "standardise"
    grid: GridConfig = GridConfig(
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2), decays=(0.01, 0.1, 1.0, 10.0), n_epochs=10, min_steps=200, batch_size=1024
    )

    @property
    def needs_tokens(self) -> bool:
        return False

    def build(self, width: int, n_classes: int) -> HeadModule:
        return _Linear(width, n_classes)

    def activations(self, n_tokens: int, width: int, n_classes: int) -> int:
        return 4 * n_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpConfig(GradientClassifier):
    """A hidden layer with a GELU, then a linear one."""

    hidden: int = 512
    grid: GridConfig = GridConfig(rates=(3e-4, 1e-3, 3e-3), decays=(0.01, 1.0))

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")

    @property
    def needs_tokens(self) -> bool:
        return False

    def build(self, width: int, n_classes: int) -> HeadModule:
        return _TwoLayers(width, self.hidden, n_classes)

    def activations(self, n_tokens: int, width: int, n_classes: int) -> int:
        return 3 * self.hidden + 4 * n_classes


class _Linear(HeadModule):
    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, n_classes)

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, x: Float[Tensor, "b e"], weights: Float[Tensor, "b 1"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        return self.linear(x), x.new_zeros(())

    def stack(
        self, parameters: dict[str, Tensor], x: Float[Tensor, "b e"], weights: Tensor
    ) -> tuple[Float[Tensor, "h b c"], Float[Tensor, " h"]]:
        """One product for all heads: their classes stand side by side, for many narrow products take far longer."""
        weight, bias = parameters["linear.weight"], parameters["linear.bias"]
        logits = x @ rearrange(weight, "h c e -> e (h c)")
        return rearrange(logits, "b (h c) -> h b c", h=len(weight)) + bias[:, None], x.new_zeros(len(weight))


class _TwoLayers(HeadModule):
    def __init__(self, width: int, hidden: int, n_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.linear = nn.Linear(hidden, n_classes)

    def initialise(self, generator: torch.Generator) -> None:
        """Kaiming's normal for the hidden layer; the last one starts at zero."""
        nn.init.kaiming_normal_(self.hidden.weight, generator=generator)
        nn.init.zeros_(self.linear.weight)
        for layer in (self.hidden, self.linear):
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Float[Tensor, "b e"], weights: Float[Tensor, "b 1"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        return self.linear(F.gelu(self.hidden(x))), x.new_zeros(())
