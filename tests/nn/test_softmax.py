"""The softmax over many classes: equal to the dense one in value and gradient, and never as large as its logits."""

import pytest
import torch
from torch.nn import functional as F

from birdjepa.nn import softmax
from birdjepa.nn.softmax import linear_cross_entropy


def problem(n_classes: int = 1003, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(n_classes, 12, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return x, weight, torch.tensor([0, 1, 5, n_classes - 1, 5, 300, 299])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.8])
@pytest.mark.parametrize("tile", [1 << 22, 7 * 100, 7])
def test_value_and_gradients_equal_the_dense_loss(smoothing: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "TILE", tile)
    x, weight, target = problem(dtype=torch.float32)
    (3.0 * linear_cross_entropy(x, weight, target, smoothing)).backward()
    dense_x, dense_weight, _ = problem()
    dense = F.cross_entropy(dense_x @ dense_weight.T, target, label_smoothing=smoothing)
    (3.0 * dense).backward()
    assert float(linear_cross_entropy(x, weight, target, smoothing).detach()) == pytest.approx(
        float(dense.detach()), rel=1e-6
    )
    torch.testing.assert_close(x.grad.double(), dense_x.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), dense_weight.grad, rtol=1e-5, atol=1e-6)


def test_no_tensor_is_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "TILE", 7 * 50)
    x, weight, target = problem(dtype=torch.float32)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[:1] == (7,):
                self.largest = max(self.largest, out.numel())
            return out

    with Watch() as watch:
        linear_cross_entropy(x, weight, target, 0.8).backward()
    assert 0 < watch.largest <= 7 * 50


def test_a_bad_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\)"):
        linear_cross_entropy(*problem(dtype=torch.float32), smoothing=1.0)
