"""Gradient clipping over all parameters, or over each of the optimiser's groups by itself."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from birdjepa.optim.sharded import whole

ClipBy = Literal["all", "group"]


class GradientNorms(NamedTuple):
    """Norms before clipping; finite exactly where all gradients are."""

    total: Tensor
    groups: dict[str, Tensor]
    """By the group's name."""


@torch.no_grad()
def clip_gradients(optimiser: torch.optim.Optimizer, clip_norm: float, by: ClipBy) -> GradientNorms:
    """Scales gradients down where their norm is above clip_norm: all by one factor, or each group by its own.

    clip_norm = 0 does not clip. Gradients may be sharded; then all processes must call it.
    """
    groups = {
        group["name"]: [parameter for parameter in group["params"] if parameter.grad is not None]
        for group in optimiser.param_groups
    }
    norms = {
        name: whole(get_total_norm([parameter.grad for parameter in held if parameter.grad is not None]))
        for name, held in groups.items()
        if held
    }
    total = torch.stack(list(norms.values())).norm()
    if clip_norm:
        for name, norm in norms.items():
            clip_grads_with_norm_(groups[name], clip_norm, norm if by == "group" else total)
    return GradientNorms(total, norms)
