"""Pooling: an encoder's tokens to one embedding per clip or per segment.

Axes: b clips | n patches | d width | e embedding
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.models.vit import EncoderOutput
from birdjepa.nn.block import NORM_EPS

Pooling = Literal["cls", "mean", "mean+std", "max", "rows", "rows+std", "fc_norm"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(
    output: EncoderOutput, pooling: Pooling, n_rows: int, weights: Float[Tensor, "b n"] | None = None
) -> Float[Tensor, "b e"]:
    """One float32 embedding per clip from a full grid of patches.

    cls: the CLS tokens side by side; mean, max, mean+std over patches; rows and rows+std: the same over time only, with
    the n_rows frequency rows side by side, so that pitch is kept; fc_norm: the mean over patches before the last norm,
    through a norm of its own, for encoders that have it. weights (>= 0, not all 0 in a row) say how much each patch
    counts; a patch of weight 0 has no influence, and max takes every patch of positive weight alike.

    Raises:
      ValueError: if the encoder has no fc_norm, and that is asked for.
    """
    if pooling == "cls":
        return output.cls.float().flatten(1)
    patches = output.patches.float()
    if weights is None:
        weights = patches.new_ones(patches.shape[:2])
    if pooling == "max":
        return patches.masked_fill((weights <= 0).unsqueeze(-1), -torch.inf).amax(1)
    if pooling == "fc_norm":
        if output.fc_norm.shape[1] != 2:
            raise ValueError("pooling=fc_norm needs an encoder with that norm (vit.fc_norm): take another pooling")
        mean, _ = _moments(output.bare.float(), weights)
        gain, bias = output.fc_norm.float().unbind(1)
        return F.layer_norm(mean, mean.shape[-1:], eps=NORM_EPS) * gain + bias
    if pooling in ("rows", "rows+std"):
        patches, weights = patches.unflatten(1, (-1, n_rows)), weights.unflatten(1, (-1, n_rows))
    mean, std = _moments(patches, weights)
    parts = (mean, std) if pooling.endswith("+std") else (mean,)
    return torch.cat([part.flatten(1) for part in parts], 1)


def _moments(x: Float[Tensor, "b n ..."], weights: Float[Tensor, "b n ..."]) -> tuple[Tensor, Tensor]:
    """Weighted mean and (population) standard deviation over axis 1."""
    share = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12)).unsqueeze(-1)
    mean = (x * share).sum(1)
    variance = ((x - mean.unsqueeze(1)).square() * share).sum(1)
    return mean, (variance + 1e-8).sqrt()  # the root of 0 has no gradient
