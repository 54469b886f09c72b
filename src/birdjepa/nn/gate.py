"""Gaussian adaptive attention: a gate that says how likely each moment is under Gaussians around the clip's own mean.

A learnt projection makes one number of each moment. Over the moments of the clip (or those within reach) it has a mean
and a spread; each component is a Gaussian with an offset and a scale of its own, in units of that spread. What passes
is multiplied by 1 + strength * density. Components begin apart, for equal ones would get equal gradients for ever.
Statistics are over what is there: neither padding nor what is hidden counts. All of it is computed in float32.

Axes: n rows | c channels | k components | b clips
Source: Ioannides et al., "Gaussian Adaptive Attention", arXiv 2401.11143 (product); arXiv 2512.07168 (mixture).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.nn.conformer import draw
from birdjepa.nn.ragged import Stretches

LEAST_VARIANCE = 1e-6
LEAST_SCALE = 1e-3
INITIAL_SCALE = 0.5
INITIAL_STRENGTH = 0.05


class GaussianGate(nn.Module):
    """mixture: log G = logsumexp_k(log p_k) - log K. product: G is the product of the components, divided by its mean
    over the clip, so that it weighs moments against each other as the first version did.
    """

    def __init__(
        self,
        width: int,
        n_components: int,
        *,
        combine: Literal["mixture", "product"],
        offsets: Literal["spread", "score"],
        reach: int,
        rows_per_frame: int,
    ) -> None:
        """reach is in frames of rows_per_frame rows on either side; 0 is the whole clip. offsets: what they are units
        of.

        Raises:
          ValueError: if a product is to have a reach: its mean is over the clip.
        """
        super().__init__()
        if reach and combine == "product":
            raise ValueError(f"combine='product' weighs all moments of a clip: it needs reach=0, got {reach}")
        self.combine, self.offsets, self.reach, self.rows_per_frame = combine, offsets, reach, rows_per_frame
        self.score = nn.Linear(width, 1)
        self.offset = nn.Parameter(torch.empty(n_components))
        self.scale = nn.Parameter(torch.empty(n_components))
        self.strength = nn.Parameter(torch.empty(1))  # DeepSpeed cannot send parameters without an axis

    def initialise(self, generator: torch.Generator) -> None:
        """Offsets at the quantiles of a standard normal, equal scales."""
        draw(self.score.weight, self.score.in_features, generator)
        nn.init.zeros_(self.score.bias)
        k = len(self.offset)
        with torch.no_grad():
            self.offset.copy_(torch.special.ndtri((torch.arange(k) + 0.5) / k))
            self.scale.fill_(math.log(math.expm1(INITIAL_SCALE - LEAST_SCALE)))
            self.strength.fill_(INITIAL_STRENGTH)

    def forward(self, x: Float[Tensor, "n c"], stretches: Stretches) -> Float[Tensor, "n c"]:
        with torch.autocast(x.device.type, enabled=False):
            score = F.linear(x.float(), self.score.weight.float(), self.score.bias.float())
            gain = 1 + self.strength.float() * self.density(score, stretches)
        return x * gain.to(x.dtype)

    def density(self, score: Float[Tensor, "n 1"], stretches: Stretches) -> Float[Tensor, "n 1"]:
        """G of each moment, given its number."""
        mean, variance = self._statistics(score, stretches)
        scale = F.softplus(self.scale.float()) + LEAST_SCALE
        spread = variance.clamp_min(LEAST_VARIANCE).sqrt()
        offset = self.offset.float() * (spread if self.offsets == "spread" else 1.0)
        z = (score - mean - offset) / (spread * scale + 1e-8)
        log_density = -0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        if self.combine == "mixture":
            return (log_density.logsumexp(1, keepdim=True) - math.log(len(scale))).exp()
        logits = log_density.sum(1, keepdim=True)
        with torch.no_grad():
            top = torch.segment_reduce(logits, "max", lengths=stretches.rows_of_clip, axis=0, unsafe=True)
        weights = (logits - stretches.spread(top)).exp()
        mean_weight = stretches.sum(weights) / stretches.rows_of_clip[:, None]
        return weights / stretches.spread(mean_weight)

    def _statistics(self, score: Tensor, stretches: Stretches) -> tuple[Tensor, Tensor]:
        """Mean and population variance around each row."""
        if not self.reach:
            count = stretches.rows_of_clip[:, None]
            mean = stretches.spread(stretches.sum(score) / count)
            return mean, stretches.spread(stretches.sum((score - mean).square()) / count)
        frames, rows = stretches.grouped(self.rows_per_frame), self.rows_per_frame
        index = frames.around(2 * self.reach + 1, 1)
        by_frame = score.view(-1, rows)
        first = by_frame.mean(1)

        def near(values: Float[Tensor, " f"]) -> Float[Tensor, " f"]:
            return F.pad(values, (0, 1))[index].sum(1)

        count = near(torch.ones_like(first))
        mean = near(first) / count
        # Around a frame's own mean, not 0: the square of a large mean would swallow a small spread.
        inside = (by_frame - first[:, None]).square().mean(1)
        between = F.pad(first, (0, 1))[index] - mean[:, None]
        between = (between * (index < frames.n_rows)).square().sum(1)
        variance = (near(inside) + between) / count
        return mean.repeat_interleave(rows)[:, None], variance.repeat_interleave(rows)[:, None]
