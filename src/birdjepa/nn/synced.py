"""Statistics over the clips of all processes: what is not a mean over clips must be computed from all of them.

A sum over processes is differentiable here, and its gradient is the sum of the processes' gradients. Engines average
gradients over processes; together this is the gradient of the mean of the processes' losses, with no factor anywhere.
With one process each function is the plain one, to the last bit.

Axes: b clips of this process | d dimensions
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from birdjepa.core import processes


def summed(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x added up over all processes, on each of them."""
    return x if processes.here().world == 1 else _Summed.apply(x)  # pyright: ignore[reportReturnType]


def mean(x: Float[Tensor, "b d"]) -> Float[Tensor, " d"]:
    """Mean over the clips of all processes."""
    return x.mean(0) if processes.here().world == 1 else summed(x.sum(0)) / n_rows(x)


def n_rows(x: Float[Tensor, "b ..."]) -> int:
    """Rows of all processes together; each has equally many."""
    return len(x) * processes.here().world


@torch.no_grad()
def std(x: Float[Tensor, "b ..."]) -> Float[Tensor, "..."]:
    """Standard deviation (unbiased) over the first axis of all processes, for what is logged."""
    if processes.here().world == 1:
        return x.std(0)
    centred = x - summed(x.sum(0)) / n_rows(x)
    return (summed(centred.square().sum(0)) / (n_rows(x) - 1)).sqrt()


class BatchNorm(nn.BatchNorm1d):
    """nn.BatchNorm1d over the clips of all processes, on any device; torch's SyncBatchNorm is for GPUs only.

    Two exchanges in each direction: the mean first, then the squares about it, for a difference of large sums would
    lose what the variance needs. In float32 under autocast.
    """

    def forward(self, input: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        if processes.here().world == 1 or not self.training:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            x = input.float() if input.itemsize < 4 else input
            n = n_rows(x)
            centre = mean(x)
            centred = x - centre
            variance = summed(centred.square().sum(0)) / n
            self._remember(centre.detach(), variance.detach() * n / (n - 1))
            y = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, centre: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(centre, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return processes.here().add(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return processes.here().add(grad)
