"""Training step of a ViT (forward, backward, AdamW) as a share of this machine's own large matrix product.

Only the model's arithmetic counts: a step is three times the forward pass, and a forward pass is, per clip of n tokens,
2 * depth * (12 d^2 n + 2 n^2 d) + 2 n p d operations. What norms, rotations and the optimiser cost shows as a smaller
share.

python benchmarks/train_step.py [--size small --tokens 256 --batch 16 --repeats 5 --threads 2] [--no-record]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import common
import torch

from birdjepa.models.vit import VitConfig

N_VALUES = 256
"""Values in one token: a patch of 16 x 16."""
PRODUCT = 4096
"""Rows and columns of the large product."""
GOALS = {"bfloat16": 0.61, "float32": 0.87}
SETTINGS: dict[str, Callable[[str], VitConfig]] = {
    "default (RoPE, QK-norm)": lambda size: VitConfig(size=size),
    "plain (absolute, no QK-norm)": lambda size: VitConfig(size=size, position="absolute", qk_norm=False),
}


def step_of(config: VitConfig, n_tokens: int, batch: int, dtype: torch.dtype) -> Callable[[], object]:
    """One training step on fixed tokens, ready to call."""
    generator = torch.Generator().manual_seed(0)
    vit = config.build(N_VALUES).initialise(generator)
    optimiser = torch.optim.AdamW(vit.parameters(), lr=1e-4, fused=True)
    tokens = torch.randn(batch, n_tokens, N_VALUES, generator=generator)
    columns = torch.arange(n_tokens) // 8
    grid = torch.stack((0.16 * columns, torch.arange(n_tokens) % 8 - 3.0), -1)[None]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = vit(tokens, grid)
            loss = output.patches.float().mean(1).square().mean() + output.cls.float().square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def product_of(dtype: torch.dtype, size: int = PRODUCT) -> Callable[[], object]:
    """One large square matrix product: what the machine can do."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return lambda: left @ right


def step_flops(config: VitConfig, n_tokens: int, batch: int) -> float:
    """Operations of one step; CLS tokens and registers count as tokens."""
    width, depth, _ = config.dimensions
    n = n_tokens + config.n_cls + config.n_registers
    forward = 2 * depth * (12 * width**2 * n + 2 * n**2 * width) + 2 * n_tokens * N_VALUES * width
    return 3.0 * batch * forward


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        rows += measure(dtype, options)
    notes = [
        f"ViT {options.size}, {options.tokens} tokens, batch {options.batch}, {options.repeats} repeats in turns; the "
        "share is of the 4096^3 product in the same dtype: median of median, and best of best.",
        f"Goals: never below {GOALS['bfloat16']:.0%} in bfloat16 (aim at 70 %) and {GOALS['float32']:.0%} in float32.",
    ]
    common.record("Training step against the machine's matrix product", rows, notes, options)


def measure(dtype: torch.dtype, options: argparse.Namespace) -> list[dict[str, object]]:
    """One row per setting. Steps and products take turns, so that other work on the machine meets both."""
    name = str(dtype).removeprefix("torch.")
    configs = {setting: make(options.size) for setting, make in SETTINGS.items()}
    product = product_of(dtype)
    calls = {s: step_of(config, options.tokens, options.batch, dtype) for s, config in configs.items()}
    for call in (product, *calls.values()):
        call()
    speeds: dict[str, list[float]] = {setting: [] for setting in calls}
    peaks = []
    for _ in range(options.repeats):
        for setting, call in calls.items():
            peaks.append(2 * PRODUCT**3 / _timed(product))
            speeds[setting].append(step_flops(configs[setting], options.tokens, options.batch) / _timed(call))
    best = max(peaks)
    return [
        {
            "dtype": name,
            "model": setting,
            "GFLOP/s": statistics.median(values) / 1e9,
            "product GFLOP/s": statistics.median(peaks) / 1e9,
            "share %": 100 * statistics.median(values) / statistics.median(peaks),
            "best share %": 100 * max(values) / best,
            "goal %": 100 * GOALS[name],
        }
        for setting, values in speeds.items()
    ]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
