"""Standardisation with the statistics of the training part only: whatever is tested must not have moved the scale.

Axes: n examples | d width of the embedding
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-6
"""A std below this share of the mean is float32 rounding: the dimension is constant, and dividing by its std would blow
up test rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Standardiser:
    """Subtracts the mean and multiplies by 1 / std; dimensions that were constant in training become 0."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    def __call__(self, embeddings: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return (embeddings - self.mean) * self.scale


def fit_standardiser(train: Float[Tensor, "n d"]) -> Standardiser:
    """Mean and population std of the training rows.

    Source: equals sklearn.preprocessing.StandardScaler where no dimension is constant.
    """
    std, mean = torch.std_mean(train, dim=0, correction=0)
    return standardiser_of(mean, std)


def standardiser_of(mean: Float[Tensor, " d"], std: Float[Tensor, " d"]) -> Standardiser:
    """The standardiser of training rows with this mean and population std."""
    varies = std > ROUNDING * mean.abs()
    return Standardiser(mean, torch.where(varies, 1 / std, 0.0))
