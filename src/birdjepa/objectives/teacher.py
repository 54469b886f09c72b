"""The teacher of a JEPA: an average of its context encoder that follows it from update to update, in float32."""

import torch
from torch import nn


@torch.no_grad()
def follow(teacher: nn.Module, encoder: nn.Module, momentum: tuple[float, float], progress: float) -> None:
    """teacher <- m * teacher + (1 - m) * encoder, where m goes from the first momentum to the last, linearly."""
    first, last = momentum
    keep = first + (last - first) * progress
    for mine, theirs in zip(teacher.parameters(), encoder.parameters(), strict=True):
        mine.lerp_(theirs.to(mine.dtype), 1 - keep)
