"""The source head: which recording does this embedding come from? One class per recording, thrown away after training.

Axes: b clips | e embedding | r rank
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from birdjepa.nn.softmax import linear_cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceHeadConfig:
    """Linear classifier over recordings, without bias."""

    smoothing: float = 0.8
    """Label smoothing; DIET needs much of it."""
    rank: int = 64
    """Width of a linear bottleneck before the classes, which bounds the head's size; 0 for none."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.rank < 0:
            raise ValueError(f"need 0 <= smoothing < 1, rank >= 0; got {self.smoothing}, {self.rank}")


class SourceHead(nn.Module):
    def __init__(self, config: SourceHeadConfig, n_in: int, n_recordings: int) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(n_in)
        self.narrow = nn.Linear(n_in, config.rank, bias=False) if config.rank else nn.Identity()
        self.classes = nn.Parameter(torch.empty(n_recordings, config.rank or n_in))

    def initialise(self, generator: torch.Generator) -> "SourceHead":
        """Xavier-uniform bottleneck, classes normal with std 1 / sqrt(width), so that logits begin at unit size."""
        if isinstance(self.narrow, nn.Linear):
            nn.init.xavier_uniform_(self.narrow.weight, generator=generator)
        nn.init.normal_(self.classes, std=self.classes.shape[1] ** -0.5, generator=generator)
        return self

    def forward(self, embedding: Float[Tensor, "b e"], recording: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Smoothed cross-entropy of the recordings' numbers, in nats, without ever holding all logits."""
        with torch.autocast(embedding.device.type, enabled=False):
            x = self.narrow(self.norm(embedding.float()))
            return linear_cross_entropy(x, self.classes, recording, self.config.smoothing)

    @torch.no_grad()
    def excess(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss above the least one that smoothing allows, in nats."""
        n, eps = len(self.classes), self.config.smoothing
        right = torch.tensor(1 - eps + eps / n)
        rest = torch.tensor(eps / n)
        least = -right * right.log() - (n - 1) * (rest * rest.log() if eps else torch.zeros(()))
        return loss.detach() - least.to(loss.device)
