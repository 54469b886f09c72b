"""Convolutions within stretches equal torch's own of each stretch by itself, values and gradients, however done."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from birdjepa.nn import ragged, spaced
from birdjepa.nn.ragged import Stretches
from birdjepa.nn.spaced import Spaced, residual_pair

LONG, MIXED, SHORT, SINGLE = (1400, 900), (700, 40, 3, 1), (7,) * 90, (1, 1, 2)


def of(lengths: tuple[int, ...]) -> Stretches:
    """Every stretch but the first belongs to the second clip."""
    return Stretches(lengths, [min(i, 1) for i in range(len(lengths))], min(2, len(lengths)), "cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def conv(x: Tensor, weight: Tensor, bias: Tensor, **settings: int) -> Tensor:
    """torch's convolution of one stretch, in float64."""
    return F.conv1d(x.double().T[None], weight.double().permute(2, 1, 0), bias.double(), **settings)[0].T


def assert_equal(got: Tensor, expected: Tensor, inputs: list[Tensor], rtol: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=rtol * float(expected.detach().abs().max()))
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    ours, theirs = (torch.autograd.grad(y, inputs, upstream.to(y.dtype)) for y in (got, expected))
    for mine, true in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=rtol * float(true.abs().max()) + 1e-9)


@pytest.mark.parametrize("lengths", [LONG, MIXED, SHORT, SINGLE])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (7, 1), (3, 9), (5, 2), (3, 899), (3, 5000)])
def test_convolution(lengths: tuple[int, ...], kernel: int, dilation: int) -> None:
    stretches = of(lengths)
    x, weight, bias = random(stretches.n_rows, 5), random(kernel, 5, 6, seed=1), random(6, seed=2)
    padding = dilation * (kernel // 2)
    parts = [conv(part, weight, bias, padding=padding, dilation=dilation) for part in x.split(list(lengths))]
    got = ragged.convolve(x, weight, bias, stretches, dilation=dilation)
    assert_equal(got, torch.cat(parts), [x, weight, bias])


def test_long_stretches_on_a_cpu_have_products_of_their_own() -> None:
    assert ragged.is_long(of(LONG))
    assert not ragged.is_long(of(SHORT))
    assert not ragged.is_long(Stretches(LONG, (0, 1), 2, "meta"))


def test_blocks_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    stretches, (x, weight, bias) = of(LONG), (random(2300, 5), random(3, 5, 6, seed=1), random(6, seed=2))
    expected = ragged.convolve(x, weight, bias, stretches, dilation=9).double()
    monkeypatch.setattr(ragged, "BLOCK", 1)
    assert ragged.block_rows(x) == 128
    assert_equal(ragged.convolve(x, weight, bias, stretches, dilation=9), expected, [x, weight, bias])


@pytest.mark.parametrize("padding", ["ours", "legacy"])
@pytest.mark.parametrize("step", [1, 2, 5, 8])
@pytest.mark.parametrize("hops", [(30, 20), (1, 2, 9, 1), (2,) * 40])
def test_strides(step: int, hops: tuple[int, ...], padding: str) -> None:
    pad = -(-step // 2) if padding == "ours" else step // 2
    lengths = tuple(step * n for n in hops)
    if any((length + 2 * pad - 2 * step) // step + 1 < 1 for length in lengths):
        with pytest.raises(ValueError, match="at least one row"):
            of(lengths).divided(2 * step, step, pad)
        return
    stretches = of(lengths)
    x, weight, bias = random(stretches.n_rows, 3), random(2 * step, 3, 4, seed=1), random(4, seed=2)
    parts = [conv(part, weight, bias, stride=step, padding=pad) for part in x.split(list(lengths))]
    got, divided = ragged.stride(x, weight, bias, stretches, step=step, padding=pad)
    assert divided.lengths == tuple(len(part) for part in parts)
    assert padding == "legacy" or step == 1 or divided.lengths == hops
    assert_equal(got, torch.cat(parts), [x, weight, bias])


def test_a_stride_of_stretches_that_are_not_whole_steps() -> None:
    lengths = (17, 23, 11)
    stretches = of(lengths)
    x, weight, bias = random(stretches.n_rows, 3), random(10, 3, 4, seed=1), random(4, seed=2)
    parts = [conv(part, weight, bias, stride=5, padding=3) for part in x.split(list(lengths))]
    assert_equal(ragged.stride(x, weight, bias, stretches, step=5, padding=3)[0], torch.cat(parts), [x, weight, bias])


@pytest.mark.parametrize("padding", ["ours", "legacy"])
@pytest.mark.parametrize("step", [1, 2, 5, 8])
@pytest.mark.parametrize("hops", [(30, 20), (2, 2, 9, 3)])
def test_entering_equals_a_convolution_and_then_a_stride(step: int, hops: tuple[int, ...], padding: str) -> None:
    pad = -(-step // 2) if padding == "ours" else step // 2
    stretches = of(tuple(step * n for n in hops))
    x, bias1, bias2 = random(stretches.n_rows, 1), random(6, seed=2), random(4, seed=4)
    weight1, weight2 = random(7, 1, 6, seed=1), random(2 * step, 6, 4, seed=3)
    expected = []
    for part in x.split(list(stretches.lengths)):
        expected.append(conv(conv(part, weight1, bias1, padding=3), weight2, bias2, stride=step, padding=pad))
    got, divided = ragged.enter(x, weight1, bias1, weight2, bias2, stretches, step=step, padding=pad)
    assert divided.lengths == tuple(len(part) for part in expected)
    assert_equal(got, torch.cat(expected), [x, weight1, bias1, weight2, bias2])


def pair(x: Tensor, weights: list[Tensor], stretches: Stretches, dilation: int, slope: float) -> Tensor:
    parts = []
    for part in x.double().split(list(stretches.lengths)):
        inside = conv(F.leaky_relu(part, slope), *weights[:2], padding=dilation, dilation=dilation)
        parts.append(part + conv(F.leaky_relu(inside, slope), *weights[2:], padding=1))
    return torch.cat(parts)


# A slope of 1 bends nothing: where an inside is almost 0, rounding would choose the side, and with it the gradient.
@pytest.mark.parametrize("slope", [1.0, 0.1])
@pytest.mark.parametrize("dilation", [1, 2, 9, 60, 899, 5000])
@pytest.mark.parametrize(("lengths", "channels"), [(LONG, 48), (LONG, 5), (MIXED, 48), (SHORT, 50), (SINGLE, 48)])
def test_residual_pairs(lengths: tuple[int, ...], channels: int, dilation: int, slope: float) -> None:
    stretches = of(lengths)
    room = Spaced(stretches, sorted({1, dilation}))
    x = random(stretches.n_rows, channels)
    shapes = ((3, channels, channels), (channels,)) * 2
    weights = [(random(*shape, seed=i).detach() / 12).requires_grad_() for i, shape in enumerate(shapes)]
    got = room.close(residual_pair(room.open(x), *weights, room, dilation=dilation, slope=slope))
    expected = pair(x, weights, stretches, dilation, slope)
    if slope == 1:
        assert_equal(got, expected, [x, *weights])
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        spread = room.open(x)
        again = residual_pair(spread, *weights, room, dilation=dilation, slope=slope)
        assert again is spread
        assert torch.equal(room.close(again), got)
        assert not again[room.between].any()


@pytest.mark.parametrize("way", ["toom", "shifted", "gathered"])
def test_every_way_gives_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaced.Spaced, "way", lambda *_: way)
    monkeypatch.setattr(spaced, "COST", {"toom": 0.0, "shifted": 1.0, "gathered": 1.0, "alone": 1.0})
    monkeypatch.setattr(ragged, "BLOCK", 1 << 13)  # several blocks
    stretches = of((1500, 900, 300))
    x = random(stretches.n_rows, 16)
    shapes = ((3, 16, 16), (16,)) * 2
    weights = [(random(*shape, seed=i).detach() / 7).requires_grad_() for i, shape in enumerate(shapes)]
    for dilation in (1, 3, 40):
        room = Spaced(stretches, (1, dilation))
        assert room.gap == 5 * dilation
        got = room.close(residual_pair(room.open(x), *weights, room, dilation=dilation, slope=1.0))
        assert_equal(got, pair(x, weights, stretches, dilation, 1.0), [x, *weights])


def test_the_way_follows_from_lengths_channels_and_dtype() -> None:
    room, wide = Spaced(of(LONG), (1, 1, 1, 1, 9, 625, 3125)), torch.empty(1, 64)
    assert room.gap == 5 * 9
    assert [room.way(dilation, wide) for dilation in (1, 9, 10, 3125)] == ["toom", "toom", "shifted", "alone"]
    assert {room.way(9, wide[:, :16]), room.way(9, wide.double()), room.way(9, wide.to("meta"))} == {"shifted"}
    many = Spaced(of(SHORT), (1, 5, 7))
    assert many.gap == 1  # seven rows leave no room
    assert [many.way(dilation, wide) for dilation in (1, 5, 7)] == ["shifted", "gathered", "alone"]


@pytest.mark.parametrize("lengths", [(600, 500, 400), (31,) * 60])
@pytest.mark.parametrize("dilation", [1, 3, 9, 200])
def test_stretches_know_nothing_of_each_other(lengths: tuple[int, ...], dilation: int) -> None:
    """Not even by rounding, or by what is no number."""
    stretches = of(lengths)
    room = Spaced(stretches, (1, dilation))
    weights = [random(*shape, seed=i).detach() / 12 for i, shape in enumerate(((3, 48, 48), (48,)) * 2)]
    x = random(stretches.n_rows, 48)
    first, last = stretches.spans()[1]
    got = room.close(residual_pair(room.open(x), *weights, room, dilation=dilation, slope=0.1))
    got[first:last].sum().backward()
    assert x.grad[first:last].any()
    assert not torch.cat((x.grad[:first], x.grad[last:])).any()
    with torch.no_grad():
        x[first:last] = torch.inf
        again = room.close(residual_pair(room.open(x), *weights, room, dilation=dilation, slope=0.1))
    outside = [torch.cat((y[:first], y[last:])) for y in (got, again)]
    assert torch.equal(*outside)


def test_a_pair_keeps_its_input_and_its_inside() -> None:
    stretches = of(LONG)
    room = Spaced(stretches, (1, 3))
    weights = [random(*shape, seed=i) for i, shape in enumerate(((3, 48, 48), (48,)) * 2)]
    x, kept = room.open(random(stretches.n_rows, 48)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        residual_pair(x, *weights, room, dilation=3, slope=0.1)
    assert sorted(kept) == [3 * 48 * 48, 3 * 48 * 48, x.numel(), x.numel()]


def test_sums_and_what_a_clip_has_for_each_row() -> None:
    stretches = Stretches([2, 3, 1], [0, 1, 1], 2, "cpu")
    values = torch.arange(6.0)[:, None]
    assert stretches.rows_of_clip.tolist() == [2, 4]
    assert stretches.sum(values).tolist() == [[1.0], [14.0]]
    assert stretches.spread(torch.tensor([[5.0], [7.0]]))[:, 0].tolist() == [5, 5, 7, 7, 7, 7]
    assert stretches.spans() == [(0, 2), (2, 5), (5, 6)]
    assert stretches.position_of_row.tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize(("lengths", "clips", "n"), [((3, 0), (0, 1), 2), ((3,), (0,), 2), ((3, 3), (1, 0), 2)])
def test_bad_stretches_are_refused(lengths: tuple[int, ...], clips: tuple[int, ...], n: int) -> None:
    with pytest.raises(ValueError, match="in their order"):
        Stretches(lengths, clips, n, "cpu")


def test_runs_of_what_is_visible() -> None:
    visible = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
    assert ragged.runs(visible) == [(0, 0, 2), (0, 3, 1), (2, 1, 3)]


def test_autocast_decides_the_dtype() -> None:
    stretches = of((64, 32))
    room, x = Spaced(stretches, (1,)), random(96, 8)
    weights = [random(*shape, seed=i) for i, shape in enumerate(((3, 8, 8), (8,)) * 2)]
    exact = residual_pair(room.open(x), *weights, room, dilation=1, slope=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = residual_pair(room.open(x), *weights, room, dilation=1, slope=0.1)
        assert ragged.convolve(x, weights[0], weights[1], stretches).dtype == torch.bfloat16
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05 * float(exact.detach().abs().max()))
    rough.sum().backward()
    assert x.grad.dtype == torch.float32
