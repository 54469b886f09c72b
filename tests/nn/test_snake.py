"""Snake in every layout: its values, its gradients, its dtypes."""

import math

import pytest
import torch
from torch import Tensor

from birdjepa.nn import ragged
from birdjepa.nn.snake import Snake, snake


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_snake(x: Tensor, a: Tensor) -> Tensor:
    return x + torch.minimum(1 / a, torch.tensor(10.0, dtype=a.dtype)) * torch.sin(a * x) ** 2


@pytest.mark.parametrize(("x_shape", "a_shape"), [((2, 4, 9), (4, 1)), ((2, 4, 9), (1, 4, 1)), ((300, 4), (1, 4))])
def test_snake_and_its_gradients_equal_the_formula_where_the_swing_is_capped_too(x_shape, a_shape, monkeypatch) -> None:
    monkeypatch.setattr(ragged, "BLOCK", 1)  # 300 rows are three blocks then
    a = torch.tensor([0.05, 0.0999, 0.703, 3.0], dtype=torch.float64).view(a_shape).requires_grad_()
    x = (3 * random(*x_shape)).double().requires_grad_()
    weight = random(*x_shape, seed=1).double()
    torch.testing.assert_close(snake(x, a), naive_snake(x, a))
    ours = torch.autograd.grad((snake(x, a) * weight).sum(), (x, a))
    theirs = torch.autograd.grad((naive_snake(x, a) * weight).sum(), (x, a))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.autograd.gradcheck(snake, (x[:5], a))


def test_the_module_and_its_gradients() -> None:
    module = Snake(3)
    module.raw = torch.nn.Parameter(torch.tensor([0.0, -9.0, 2.0], dtype=torch.float64))
    x = random(50, 3).double().requires_grad_()
    expected = naive_snake(x, torch.nn.functional.softplus(module.raw) + 0.01)
    torch.testing.assert_close(module(x.float()).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.autograd.gradcheck(lambda x, raw: torch.func.functional_call(module, {"raw": raw}, x), (x, module.raw))


def test_snake_starts_at_a_of_703_thousandths_wherever_its_channels_lie() -> None:
    x = random(2, 5, 7)
    dense, last = Snake(5, 1), Snake(5, -1)
    a = torch.tensor(math.log(2) + 0.01)
    assert a.item() == pytest.approx(0.703, abs=5e-4)
    torch.testing.assert_close(dense(x), naive_snake(x, a))
    with torch.no_grad():
        dense.raw.copy_(torch.arange(5.0) - 4)
        last.raw.copy_(dense.raw)
    torch.testing.assert_close(last(x.mT), dense(x).mT)


def test_snake_keeps_the_dtype_and_takes_its_sine_in_float32() -> None:
    module, x = Snake(4, 1), 20 * random(2, 4, 50)
    rough = module(x.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert torch.equal(rough, module(x.bfloat16().float()).bfloat16())
    leaf = x.bfloat16().requires_grad_()
    module(leaf).float().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16
    assert module.raw.grad is not None
    assert module.raw.grad.dtype == torch.float32
