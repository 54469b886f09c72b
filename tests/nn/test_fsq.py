"""Finite scalar quantisation: levels, codes and where the gradient goes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdjepa.nn.fsq import Fsq, FsqConfig


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nearest(z: np.ndarray, levels: tuple[int, ...], temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The definition word by word: distances to all points, one number at a time."""
    values, indices = np.empty_like(z), np.empty(z.shape, dtype=np.int64)
    width = z.shape[-1] // len(levels)
    for where in np.ndindex(z.shape):
        n = levels[where[-1] // width]
        points = [temperature * (-1 + 1 / n + i * (2 - 2 / n) / (n - 1)) for i in range(n)]
        bounded = temperature * math.tanh(z[where] / temperature)
        distances = [abs(bounded - point) for point in points]
        indices[where] = int(np.argmin(distances))
        values[where] = points[indices[where]]
    return values, indices


@pytest.mark.parametrize(("levels", "temperature"), [((4,), 1.0), ((8, 5, 3, 2), 1.0), ((7, 4), 0.3), ((16,), 2.5)])
def test_equals_the_definition(levels: tuple[int, ...], temperature: float) -> None:
    z = normal(2, 9, 8, scale=1.5).double()
    values, indices = FsqConfig(levels=levels, temperature=temperature).build(8).quantise(z)
    expected_values, expected_indices = nearest(z.numpy(), levels, temperature)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)
    np.testing.assert_allclose(values.numpy(), expected_values, atol=1e-6)


def test_four_levels_as_published() -> None:
    """Points at -0.75 to 0.75; thresholds in z at 0 and +-0.549; for a standard normal z 1.98 bits a dimension."""
    fsq = FsqConfig().build(4)
    z = torch.tensor([-9.0, -0.55, -0.548, -1e-30, 1e-30, 0.548, 0.55, 9.0]).view(1, 8, 1).expand(1, 8, 4)
    values, indices = fsq.quantise(z)
    assert indices[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert values[0, :, 0].tolist() == [-0.75, -0.75, -0.25, -0.25, 0.25, 0.25, 0.75, 0.75]
    shares = torch.bincount(fsq.quantise(normal(1, 50_000, 4)).indices.flatten()) / 200_000
    torch.testing.assert_close(shares, torch.tensor([0.291, 0.209, 0.209, 0.291]), atol=4e-3, rtol=0)
    assert -(shares * shares.log2()).sum() == pytest.approx(1.98, abs=5e-3)


def test_levels_lie_in_equal_blocks() -> None:
    config = FsqConfig(levels=(8, 5))
    assert config.levels_of(6) == (8, 8, 8, 5, 5, 5)
    indices = config.build(6).quantise(normal(1, 500, 6, scale=5.0)).indices
    assert indices.flatten(0, 1).amax(0).tolist() == [7, 7, 7, 4, 4, 4]
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_every_level_is_in_reach_at_any_temperature(temperature: float) -> None:
    indices = FsqConfig(levels=(5,), temperature=temperature).build(1).quantise(normal(1, 4000, 1, scale=9.0)).indices
    assert len(indices.unique()) == 5


def test_temperature_is_the_unit_of_z() -> None:
    z, at_one, at_three = normal(2, 5, 6), FsqConfig().build(4), FsqConfig(temperature=3.0).build(4)
    z = z[..., :4]
    one, three = at_one.quantise(z), at_three.quantise(3 * z)
    assert torch.equal(one.indices, three.indices)
    torch.testing.assert_close(three.values, 3 * one.values)


def test_a_tie_takes_the_level_above() -> None:
    z = torch.zeros(1, 1, 2)
    assert FsqConfig(levels=(4,)).build(2).quantise(z).indices.tolist() == [[[2, 2]]]
    assert FsqConfig(levels=(5,)).build(2).quantise(z).indices.tolist() == [[[2, 2]]]
    assert FsqConfig(levels=(2,)).build(2).quantise(z).indices.tolist() == [[[1, 1]]]


@given(st.lists(st.integers(2, 20), min_size=1, max_size=4), st.floats(0.05, 20.0), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_codes_and_values_go_round(levels: list[int], temperature: float, seed: int) -> None:
    """What the tanh makes to a level has that level's code."""
    fsq = FsqConfig(levels=tuple(levels), temperature=temperature).build(2 * len(levels))
    radices = torch.tensor(fsq.radices)
    indices = (torch.rand(2, 7, len(radices), generator=torch.Generator().manual_seed(seed)) * radices).long()
    values = fsq.values_of(indices)
    before_the_tanh = temperature * torch.atanh(values.double() / temperature)
    again = fsq.quantise(before_the_tanh.float())
    assert torch.equal(again.indices, indices)
    assert torch.equal(again.values, values)


def test_values_of_codes_are_exactly_the_values() -> None:
    fsq = FsqConfig(levels=(7, 5)).build(10)
    values, indices = fsq.quantise(normal(3, 50, 10))
    assert torch.equal(fsq.values_of(indices), values)


def test_gradient_skips_the_rounding_and_not_the_tanh() -> None:
    z = normal(2, 3, 4).requires_grad_()
    FsqConfig(temperature=0.7).build(4).quantise(z).values.sum().backward()
    torch.testing.assert_close(z.grad, 1 - torch.tanh(z.detach() / 0.7).square())


def test_a_vector_has_its_codes_wherever_it_lies() -> None:
    """Alone, in a batch, in a longer stretch and in another memory order, to the last bit."""
    fsq, z = FsqConfig(levels=(16, 5)).build(6), normal(5, 33, 6)
    whole = fsq.quantise(z)
    alone = [fsq.quantise(z[i : i + 1, t : t + 1]).indices for i in range(5) for t in range(33)]
    assert torch.equal(torch.cat(alone).view(5, 33, 6), whole.indices)
    other_order = fsq.quantise(z.mT.contiguous().mT)
    assert torch.equal(other_order.indices, whole.indices)
    assert torch.equal(other_order.values, whole.values)


def test_autocast_does_not_touch_it() -> None:
    fsq, z = FsqConfig().build(4), normal(2, 30, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fsq.quantise(z)
    assert inside.values.dtype == torch.float32
    assert torch.equal(inside.indices, fsq.quantise(z).indices)
    assert fsq.quantise(z.bfloat16()).values.dtype == torch.float32
    assert fsq.quantise(z.double()).values.dtype == torch.float64


def test_what_is_not_a_number_stays_visible() -> None:
    z = torch.tensor([[[math.nan, math.inf, -math.inf, 0.1]]])
    values, indices = FsqConfig(levels=(3, 4)).build(4).quantise(z)
    assert values[0, 0].isnan().tolist() == [True, False, False, False]
    assert indices[0, 0, 1:].tolist() == [2, 0, 2]
    assert 0 <= int(indices[0, 0, 0]) < 3


def test_nothing_trains_and_nothing_is_saved() -> None:
    fsq = FsqConfig().build(8)
    assert list(fsq.parameters()) == []
    assert fsq.state_dict() == {}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FsqConfig(levels=()), "levels must be"),
        (lambda: FsqConfig(levels=(4, 1)), "at least 2"),
        (lambda: FsqConfig(temperature=0.0), "temperature must be positive"),
        (lambda: FsqConfig().levels_of(10), "4 equal blocks, which do not divide 10"),
        (lambda: FsqConfig().levels_of(0), "do not divide 0"),
    ],
)
def test_refuses(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("code", [-1, 5])
def test_refuses_codes_that_are_none(code: int) -> None:
    fsq: Fsq = FsqConfig(levels=(8, 5)).build(4)
    indices = torch.zeros(2, 3, 4, dtype=torch.int64)
    indices[1, 2, 3] = code
    with pytest.raises(ValueError, match=rf"code {code} of dimension 3 in frame 2 is not in \[0, 5\)"):
        fsq.values_of(indices)
