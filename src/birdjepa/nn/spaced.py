"""Residual pairs of convolutions on stretches of rows, as fast as matrix products allow and with little memory.

A stack of residual pairs keeps its rows spaced: zeros lie between the stretches, so that one product serves all of them
at once. A convolution of three taps is then done in one of these ways, chosen in `Spaced.way` and nowhere else:

  alone     a dilation as long as every stretch: only the middle tap meets anything
  toom      four outputs t, t+d, t+2d, t+3d from six products instead of twelve (Toom-Cook, or Winograd's F(4, 3)), in
            blocks that stay in the cache; on a CPU in float32, where there are channels and rows enough
  shifted   three products that add up, of rows as they lie, each with the taps of its stretch only
  gathered  one product of columns that are gathered: for dilations wider than the zeros between many short stretches

All give the same numbers up to rounding, values and gradients. A pair keeps two tensors for the backward pass: its
input and its inside, from which the rest is made again.

Axes: n rows of stretches | r rows with the zeros between | c channels | k taps
Source: Winograd 1980, "Arithmetic Complexity of Computations"; Lavin & Gray 2015, arXiv 1509.09308.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from birdjepa.nn.ragged import Stretches, block_rows, cast, is_long, shifted

Way = Literal["alone", "toom", "shifted", "gathered"]
Finish = Callable[[Tensor, Callable[[Tensor], Tensor]], object]
"""Takes sums of a block and a function that shows the same rows of any tensor."""

TILE = 4
WINDOW = 6
"""Outputs of one tile of the Toom-Cook products, and inputs. Within a tile, what an output should not know of cancels
but for rounding; so no tile may hold rows of two stretches.
"""
COST: dict[Way, float] = {"alone": 0.35, "toom": 0.7, "shifted": 1.0, "gathered": 1.5}
"""About how long each way takes, for the choice of the zeros between stretches."""
LEAST_CHANNELS = 48
LEAST_ROWS = 512
"""With fewer than these, or fewer rows than twice the channels, fewer products gain nothing."""
_EXPAND = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""The kernel at the same points."""


class Spaced:
    """Where the rows of stretches lie with zeros between. The first row is a zero."""

    def __init__(self, stretches: Stretches, dilations: Sequence[int]) -> None:
        """For a stack of convolutions with these dilations, as often as they occur."""
        n, count = stretches.n_rows, len(stretches.lengths)
        self.stretches, self.longest = stretches, max(stretches.lengths)

        def cost(gap: int) -> float:
            """Of the stack; zeros between the stretches are rows that all of it computes."""
            total, spread = 0.0, 1 + (count - 1) * gap / n
            for d in dilations:
                way = self._way(d, gap)
                total += COST[way] * (1 if way == "shifted" and d > gap else spread)
            return total

        gaps = {1, *(d * apart for d in dilations for apart in (1, WINDOW - 1) if d < self.longest)}
        self.gap = min(sorted(gaps), key=cost)
        self.spans = []
        for number, (first, last) in enumerate(stretches.spans()):
            shift = (number + 1) * self.gap
            self.spans.append((first + shift, last + shift))
        self.stop = self.spans[-1][1]
        self.n_rows = self.stop + self.gap
        shifts = self.gap * torch.arange(1, count + 1)
        place = torch.arange(n) + shifts.repeat_interleave(torch.tensor(stretches.lengths), output_size=n)
        between = torch.ones(self.n_rows, dtype=torch.bool)
        between[place] = False
        self.place = place.to(stretches.device)
        self.between = between.nonzero()[:, 0].to(stretches.device)
        self._index: dict[int, Tensor] = {}
        self._spares: dict[tuple[str, torch.dtype, int], Tensor] = {}
        self._rooms: dict[tuple[int, int, int, int], _Room] = {}

    def open(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "r c"]:
        """Rows with zeros between."""
        return _Open.apply(x, self)  # pyright: ignore[reportReturnType]

    def close(self, x: Float[Tensor, "r c"]) -> Float[Tensor, "n c"]:
        """Rows without what is between."""
        return _Close.apply(x, self)  # pyright: ignore[reportReturnType]

    def way(self, dilation: int, like: Tensor) -> Way:
        """How a convolution of such rows is done here."""
        way = self._way(dilation, self.gap)
        channels = like.shape[1]
        few = channels < LEAST_CHANNELS or self.stretches.n_rows < 2 * channels
        if way == "toom" and (few or like.device.type != "cpu" or like.dtype != torch.float32):
            return "shifted"
        return way

    def _way(self, dilation: int, gap: int) -> Way:
        if dilation >= self.longest:
            return "alone"
        if dilation * (WINDOW - 1) <= gap and self.stretches.n_rows >= LEAST_ROWS:
            return "toom"
        return "shifted" if dilation <= gap or is_long(self.stretches) else "gathered"

    def index(self, dilation: int) -> Tensor:
        """The rows that each row reads, one row of them for each; the first row of all for a zero."""
        if dilation not in self._index:
            around = self.stretches.around(3, dilation)
            padded = torch.cat((self.place, self.place.new_zeros(1)))
            self._index[dilation] = self.place.new_zeros(self.n_rows, 3).index_copy_(0, self.place, padded[around])
        return self._index[dilation].flatten()

    def room(self, x: Tensor, tiles: int, phases: int, width: int) -> "_Room":
        """Memory for blocks of that size."""
        key = (tiles, phases, x.shape[1], width)
        if key not in self._rooms:
            self._rooms[key] = _Room(x, *key)
        return self._rooms[key]

    def spare(self, name: str, like: Tensor) -> Tensor:
        """A tensor that is used again and again: memory that a system gives anew has to be filled with zeros first."""
        key = (name, like.dtype, like.shape[1])
        if key not in self._spares:
            self._spares[key] = torch.empty_like(like)
        return self._spares[key]

    def blank(self, x: Tensor) -> Tensor:
        """Puts the zeros back."""
        return x.index_fill_(0, self.between, 0)


class _Open(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, spaced: Spaced) -> Tensor:
        ctx.spaced = spaced
        return x.new_zeros(spaced.n_rows, x.shape[1]).index_copy_(0, spaced.place, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.index_select(0, ctx.spaced.place), None


class _Close(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, spaced: Spaced) -> Tensor:
        ctx.spaced = spaced
        return x.index_select(0, spaced.place)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.new_zeros(ctx.spaced.n_rows, grad.shape[1]).index_copy_(0, ctx.spaced.place, grad), None


def residual_pair(
    x: Float[Tensor, "r c"],
    weight1: Float[Tensor, "3 c c"],
    bias1: Float[Tensor, " c"],
    weight2: Float[Tensor, "3 c c"],
    bias2: Float[Tensor, " c"],
    spaced: Spaced,
    *,
    dilation: int,
    slope: float,
) -> Float[Tensor, "r c"]:
    """x + conv(leaky(dilated conv(leaky(x)))) of spaced rows, in autocast's dtype.

    Without gradients x itself is changed and given back: hand over what nobody else needs.
    """
    x, weight1, bias1, weight2, bias2 = cast(x, weight1, bias1, weight2, bias2)
    tensors = (x, weight1, bias1, weight2, bias2)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _Pair.apply(*tensors, spaced, dilation, slope)  # pyright: ignore[reportReturnType]
    _pair(*tensors, spaced, dilation, slope, spaced.spare("inside", x), x)
    return x


def _pair(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    spaced: Spaced,
    dilation: int,
    slope: float,
    inside: Tensor,
    out: Tensor,
) -> None:
    """Writes the inside, leaky(dilated conv), and the result."""
    leaky, add = torch.ops.aten.leaky_relu.out, torch.add

    _convolve(x, weight1, bias1, spaced, dilation, lambda sums, at: leaky(sums, slope, out=at(inside)), slope)
    spaced.blank(inside)
    _convolve(inside, weight2, bias2, spaced, 1, lambda sums, at: add(at(x), sums, out=at(out)))
    spaced.blank(out)


class _Pair(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, spaced: Spaced, dilation, slope
    ) -> Tensor:
        inside, out = torch.empty_like(x), torch.empty_like(x)
        _pair(x, weight1, bias1, weight2, bias2, spaced, dilation, slope, inside, out)
        ctx.save_for_backward(x, inside, weight1, weight2)
        ctx.spaced, ctx.dilation, ctx.slope = spaced, dilation, slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, inside, weight1, weight2 = ctx.saved_tensors
        spaced, dilation, slope = ctx.spaced, ctx.dilation, ctx.slope
        grad = grad.contiguous()
        bent = torch.ops.aten.leaky_relu_backward.grad_input
        before, for_x = spaced.spare("before", x), torch.empty_like(x)

        def through(sums: Tensor, at: Callable[[Tensor], Tensor]) -> None:
            bent(sums, at(x), slope, False, grad_input=sums)
            torch.add(at(grad), sums, out=at(for_x))

        def bend(sums: Tensor, at: Callable[[Tensor], Tensor]) -> None:
            bent(sums, at(inside), slope, True, grad_input=at(before))

        _convolve(grad, weight2.flip(0).mT, None, spaced, 1, bend)
        spaced.blank(before)
        for_weight2 = _correlate(inside, grad, spaced, 1)
        _convolve(before, weight1.flip(0).mT, None, spaced, dilation, through)
        spaced.blank(for_x)
        for_weight1 = _correlate(x, before, spaced, dilation, slope)
        return for_x, for_weight1, before.sum(0), for_weight2, grad.sum(0), None, None, None


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    spaced: Spaced,
    dilation: int,
    finish: Finish,
    slope: float = 1.0,
) -> None:
    """Sums of the taps of leaky(x), block by block, to finish; rows between the stretches get whatever comes."""
    bias = x.new_zeros(weight.shape[2]) if bias is None else bias
    way = spaced.way(dilation, x)
    if way == "toom":
        return _toom(x, weight, bias, spaced, dilation, finish, slope)
    bent = x if slope == 1 else torch.ops.aten.leaky_relu.out(x, slope, out=spaced.spare("bent", x))
    if way == "gathered":
        columns = bent.index_select(0, spaced.index(dilation)).view(spaced.n_rows, -1)
        finish(torch.addmm(bias, columns, weight.flatten(0, 1)), lambda tensor: tensor)
        return None
    for first, last, taps in _blocks(x, spaced, dilation, way):
        sums = torch.addmm(bias, bent[first:last], weight[1])
        for tap, shift, start, stop in taps:
            sums[start - first : stop - first].addmm_(bent[start + shift : stop + shift], weight[tap])
        finish(sums, lambda tensor, a=first, b=last: tensor[a:b])
    return None


def _correlate(x: Tensor, grad: Tensor, spaced: Spaced, dilation: int, slope: float = 1.0) -> Tensor:
    """Gradient of the weight, given that of the sums, in which the rows between are zeros."""
    way = spaced.way(dilation, x)
    if way == "toom":
        return _toom_weight(x, grad, spaced, dilation, slope)
    bent = x if slope == 1 else torch.ops.aten.leaky_relu.out(x, slope, out=spaced.spare("bent", x))
    if way == "gathered":
        columns = bent.index_select(0, spaced.index(dilation)).view(spaced.n_rows, -1)
        return (columns.T @ grad).view(3, x.shape[1], grad.shape[1])
    weight = x.new_zeros(3, x.shape[1], grad.shape[1])
    for first, last, taps in _blocks(x, spaced, dilation, way):
        weight[1].addmm_(bent[first:last].T, grad[first:last])
        for tap, shift, start, stop in taps:
            weight[tap].addmm_(bent[start + shift : stop + shift].T, grad[start:stop])
    return weight


def _blocks(
    x: Tensor, spaced: Spaced, dilation: int, way: Way
) -> Iterator[tuple[int, int, list[tuple[int, int, int, int]]]]:
    if way == "alone" or dilation <= spaced.gap:  # one span, for the zeros between keep the stretches apart
        kernel = 1 if way == "alone" else 3
        return shifted([(spaced.gap, spaced.stop)], [(0, spaced.n_rows)], kernel, dilation, block_rows(x))
    return shifted(spaced.spans, spaced.spans, 3, dilation, block_rows(x))


def _tiles(x: Tensor, spaced: Spaced, dilation: int) -> Iterator[tuple[int, int, int]]:
    """First output row, tiles and phases of each block. Phases are rows that lie side by side: all of a dilation, or as
    many of them as a block holds.
    """
    per_block = block_rows(x) // TILE
    tiles = -(-(spaced.stop - spaced.gap) // (TILE * dilation))
    if dilation < per_block:
        most = per_block // dilation
        for tile in range(0, tiles, most):
            yield spaced.gap + tile * TILE * dilation, min(most, tiles - tile), dilation
        return
    for tile in range(tiles):
        for phase in range(0, dilation, per_block):
            yield spaced.gap + tile * TILE * dilation + phase, 1, min(per_block, dilation - phase)


def _view(x: Tensor, first: int, parts: int, dilation: int, phases: int) -> Tensor:
    """Parts of so many phases, a dilation apart, from a row on."""
    c = x.shape[1]
    return x.as_strided((parts, phases, c), (dilation * c, c, 1), x.storage_offset() + first * c)


def _split(x: Tensor, tiles: int) -> Tensor:
    """(4, tiles, phases, channels) of parts that follow each other."""
    return x.unflatten(0, (tiles, TILE)).transpose(0, 1)


class _Room:
    """Memory for one block, and views of it: made once, for a view costs as much as an operation on few numbers."""

    def __init__(self, like: Tensor, tiles: int, phases: int, c: int, o: int) -> None:
        n = tiles * phases
        self.leaky = like.new_empty(TILE * tiles + 2, phases, c)
        self.leaky_ends = self.leaky[2:], self.leaky[:-2], _split(self.leaky[1:-1], tiles)[:2]
        self.steps = like.new_empty(TILE * tiles, phases, c)
        s = _split(self.steps, tiles)
        self.step1, self.step2, self.inner, self.upper, self.lower = s[1], s[2], s[1:3], s[2:], s[:2]
        factors = like.new_empty(WINDOW, tiles, phases, c)
        self.factors, self.factor_ends, self.factor = factors.view(WINDOW, n, c), factors[::5], factors.unbind()
        self.both = like.new_empty(2, tiles, phases, c)
        self.both0, self.both1 = self.both.unbind()
        self.products = like.new_empty(WINDOW, n, o)
        self.product1 = self.products[1]
        products = self.products.view(WINDOW, tiles, phases, o)
        self.product_ends, self.product = products[::5], products.unbind()
        self.plus, self.minus = products[1:4:2], products[2:5:2]
        self.even = like.new_empty(2, tiles, phases, o)
        self.even0, self.even1 = self.even.unbind()
        self.sums = like.new_empty(TILE * tiles, phases, o)
        self.sum = _split(self.sums, tiles).unbind()


def _evaluate(x: Tensor, first: int, tiles: int, dilation: int, phases: int, slope: float, room: _Room) -> None:
    """The six factors of each tile: what its six rows are as a polynomial at 0, 1, -1, 2, -2 and infinity."""
    c = x.shape[1]
    if slope == 1:
        part, start = dilation * c, x.storage_offset() + (first - dilation) * c
        shape, strides = (TILE * tiles, phases, c), (part, c, 1)
        low, high = x.as_strided(shape, strides, start), x.as_strided(shape, strides, start + 2 * part)
        middle = x.as_strided((2, tiles, phases, c), (part, TILE * part, c, 1), start + part)
    else:
        rows = _view(x, first - dilation, TILE * tiles + 2, dilation, phases)
        torch.ops.aten.leaky_relu.out(rows, slope, out=room.leaky)
        high, low, middle = room.leaky_ends
    torch.sub(high, low, out=room.steps)
    torch.sub(room.upper, room.lower, alpha=4, out=room.factor_ends)
    torch.add(room.step2, room.step1, alpha=2, out=room.factor[3])
    torch.sub(room.step2, room.step1, alpha=2, out=room.factor[4])
    torch.sub(room.inner, middle, alpha=3, out=room.both)
    torch.add(room.both1, room.both0, out=room.factor[1])
    torch.sub(room.both1, room.both0, out=room.factor[2])


def _toom(x: Tensor, weight: Tensor, bias: Tensor, spaced: Spaced, dilation: int, finish: Finish, slope: float) -> None:
    c, o = weight.shape[1:]
    expanded = (x.new_tensor(_EXPAND) @ weight.reshape(3, -1)).view(WINDOW, c, o)
    for first, tiles, phases in _tiles(x, spaced, dilation):
        room = spaced.room(x, tiles, phases, o)
        _evaluate(x, first, tiles, dilation, phases, slope, room)
        torch.bmm(room.factors, expanded, out=room.products)
        room.product1.add_(bias)
        even0, even1, (odd0, odd1) = room.even0, room.even1, room.product[1::2][:2]
        torch.add(room.plus, room.minus, out=room.even)
        room.plus.sub_(room.minus)
        torch.add(odd0, odd1, alpha=2, out=room.sum[1])
        torch.add(even0, even1, alpha=4, out=room.sum[2])
        torch.add(even0.add_(room.product[0]), even1, out=room.sum[0])
        torch.add(odd0.add_(room.product[5]), odd1, alpha=8, out=room.sum[3])
        finish(room.sums, lambda t, a=first, n=TILE * tiles, d=dilation, w=phases: _view(t, a, n, d, w))


def _toom_weight(x: Tensor, grad: Tensor, spaced: Spaced, dilation: int, slope: float) -> Tensor:
    """The transposed algorithm: six products of factors of x and of the gradient, added up over all tiles."""
    c, o = x.shape[1], grad.shape[1]
    total = x.new_zeros(WINDOW, c, o)
    part, start = dilation * o, grad.storage_offset()
    for first, tiles, phases in _tiles(x, spaced, dilation):
        room = spaced.room(x, tiles, phases, o)
        _evaluate(x, first, tiles, dilation, phases, slope, room)
        pairs = (2, tiles, phases, o), (part, TILE * part, o, 1)
        low = grad.as_strided(*pairs, start + first * o)
        high = grad.as_strided(*pairs, start + first * o + 2 * part)
        ends = grad.as_strided(pairs[0], (3 * part, *pairs[1][1:]), start + first * o)
        room.product_ends.copy_(ends)
        torch.add(low, high, out=room.even)
        torch.add(room.even0, room.even1, out=room.product[1])
        torch.sub(room.even0, room.even1, out=room.product[2])
        torch.add(low, high, alpha=4, out=room.even)
        torch.add(room.even0, room.even1, alpha=2, out=room.product[3])
        torch.sub(room.even0, room.even1, alpha=2, out=room.product[4])
        total.baddbmm_(room.factors.transpose(1, 2), room.products)
    return (x.new_tensor(_EXPAND).T @ total.view(WINDOW, -1)).view(3, c, o)
