"""SIGReg against the formula as written, differentiated by autograd: time, peak memory, agreement.

python benchmarks/sigreg.py [--views 8 --examples 512 --width 64 --slices 1024 --repeats 5 --threads 2] [--no-record]
"""

import argparse
import functools
from collections.abc import Callable

import common
import torch
from torch import Tensor

from birdjepa.nn.sigreg import SigregConfig, directions, sigreg

Loss = Callable[[Tensor, Tensor, SigregConfig], Tensor]


def sigreg_naive(z: Tensor, directions: Tensor, config: SigregConfig) -> Tensor:
    """The formula as written: every slice value meets every knot in one large array."""
    t = torch.linspace(0, config.t_max, config.n_knots, dtype=z.dtype, device=z.device)
    phi = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * config.spacing)
    weights[0] = weights[-1] = config.spacing
    x = (z @ directions)[..., None] * t
    error = (x.cos().mean(1) - phi).square() + x.sin().mean(1).square()
    return z.shape[1] * (error @ (weights * phi)).mean()


def step(loss: Loss, z: Tensor, slices: Tensor, config: SigregConfig) -> tuple[Tensor, Tensor]:
    """Value and gradient: one forward and backward pass."""
    z = z.detach().requires_grad_()
    value = loss(z, slices, config)
    value.backward()
    assert z.grad is not None
    return value.detach(), z.grad


def prepare(
    loss: Loss, shape: tuple[int, int, int], n_slices: int, n_threads: int
) -> Callable[[], tuple[Tensor, Tensor]]:
    """One step of `loss`, ready to call; a small one has warmed up torch."""
    torch.set_num_threads(n_threads)
    config = SigregConfig(n_slices=n_slices)
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    slices = directions(0, 0, shape[-1], n_slices, "cpu")
    step(loss, z[:1, :8], slices[:, :8], config)
    return functools.partial(step, loss, z, slices, config)


def difference(got: Tensor, expected: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    shape = (options.views, options.examples, options.width)
    names: dict[str, Loss] = {"formula by autograd": sigreg_naive, "birdjepa": sigreg}
    calls = {name: prepare(loss, shape, options.slices, options.threads) for name, loss in names.items()}
    (plain_value, plain_grad), (value, grad) = (call() for call in calls.values())
    times = common.interleave(calls, options.repeats, warm_up=0)
    peaks = {
        name: common.peak_memory(prepare, loss, shape, options.slices, options.threads) for name, loss in names.items()
    }
    plain = next(iter(names))
    rows = [
        {
            "way": name,
            "forward + backward, median ms": 1e3 * times[name].median,
            "fastest ms": 1e3 * times[name].minimum,
            "times faster (median)": times[plain].median / times[name].median,
            "peak MiB": peaks[name] / 2**20,
            "times less memory": peaks[plain] / peaks[name],
        }
        for name in names
    ]
    sizes = f"V={shape[0]} views, N={shape[1]} examples, K={shape[2]} wide, S={options.slices} slices"
    notes = [
        f"{sizes}, 17 knots on [0, 3], float32, {options.repeats} repeats in turns.",
        f"Relative error: value {difference(value, plain_value):.0e}, gradient {difference(grad, plain_grad):.0e}.",
        "Goals: 4 times faster, 8 times less memory, equal to 1e-5.",
    ]
    common.record("SIGReg: one forward and backward pass", rows, notes, options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--slices", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
