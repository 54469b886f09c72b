"""Stretches of sound of any lengths as the rows of one tensor: convolutions and statistics that know no padding.

A batch is the rows (moments) of all its stretches, one stretch after the other, the stretches of a clip side by side.
A clip is one stretch, or several where some of it is hidden. Each stretch is convolved as if it were alone, between
zeros, so what comes out does not depend on what else is in the batch, and nothing is computed for padding or for what
is hidden. Statistics are over all rows of a clip.

Axes: n rows | c channels in | o channels out | k kernel | b clips
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


class Stretches:
    """Where the rows of a tensor lie: the stretches' lengths in rows, and of which clip each is. Never changed."""

    def __init__(self, lengths: Sequence[int], clips: Sequence[int], n_clips: int, device: torch.device | str) -> None:
        """clips ascend; every clip has a stretch, and every stretch at least one row."""
        if sorted(clips) != list(clips) or set(clips) != set(range(n_clips)) or min(lengths, default=0) < 1:
            raise ValueError(f"{n_clips} clips need stretches of at least one row each, in their order; got {lengths}")
        self.lengths, self.clips, self.n_clips = tuple(lengths), tuple(clips), n_clips
        self.device = torch.device(device)
        self.n_rows = sum(lengths)
        self._steps: dict[tuple[int, int, int], Stretches] = {}
        self._around: dict[tuple[int, int], Tensor] = {}

    @functools.cached_property
    def rows_of_clip(self) -> Int[Tensor, " b"]:
        """Rows of each clip."""
        rows = torch.zeros(self.n_clips, dtype=torch.long)
        rows.index_add_(0, torch.tensor(self.clips), torch.tensor(self.lengths))
        return rows.to(self.device)

    @functools.cached_property
    def length_of_row(self) -> Int[Tensor, " n"]:
        """Rows of the stretch that each row is in."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return lengths.repeat_interleave(lengths, output_size=self.n_rows)

    @functools.cached_property
    def position_of_row(self) -> Int[Tensor, " n"]:
        """Place of each row in its stretch."""
        lengths = torch.tensor(self.lengths, device=self.device)
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths, output_size=self.n_rows)
        return torch.arange(self.n_rows, device=self.device) - first

    def divided(self, kernel: int, stride: int, padding: int) -> "Stretches":
        """The stretches behind a strided convolution.

        Raises:
          ValueError: if a stretch is too short to leave a row.
        """
        key = (kernel, stride, padding)
        if key not in self._steps:
            lengths = [(length + 2 * padding - kernel) // stride + 1 for length in self.lengths]
            self._steps[key] = Stretches(lengths, self.clips, self.n_clips, self.device)
        return self._steps[key]

    def grouped(self, n: int) -> "Stretches":
        """The stretches of groups of n rows, which divide every stretch."""
        return self.divided(n, n, 0)

    def around(self, kernel: int, dilation: int) -> Int[Tensor, "n k"]:
        """Rows that each row's convolution of stride 1 reads; n_rows stands for a zero outside its stretch."""
        key = (kernel, dilation)
        if key not in self._around:
            self._around[key] = self._make_around(kernel, dilation)
        return self._around[key]

    def _make_around(self, kernel: int, dilation: int) -> Int[Tensor, "n k"]:
        offsets = (torch.arange(kernel, device=self.device) - kernel // 2) * dilation
        position = self.position_of_row[:, None] + offsets
        inside = (position >= 0) & (position < self.length_of_row[:, None])
        row = torch.arange(self.n_rows, device=self.device)[:, None] + offsets
        return torch.where(inside, row, self.n_rows).int()

    def under(self, kernel: int, stride: int, padding: int) -> Int[Tensor, "m k"]:
        """Rows that each row of `divided` reads; n_rows stands for a zero."""
        divided = self.divided(kernel, stride, padding)
        lengths = torch.tensor(self.lengths, device=self.device)
        counts = torch.tensor(divided.lengths, device=self.device)
        of_stretch = torch.arange(len(lengths), device=self.device)
        stretch = of_stretch.repeat_interleave(counts, output_size=divided.n_rows)
        first = (lengths.cumsum(0) - lengths)[stretch, None]
        offsets = torch.arange(kernel, device=self.device) - padding
        position = divided.position_of_row[:, None] * stride + offsets
        inside = (position >= 0) & (position < lengths[stretch, None])
        return torch.where(inside, first + position, self.n_rows).int()

    def sum(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "b k"]:
        """Sum over the rows of each clip."""
        return torch.segment_reduce(values, "sum", lengths=self.rows_of_clip, axis=0, unsafe=True)

    def spread(self, of_clip: Float[Tensor, "b k"]) -> Float[Tensor, "n k"]:
        """What a clip has, for each of its rows."""
        return of_clip.repeat_interleave(self.rows_of_clip, 0, output_size=self.n_rows)


def whole(n_rows: Sequence[int], device: torch.device | str) -> Stretches:
    """Clips of so many rows each, nothing hidden."""
    return Stretches(n_rows, range(len(n_rows)), len(n_rows), device)


def runs(visible: Bool[Tensor, "b n"]) -> list[tuple[int, int, int]]:
    """Clip, first place and length of every run of what is visible, in order."""
    found = []
    for clip, row in enumerate(visible.tolist()):
        first = None
        for place, seen in enumerate([*row, False]):
            if seen and first is None:
                first = place
            elif not seen and first is not None:
                found.append((clip, first, place - first))
                first = None
    return found


def convolve(
    x: Float[Tensor, "n c"],
    weight: Float[Tensor, "k c o"],
    bias: Float[Tensor, " o"],
    stretches: Stretches,
    *,
    dilation: int = 1,
) -> Float[Tensor, "n o"]:
    """Convolution of stride 1 and odd kernel within each stretch, as long as before; in autocast's dtype.

    Equals: torch.nn.functional.conv1d of each stretch by itself, with padding = dilation * (k // 2).
    """
    kernel = weight.shape[0]
    x, weight, bias = _cast(x, weight, bias)
    if kernel == 1:
        return torch.addmm(bias, x, weight[0])
    index = stretches.around(kernel, dilation)
    return _Around.apply(x, weight, bias, index)  # pyright: ignore[reportReturnType]


def stride(
    x: Float[Tensor, "n c"],
    weight: Float[Tensor, "k c o"],
    bias: Float[Tensor, " o"],
    stretches: Stretches,
    *,
    step: int,
    padding: int,
) -> tuple[Float[Tensor, "m o"], Stretches]:
    """Strided convolution of kernel 2 * step within each stretch, and the stretches that it leaves.

    Equals: torch.nn.functional.conv1d of each stretch by itself.
    """
    kernel = weight.shape[0]
    x, weight, bias = _cast(x, weight, bias)
    index = stretches.under(kernel, step, padding)
    divided = stretches.divided(kernel, step, padding)
    return _Under.apply(x, weight, bias, index), divided  # pyright: ignore[reportReturnType]


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
    return tensors


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """The rows that each row reads, side by side."""
    padded = torch.cat((x, x.new_zeros(1, x.shape[1])))
    return padded.index_select(0, index.flatten()).view(len(index), -1)


class _Around(torch.autograd.Function):
    """Columns are made again for the backward pass instead of kept; what a row reads is symmetric, so the gradient is
    a convolution as well.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, index)
        return torch.addmm(bias, _columns(x, index), weight.flatten(0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, index = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            for_x = _columns(grad, index) @ weight.flip(0).mT.flatten(0, 1)
        if ctx.needs_input_grad[1]:
            for_weight = (_columns(x, index).T @ grad).view_as(weight)
        return for_x, for_weight, grad.sum(0) if ctx.needs_input_grad[2] else None, None


class _Under(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, index)
        return torch.addmm(bias, _columns(x, index), weight.flatten(0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, index = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            step = weight.shape[0] // 2
            parts = (grad @ weight.flatten(0, 1).T).view(len(grad), 2 * step, -1)
            added = x.new_zeros(len(x) + 1, x.shape[1])
            for half in (slice(0, step), slice(step, None)):  # no row is read twice by one half: the sum has one order
                added.index_add_(0, index[:, half].flatten(), parts[:, half].flatten(0, 1))
            for_x = added[:-1]
        if ctx.needs_input_grad[1]:
            for_weight = (_columns(x, index).T @ grad).view_as(weight)
        return for_x, for_weight, grad.sum(0) if ctx.needs_input_grad[2] else None, None
