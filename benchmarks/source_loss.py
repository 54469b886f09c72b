"""The loss over very many sources: ours against dense logits and PyTorch's chunked one, time and peak memory.

500,000 sources, width 384, batch 256, forward and backward, each way in a fresh process. The gradient of the classifier
itself (500,000 x 384 numbers) is part of every way's memory.

    python benchmarks/source_loss.py
"""

import time
from collections.abc import Callable

import common
import torch
from torch.nn import functional as F

from birdjepa.nn.softmax import linear_cross_entropy

BATCH, WIDTH = 256, 384


def inputs(n_sources: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, WIDTH, generator=generator).requires_grad_()
    weight = torch.randn(n_sources, WIDTH, generator=generator).mul_(0.05).requires_grad_()
    return x, weight, torch.randint(0, n_sources, (BATCH,), generator=generator)


def dense(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
    return F.cross_entropy(x @ weight.T, target, label_smoothing=smoothing)


def torchs(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
    """PyTorch's chunked loss; it has no chunks under label smoothing, so it is measured without."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=32, chunking_method=None)
    return F.linear_cross_entropy(x, weight, target, options=options)


WAYS = {"dense": dense, "torch linear_cross_entropy": torchs, "birdjepa": linear_cross_entropy}


def prepare(way: str, n_sources: int, smoothing: float) -> Callable[[], object]:
    x, weight, target = inputs(n_sources)
    return lambda: WAYS[way](x, weight, target, smoothing).backward()


def seconds(way: str, n_sources: int, smoothing: float) -> float:
    call = prepare(way, n_sources, smoothing)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def error(n_sources: int, smoothing: float) -> tuple[float, float]:
    """Relative error of our value and of our gradients against the dense loss."""
    found = []
    for way in (dense, linear_cross_entropy):
        x, weight, target = inputs(n_sources)
        loss = way(x, weight, target, smoothing)
        loss.backward()
        found.append((loss.detach(), x.grad, weight.grad))
    (a, ax, aw), (b, bx, bw) = found
    worst = max(float((one - other).abs().max() / one.abs().max()) for one, other in ((ax, bx), (aw, bw)))
    return float((a - b).abs() / a.abs()), worst


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--sources", type=int, default=500_000)
    options = parser.parse_args()
    ways = [way for way in WAYS if way != "torch linear_cross_entropy" or hasattr(F, "linear_cross_entropy")]
    rows = []
    logits_mib = BATCH * options.sources * 4 / 2**20
    gradient_mib = WIDTH * options.sources * 4 / 2**20
    for way in ways:
        smoothing = 0.0 if way.startswith("torch") else 0.8
        peak = common.peak_memory(prepare, way, options.sources, smoothing) / 2**20
        rows.append(
            {
                "way": way,
                "smoothing": smoothing,
                "s": seconds(way, options.sources, smoothing),
                "peak MiB": peak,
                "of it beside the classifier's gradient": max(0.0, peak - gradient_mib),
            }
        )
    value, gradient = error(20_000, 0.8)
    notes = [
        f"{options.sources:,} sources, width {WIDTH}, batch {BATCH}, float32, forward and backward",
        f"logits alone would be {logits_mib:.0f} MiB; the classifier's gradient is {gradient_mib:.0f} MiB in every way",
        f"at 20,000 sources: value {value:.1e} and gradients {gradient:.1e} relative to the dense loss",
    ]
    common.record("The loss over 500,000 sources", rows, notes, options)


if __name__ == "__main__":
    main()
