"""Regularised masking: in each attention layer a share of the patches may not be attended to, while training.

A barred patch keeps its query and its place in the output; its key and value are out of reach. Nothing is zeroed or
dropped, and the length stays. Two readings of the paper's sentence are offered: nobody attends to a barred patch (its
key column is masked), or only the patch itself does not (its diagonal entry is).

Axes: b clips | q queries (n, or 1 where all see the same) | n tokens
Source: A-JEPA, arXiv 2311.15830, which gives the share (10 %) and no formula.
"""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from birdjepa.core.random import Draws


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegularisedMaskingConfig:
    """What is barred from being attended to."""

    share: float = 0.1
    """Share of the patches, drawn anew in each layer and clip; 0 is plain attention."""
    bars: Literal["keys", "diagonal"] = "keys"
    """keys: from all queries; diagonal: from the patch's own query."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be in [0, 1), got {self.share}")


def draw_barred(
    config: RegularisedMaskingConfig | None,
    depth: int,
    batch: int,
    n_still: int,
    n_patches: int,
    draws: Draws | None,
    device: torch.device,
) -> list[Bool[Tensor, "b q n"] | None]:
    """What each layer bars, or None for each where nothing is drawn from (at inference) or nothing to bar.

    Exactly round(share * n_patches) patches of each clip, and never all tokens; CLS and registers are never barred.
    """
    n_barred = 0 if config is None else min(round(config.share * n_patches), n_patches + n_still - 1)
    if config is None or draws is None or n_barred == 0:
        return [None] * depth
    drawn = draws.uniform((depth, batch, n_patches), clips=1).to(device)
    chosen = drawn.topk(n_barred, dim=-1).indices
    hidden = torch.zeros(depth, batch, n_still + n_patches, dtype=torch.bool, device=device)
    hidden.scatter_(-1, chosen + n_still, True)
    return list(hidden.unsqueeze(2) if config.bars == "keys" else torch.diag_embed(hidden))
