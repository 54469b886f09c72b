"""Cross-entropy over very many classes without their logits: a linear layer and its softmax, one tile of classes at a
time.

PyTorch's own `linear_cross_entropy` cuts the batch instead, so that a small batch over many classes saves nothing, and
falls back to dense logits under label smoothing (measured in benchmarks/source_loss.py). Here each tile's logits live
once in the forward pass, which keeps their log-sum-exp, and once more in the backward pass; float32 throughout.

Axes: b clips | d width | n classes
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 1 << 22
"""Logits held at a time (16 MiB)."""


def linear_cross_entropy(
    x: Float[Tensor, "b d"], weight: Float[Tensor, "n d"], target: Int[Tensor, " b"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Mean over clips of the cross-entropy of softmax(x @ weight.T), the target smoothed over all classes.

    Source: equals F.cross_entropy(x @ weight.T, target, label_smoothing=smoothing).

    Raises:
      ValueError: if smoothing is not in [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    with torch.autocast(x.device.type, enabled=False):
        return _Tiled.apply(x.float(), weight.float(), target, smoothing)  # pyright: ignore[reportReturnType]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, target: Tensor, smoothing: float) -> Tensor:
        parts, total = [], x.new_zeros(len(x))
        for tile in weight.split(_rows(x)):
            logits = x @ tile.T
            parts.append(logits.logsumexp(1))
            total += logits.sum(1)
        log_sum = torch.stack(parts).logsumexp(0)
        hit = (x * weight[target]).sum(1)
        ctx.save_for_backward(x, weight, target, log_sum)
        ctx.smoothing = smoothing
        return (log_sum - (1 - smoothing) * hit - smoothing / len(weight) * total).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, target, log_sum = ctx.saved_tensors
        scale = grad / len(x)
        grad_x, grad_weight = torch.zeros_like(x), torch.empty_like(weight)
        first = 0
        for tile, grad_tile in zip(weight.split(_rows(x)), grad_weight.split(_rows(x)), strict=True):
            share = (x @ tile.T).sub_(log_sum[:, None]).exp_().sub_(ctx.smoothing / len(weight)).mul_(scale)
            inside = ((target >= first) & (target < first + len(tile))).nonzero().squeeze(1)
            share[inside, target[inside] - first] -= (1 - ctx.smoothing) * scale
            grad_x.addmm_(share, tile)
            torch.mm(share.T, x, out=grad_tile)
            first += len(tile)
        return grad_x, grad_weight, None, None


def _rows(x: Tensor) -> int:
    return max(1, TILE // max(1, len(x)))
