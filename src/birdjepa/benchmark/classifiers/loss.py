"""Losses of a stack of heads: each head's own, from the logits of all of them on one batch.

Axes: h heads | b examples | c classes
Source: Ridnik et al., "Asymmetric loss", arXiv 2009.14119.
"""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.benchmark.tasks.base import Kind
from birdjepa.core.errors import UsageError
from birdjepa.objectives.supervised import asymmetric_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a head is trained with."""

    form: Literal["auto", "ce", "bce", "asymmetric"] = "auto"
    """auto: ce for single-label tasks, bce for multi-label ones; ce: cross-entropy over classes of which each example
    has one; bce: binary cross-entropy; asymmetric: the same with less weight on easy negatives."""
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.05
    """Asymmetric loss: focus on hard negatives and positives, and the probability below which negatives are free."""
    over_classes: Literal["mean", "sum"] = "mean"
    """Of bce and asymmetric. AdamW's steps hardly depend on it, but the loss weighs more against a head's own penalty
    (prototypes), and small gradients stay farther from AdamW's epsilon, by the number of classes."""

    def __post_init__(self) -> None:
        if min(self.gamma_negative, self.gamma_positive) < 0 or not 0 <= self.margin < 1:
            raise ValueError(
                "need gammas >= 0 and 0 <= margin < 1, got "
                f"{self.gamma_negative}, {self.gamma_positive} and {self.margin}"
            )
        plain = (self.gamma_negative, self.gamma_positive, self.margin) == (4.0, 1.0, 0.05)
        if self.form != "asymmetric" and not plain:
            raise ValueError(f"gammas and margin need form='asymmetric', got form={self.form!r}")
        if self.form == "ce" and self.over_classes != "mean":
            raise ValueError("over_classes does not apply to form='ce'")

    def of(self, kind: Kind) -> Literal["ce", "bce", "asymmetric"]:
        """The loss for a kind of task.

        Raises:
          UsageError: for ce of a multi-label task.
        """
        if self.form == "auto":
            return "ce" if kind == "single-label" else "bce"
        if self.form == "ce" and kind == "multi-label":
            raise UsageError("the loss 'ce' needs a single-label task; use 'bce' or 'asymmetric'")
        return self.form


def losses(
    logits: Float[Tensor, "h b c"], wanted: Float[Tensor, "b c"], config: LossConfig, kind: Kind
) -> Float[Tensor, " h"]:
    """Mean loss over the examples for each head."""
    form = config.of(kind)
    if form == "ce":
        return -(logits.log_softmax(2) * wanted).sum(2).mean(1)
    if form == "bce":
        each = F.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits), reduction="none").mean((1, 2))
    else:
        gammas = config.gamma_negative, config.gamma_positive
        each = torch.stack([asymmetric_loss(head, wanted, *gammas, config.margin) for head in logits])
    return each * (wanted.shape[1] if config.over_classes == "sum" else 1)
