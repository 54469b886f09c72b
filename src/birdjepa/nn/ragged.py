"""Stretches of sound of any lengths as the rows of one tensor: convolutions and statistics that know no padding.

A batch is the rows (moments) of all its stretches, one stretch after the other, the stretches of a clip side by side.
A clip is one stretch, or several where some of it is hidden. Each stretch is convolved as if it were alone, between
zeros, so what comes out does not depend on what else is in the batch, and nothing is computed for padding or for what
is hidden. Statistics are over all rows of a clip.

Axes: n rows | c channels in | o channels out | k kernel | b clips | m rows behind a stride
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LONG = 256
"""Rows of a stretch, on average, that are worth products of their own."""
BLOCK = 1 << 17
"""Numbers of one block of rows, for each thread: what a block needs stays in the cache."""


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

    def spans(self) -> list[tuple[int, int]]:
        """First row of each stretch, and the one after its last."""
        ends = list(itertools.accumulate(self.lengths))
        return [(end - length, end) for end, length in zip(ends, self.lengths, strict=True)]

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
    x, weight, bias = cast(x, weight, bias)
    if kernel == 1:
        return torch.addmm(bias, x, weight[0])
    if is_long(stretches):
        return _Shifted.apply(x, weight, bias, stretches.spans(), dilation)  # pyright: ignore[reportReturnType]
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
    x, weight, bias = cast(x, weight, bias)
    steps = Steps(stretches, step, lead=padding, kernel=2 * step, divided=stretches.divided(2 * step, step, padding))
    return _Under.apply(x, weight, bias, steps), steps.divided  # pyright: ignore[reportReturnType]


def enter(
    x: Float[Tensor, "n 1"],
    weight1: Float[Tensor, "j 1 c"],
    bias1: Float[Tensor, " c"],
    weight2: Float[Tensor, "k c o"],
    bias2: Float[Tensor, " o"],
    stretches: Stretches,
    *,
    step: int,
    padding: int,
) -> tuple[Float[Tensor, "m o"], Stretches]:
    """Convolution of one channel and, with nothing between, the strided one, done as one: what lies between is the
    largest of all layers, and most of it is never made. The stretches are whole steps.

    Equals: stride(convolve(x, weight1, bias1), weight2, bias2).
    """
    x, weight1, bias1, weight2, bias2 = cast(x, weight1, bias1, weight2, bias2)
    taps1, taps2, half = len(weight1), len(weight2), len(weight1) // 2
    divided = stretches.divided(taps2, step, padding)
    kernel = taps1 + taps2 - 1
    steps = Steps(stretches, step, lead=padding + half, kernel=kernel, divided=divided)
    # Both kernels as one: sums over the diagonals of all their products, which a longer row shifts below each other.
    pairs = torch.einsum("ac,bco->abo", weight1[:, 0], weight2)
    pairs = F.pad(pairs, (0, 0, 0, taps1)).flatten(0, 1)[: taps1 * kernel]
    both = F.pad(pairs.view(taps1, kernel, -1).sum(0), (0, 0, 0, steps.n_parts * step - kernel))
    spread = steps.spread(x)
    parts = spread.view(-1, step)
    n = len(parts) - steps.n_parts + 1
    columns = torch.cat([parts[part : part + n] for part in range(steps.n_parts)], 1)
    bias = bias2 + torch.einsum("c,bco->o", bias1, weight2)
    out = torch.addmm(bias, columns, both).index_select(0, steps.kept)
    # The strided convolution pads with zeros, not with what the first one would give there: that is taken off again.
    last = (divided.lengths[0] + 1) * step - padding - stretches.lengths[0]
    ends = torch.tensor(divided.lengths, device=x.device).cumsum(0)
    edges = ((padding, -padding, 0 * ends, 0, torch.cat((0 * ends[:1], ends[:-1]))),)
    edges += ((last, 0, torch.tensor(stretches.lengths, device=x.device), taps2 - last, ends - 1),)
    for count, first, length, tap, rows in edges:
        if count <= 0:
            continue
        beyond = steps.starts + length + first - half
        heard = spread[:, 0][beyond[:, None] + torch.arange(count + 2 * half, device=x.device)]
        there = heard.unfold(1, taps1, 1) @ weight1[:, 0] + bias1
        out = out.index_add(0, rows, there.flatten(1) @ -weight2[tap : tap + count].flatten(0, 1))
    return out, divided


class Steps:
    """Where the rows of stretches lie as the parts of a strided convolution: each stretch begins a part, behind the
    zeros that lead it, and the kernel is so many parts long.
    """

    def __init__(self, stretches: Stretches, step: int, *, lead: int, kernel: int, divided: Stretches) -> None:
        device = stretches.device
        self.divided, self.n_parts, self.n_rows = divided, -(-kernel // step), stretches.n_rows
        lengths, counts = torch.tensor(stretches.lengths), torch.tensor(divided.lengths)
        parts = counts + self.n_parts - 1
        first_part = parts.cumsum(0) - parts
        self.n_spread = int(parts.sum()) * step
        self.starts = (first_part * step + lead).to(device)
        position = stretches.position_of_row
        self.place = self.starts.repeat_interleave(lengths.to(device), output_size=self.n_rows) + position
        room = (parts * step - lead).to(device)
        heard = position < room.repeat_interleave(lengths.to(device), output_size=self.n_rows)
        self.heard = None if bool((lengths <= parts * step - lead).all()) else heard.nonzero()[:, 0]
        first_part = first_part.to(device).repeat_interleave(counts.to(device), output_size=divided.n_rows)
        self.kept = first_part + divided.position_of_row

    def spread(self, x: Tensor) -> Tensor:
        """Rows with the zeros; those that no kernel reaches are left out."""
        place = self.place
        if self.heard is not None:
            x, place = x.index_select(0, self.heard), place[self.heard]
        return x.new_zeros(self.n_spread, x.shape[1]).index_copy(0, place, x)

    def gathered(self, grad: Tensor) -> Tensor:
        """The transpose of spread."""
        if self.heard is None:
            return grad.index_select(0, self.place)
        found = grad.index_select(0, self.place[self.heard])
        return grad.new_zeros(self.n_rows, grad.shape[1]).index_copy_(0, self.heard, found)


def is_long(stretches: Stretches) -> bool:
    """Whether each stretch is worth products of its own: on a CPU, and long."""
    return stretches.device.type == "cpu" and len(stretches.lengths) * LONG <= stretches.n_rows


def cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In autocast's dtype."""
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
    return tensors


def _columns(x: Tensor, index: Tensor) -> Tensor:
    """The rows that each row reads, side by side."""
    padded = torch.cat((x, x.new_zeros(1, x.shape[1])))
    return padded.index_select(0, index.flatten()).view(len(index), -1)


def shifted(
    spans: Sequence[tuple[int, int]], limits: Sequence[tuple[int, int]], kernel: int, dilation: int, most: int
) -> Iterator[tuple[int, int, list[tuple[int, int, int, int]]]]:
    """Blocks of at most so many output rows: first and last row, and for each tap but the middle one how far it reads
    away, and the first and last row for which what it reads is within the limits.
    """
    shifts = [(tap, (tap - kernel // 2) * dilation) for tap in range(kernel) if tap != kernel // 2]
    for (begin, end), (low, high) in zip(spans, limits, strict=True):
        for first in range(begin, end, most):
            last = min(first + most, end)
            reached = ((tap, shift, max(first, low - shift), min(last, high - shift)) for tap, shift in shifts)
            yield first, last, [each for each in reached if each[2] < each[3]]


def block_rows(x: Tensor) -> int:
    """Rows of a block that stays in the cache; on a GPU all of them."""
    return max(128, BLOCK * torch.get_num_threads() // x.shape[1]) if x.device.type == "cpu" else len(x)


class _Shifted(torch.autograd.Function):
    """Products of rows as they lie, one for each tap, and only where it meets anything."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, spans: list[tuple[int, int]], dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.spans, ctx.dilation = spans, dilation
        return _Shifted.sums(x, weight, bias, spans, dilation)

    @staticmethod
    def sums(x: Tensor, weight: Tensor, bias: Tensor, spans: list[tuple[int, int]], dilation: int) -> Tensor:
        kernel = len(weight)
        out = x.new_empty(len(x), weight.shape[2])
        for first, last, taps in shifted(spans, spans, kernel, dilation, block_rows(x)):
            torch.addmm(bias, x[first:last], weight[kernel // 2], out=out[first:last])
            for tap, shift, start, stop in taps:
                out[start:stop].addmm_(x[start + shift : stop + shift], weight[tap])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        kernel, for_x, for_weight = len(weight), None, None
        if ctx.needs_input_grad[0]:
            nothing = x.new_zeros(x.shape[1])
            for_x = _Shifted.sums(grad, weight.flip(0).mT, nothing, ctx.spans, ctx.dilation)
        if ctx.needs_input_grad[1]:
            for_weight = torch.zeros_like(weight)
            for first, last, taps in shifted(ctx.spans, ctx.spans, kernel, ctx.dilation, block_rows(x)):
                for_weight[kernel // 2].addmm_(x[first:last].T, grad[first:last])
                for tap, shift, start, stop in taps:
                    for_weight[tap].addmm_(x[start + shift : stop + shift].T, grad[start:stop])
        return for_x, for_weight, grad.sum(0) if ctx.needs_input_grad[2] else None, None, None


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
    """Steps side by side are two parts of a kernel: a product of each, without gathering anything."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, steps: Steps) -> Tensor:
        first, second = weight.flatten(0, 1).chunk(2)
        parts = steps.spread(x).view(-1, len(first))
        ctx.save_for_backward(parts, weight)
        ctx.steps = steps
        out = torch.addmm(bias, parts[:-1], first).addmm_(parts[1:], second)
        return out.index_select(0, steps.kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        parts, weight = ctx.saved_tensors
        steps: Steps = ctx.steps
        first, second = weight.flatten(0, 1).chunk(2)
        full = grad.new_zeros(len(parts) - 1, grad.shape[1]).index_copy_(0, steps.kept, grad)
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            for_parts = torch.empty_like(parts)
            torch.mm(full, first.T, out=for_parts[:-1])
            for_parts[-1].zero_()
            for_parts[1:].addmm_(full, second.T)
            for_x = steps.gathered(for_parts.view(-1, weight.shape[1]))
        if ctx.needs_input_grad[1]:
            for_weight = torch.cat((parts[:-1].T @ full, parts[1:].T @ full)).view_as(weight)
        return for_x, for_weight, grad.sum(0) if ctx.needs_input_grad[2] else None, None
