"""SIGReg against an independent oracle, and against values whose distribution has a known characteristic function."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdjepa.nn import sigreg as module
from birdjepa.nn.sigreg import SigregConfig, directions, null_floor, sigreg

DEFAULT = SigregConfig()
LINE = torch.ones(1, 1)
"""The only direction of a one-dimensional embedding: what goes in is the slice."""


def oracle(z: Tensor, slices: Tensor, config: SigregConfig) -> Tensor:
    """N * integral of |empirical - normal CF|^2 exp(-t^2 / 2) over [-t_max, t_max]: complex, two-sided, by autograd."""
    u = torch.einsum("vnk,ks->vsn", z, slices.to(z))
    t = torch.linspace(-config.t_max, config.t_max, 2 * config.n_knots - 1, dtype=z.dtype)
    normal = torch.exp(-t.square() / 2)
    empirical = torch.exp(1j * t * u[..., None]).mean(2)
    gap = (empirical - normal).abs().square()
    return z.shape[1] * torch.trapezoid(gap * normal, t).mean()


def value_and_grad(function, z: Tensor, slices: Tensor, config: SigregConfig) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    value = function(z, slices, config)
    (grad,) = torch.autograd.grad(value, z)
    return value.detach(), grad


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def per_example(points: Tensor) -> float:
    """T / N of a one-dimensional batch."""
    return float(sigreg(points.double().view(1, -1, 1), LINE, DEFAULT)) / len(points)


# ---- known values: facts/objectives.md section 2.2, recomputed there from exact characteristic functions ----

QUANTILES = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
NORMAL = torch.special.ndtri(QUANTILES)


@pytest.mark.parametrize(("point", "expected"), [(0.0, 0.40205), (1.0, 1.18601), (5.0, 3.93996)])
def test_point_mass(point: float, expected: float) -> None:
    assert per_example(torch.full((7,), point)) == pytest.approx(expected, abs=6e-6)


def test_rademacher() -> None:
    assert per_example(torch.tensor([1.0, -1.0] * 5)) == pytest.approx(0.10283, abs=6e-6)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.0, 1.0, 0.0),
        (0.0, 0.1, 0.38688),
        (0.0, 0.5, 0.15119),
        (0.0, 0.9, 0.00514),
        (0.0, 1.1, 0.00450),
        (0.0, 1.5, 0.08425),
        (0.0, 2.0, 0.23609),
        (0.1, 1.0, 0.00482),
        (0.5, 1.0, 0.11812),
        (1.0, 1.0, 0.44434),
        (2.0, 1.0, 1.40837),
    ],
)
def test_normal_with_other_moments(mean: float, std: float, expected: float) -> None:
    assert per_example(mean + std * NORMAL) == pytest.approx(expected, abs=2e-5)


def test_uniform_and_laplace_of_unit_variance() -> None:
    uniform = math.sqrt(12) * (QUANTILES - 0.5)
    laplace = -torch.sign(QUANTILES - 0.5) * torch.log1p(-2 * (QUANTILES - 0.5).abs()) / math.sqrt(2)
    assert per_example(uniform) == pytest.approx(0.01609, abs=2e-5)
    assert per_example(laplace) == pytest.approx(0.01638, abs=2e-5)


@pytest.mark.parametrize("n_examples", [1, 256, 2048])
def test_collapse_grows_with_the_batch_and_has_no_gradient(n_examples: int) -> None:
    value, grad = value_and_grad(sigreg, torch.zeros(2, n_examples, 16), directions(0, 0, 16, 32, "cpu"), DEFAULT)
    assert float(value) == pytest.approx(0.40205 * n_examples, rel=2e-5)
    assert float(grad.abs().max()) == 0.0


def test_null_floor_by_formula_and_by_monte_carlo() -> None:
    assert null_floor(DEFAULT) == pytest.approx(1.0525, abs=5e-5)
    for n_examples in (3, 64):
        scores = torch.stack(
            [sigreg(gaussian(200, n_examples, 8, seed=i), directions(i, 0, 8, 20, "cpu"), DEFAULT) for i in range(20)]
        )
        error = float(scores.std()) / math.sqrt(len(scores))
        assert float(scores.mean()) == pytest.approx(null_floor(DEFAULT), abs=4 * error)
        assert error < 0.01


# ---- against the oracle ----


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 3.0])
def test_equals_oracle_in_float32(scale: float) -> None:
    z, slices = scale * gaussian(3, 200, 24), directions(0, 0, 24, 50, "cpu")
    value, grad = value_and_grad(sigreg, z, slices, DEFAULT)
    for dtype in (torch.float32, torch.float64):
        expected_value, expected_grad = value_and_grad(oracle, z.to(dtype), slices, DEFAULT)
        assert relative(value, expected_value) < 1e-5
        assert relative(grad, expected_grad) < 1e-5


def test_slice_values_up_to_100() -> None:
    z = torch.linspace(-100, 100, 501).view(1, -1, 1)
    value, grad = value_and_grad(sigreg, z, LINE, DEFAULT)
    expected_value, expected_grad = value_and_grad(oracle, z.double(), LINE, DEFAULT)
    assert relative(value, expected_value) < 1e-5
    assert float((grad - expected_grad).abs().max()) < 2e-5 * float(expected_grad.abs().max())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n_knots=st.integers(2, 60),
    t_max=st.floats(0.5, 6.0),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5)),
    n_slices=st.integers(1, 12),
    chunk=st.integers(1, 200),
)
def test_equals_oracle_for_any_knots_shapes_and_chunks(
    n_knots: int, t_max: float, shape: tuple[int, int, int], n_slices: int, chunk: int
) -> None:
    config = SigregConfig(n_knots=n_knots, t_max=t_max, chunk=chunk)
    z, slices = gaussian(*shape, dtype=torch.float64), directions(1, 2, shape[-1], n_slices, "cpu")
    value, grad = value_and_grad(sigreg, z, slices, config)
    expected_value, expected_grad = value_and_grad(oracle, z, slices, config)
    torch.testing.assert_close(value, expected_value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    z = gaussian(2, 5, 3, dtype=torch.float64).requires_grad_()
    slices = directions(0, 0, 3, 4, "cpu").double()
    assert torch.autograd.gradcheck(lambda z: 3 * sigreg(z, slices, SigregConfig(chunk=20)), z)


def test_differentiable_once_and_not_in_directions() -> None:
    z, slices = gaussian(1, 5, 3).requires_grad_(), directions(0, 0, 3, 4, "cpu").requires_grad_()
    value = sigreg(z, slices, DEFAULT).square()
    grad, none = torch.autograd.grad(value, (z, slices), allow_unused=True, create_graph=True)
    assert none is None
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# ---- meaning ----


def test_order_of_examples_does_not_matter() -> None:
    z, slices = gaussian(2, 64, 8, dtype=torch.float64), directions(0, 0, 8, 16, "cpu")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    value, grad = value_and_grad(sigreg, z, slices, DEFAULT)
    shuffled_value, shuffled_grad = value_and_grad(sigreg, z[:, order], slices, DEFAULT)
    torch.testing.assert_close(shuffled_value, value)
    torch.testing.assert_close(shuffled_grad, grad[:, order])


def test_views_are_judged_one_by_one() -> None:
    """A view collapsed at 0 and one at 1 score the mean of two point masses, not the mixture that flattening makes."""
    z = torch.stack((torch.zeros(10, 1), torch.ones(10, 1)))
    assert float(sigreg(z, LINE, DEFAULT)) / 10 == pytest.approx((0.40205 + 1.18601) / 2, abs=1e-5)


def test_chunk_changes_nothing() -> None:
    z, slices = gaussian(2, 30, 8), directions(0, 0, 8, 37, "cpu")
    expected_value, expected_grad = value_and_grad(sigreg, z, slices, SigregConfig(chunk=10**6))
    for chunk in (1, 60 * 5, 60 * 36, 60 * 37):
        value, grad = value_and_grad(sigreg, z, slices, SigregConfig(chunk=chunk))
        torch.testing.assert_close(value, expected_value, rtol=1e-6, atol=0)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-7)


def test_descent_reaches_the_floor() -> None:
    z = (0.1 * gaussian(1, 256, 4)).requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    for step in range(150):
        value = sigreg(z, directions(0, step, 4, 32, "cpu"), DEFAULT)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    z = z.detach()
    assert float(sigreg(z, directions(1, 0, 4, 256, "cpu"), DEFAULT)) < null_floor(DEFAULT)
    assert torch.allclose(z[0].std(0), torch.ones(4), atol=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_values_are_not_hidden(bad: float) -> None:
    z = gaussian(2, 40, 8)
    z[1, 3, 5] = bad
    value, grad = value_and_grad(sigreg, z, directions(0, 0, 8, 16, "cpu"), DEFAULT)
    assert value.isnan()
    assert grad[1].isnan().all()


# ---- precision ----


def test_bfloat16_under_autocast_is_computed_in_float32() -> None:
    z, slices = gaussian(2, 100, 16).bfloat16(), directions(0, 0, 16, 32, "cpu")
    expected_value, expected_grad = value_and_grad(sigreg, z.float(), slices, DEFAULT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = value_and_grad(sigreg, z, slices, DEFAULT)
        _, full_grad = value_and_grad(sigreg, z.float(), slices, DEFAULT)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected_value)
    assert grad.dtype == torch.bfloat16
    assert torch.equal(full_grad, expected_grad)
    assert torch.equal(grad, expected_grad.bfloat16())


def test_float64_stays_float64() -> None:
    assert sigreg(gaussian(1, 4, 2, dtype=torch.float64), directions(0, 0, 2, 3, "cpu"), DEFAULT).dtype == torch.float64


# ---- directions ----


def test_directions_are_unit_columns_of_the_seed_and_the_step() -> None:
    drawn = directions(7, 100, 64, 1024, "cpu")
    assert drawn.shape == (64, 1024)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn.norm(dim=0), torch.ones(1024))
    assert float(drawn.mean(1).norm()) < 2 / math.sqrt(1024)
    assert torch.equal(drawn, directions(7, 100, 64, 1024, "cpu"))
    assert not torch.isclose(drawn, directions(7, 101, 64, 1024, "cpu")).all(0).any()
    assert not torch.isclose(drawn, directions(8, 100, 64, 1024, "cpu")).all(0).any()


def test_directions_and_the_global_generator_leave_each_other_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = directions(0, 0, 8, 8, "cpu")
    sigreg(gaussian(1, 4, 8), first, DEFAULT)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(directions(0, 0, 8, 8, "cpu"), first)


# ---- configuration ----


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_slices", 0),
        ("n_knots", 1),
        ("chunk", 0),
        ("t_max", 0.0),
        ("t_max", -1.0),
        ("t_max", math.inf),
        ("t_max", math.nan),
    ],
)
def test_limits(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(DEFAULT, **{field: value})


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 0, 2)])
def test_an_empty_batch_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one view of one example"):
        sigreg(torch.zeros(shape), directions(0, 0, 2, 3, "cpu"), DEFAULT)


def test_nothing_is_a_parameter() -> None:
    """Knots, normal CF and weights are computed from the configuration: an optimiser has nothing to find here."""
    assert not [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, torch.nn.Module)
    ]
    assert "Parameter" not in Path(module.__file__).read_text()
