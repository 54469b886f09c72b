"""The waveform encoder against the public system's architecture, written plainly: forward, training step, peak memory.

The plain encoder has the same layers and weights as ours in torch's own (batch, channels, time) layers, in float32, and
gives the same frames (tests/models/test_waveform_parity.py). Its training step runs as the public one does: the online
encoder, its averaged copy, and the online encoder once more only to learn how many frames there are. Ours hears half of
the frames, in spans of 5, for masks come before the network; a last row has it hear everything.

python benchmarks/waveform.py [--preset reference --clip-s 15 --batch 2 --repeats 3 --threads 2] [--no-record]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.models.waveform import BLOCK_DILATIONS, NORM_EPS, PRESETS, SLOPE, Waveform, WaveformConfig

SPAN = 5
GOAL = 1.5
MOMENTUM = 0.996
LAYERS = ("input.", ".down.", ".dilated.", ".plain.")
"""Convolutions that lie the other way round in our encoder."""


def config_of(preset: str) -> WaveformConfig:
    """What the public system has of ours."""
    reach = {"reach": 0, "conv_norm": "clip", "rope": False, "dilation_cycle": 8}
    return WaveformConfig(preset=preset, **reach)  # pyright: ignore[reportArgumentType]


class PlainEncoder(nn.Module):
    """(b, s) samples, whole hops, to (b, n, d) frames."""

    def __init__(self, config: WaveformConfig) -> None:
        super().__init__()
        shape = config.shape
        self.input = nn.Conv1d(1, shape.channels[0], 7, padding=3)
        widths = zip(shape.channels[:-1], shape.channels[1:], shape.strides, strict=True)
        self.stages = nn.ModuleList(PlainStage(config, *each) for each in widths)
        self.project = nn.Conv1d(shape.channels[-1], shape.code_dim, 1)
        conformers = (PlainConformer(shape.code_dim, shape.heads, config.kernel) for _ in range(shape.n_conformers))
        self.conformers = nn.ModuleList(conformers)

    def forward(self, samples: Tensor) -> Tensor:
        x = self.input(samples[:, None])
        for stage in self.stages:
            x = stage(x)
        x = self.project(x).transpose(1, 2)
        for conformer in self.conformers:
            x = conformer(x)
        return x

    def take(self, ours: Waveform) -> "PlainEncoder":
        """Our weights."""
        mine = self.state_dict()
        for name, tensor in ours.state_dict().items():
            turned = tensor.permute(2, 1, 0) if any(part in name for part in LAYERS) and tensor.ndim == 3 else tensor
            mine[name].copy_(turned.reshape(mine[name].shape))
        return self


class PlainStage(nn.Module):
    def __init__(self, config: WaveformConfig, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        padding = stride // 2 if config.legacy_padding else -(-stride // 2)
        self.down = nn.Conv1d(width_in, width, 2 * stride, stride=stride, padding=padding)
        self.snake = PlainSnake(width)
        self.blocks = nn.ModuleList(
            PlainBlock(width, [base ** (block % config.dilation_cycle) for base in BLOCK_DILATIONS])
            for block in range(config.shape.n_res_blocks)
        )
        self.gate = nn.ModuleList([PlainGate(width, config.components)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.snake(self.down(x))
        for block in self.blocks:
            x = block(x)
        return self.gate[0](x)


class PlainBlock(nn.Module):
    def __init__(self, width: int, dilations: list[int]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.plain = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.dilated, self.plain, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class PlainSnake(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        frequency = (F.softplus(self.raw) + 0.01)[:, None]
        return x + torch.sin(frequency * x) ** 2 * (1 / frequency).clamp(max=10.0)


class PlainGate(nn.Module):
    def __init__(self, width: int, components: int) -> None:
        super().__init__()
        self.score = nn.Conv1d(width, 1, 1)
        self.offset, self.scale = nn.Parameter(torch.zeros(components)), nn.Parameter(torch.zeros(components))
        self.strength = nn.Parameter(torch.tensor(0.05))

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        mean, variance = score.mean(-1, keepdim=True), score.var(-1, keepdim=True, unbiased=False)
        scale = (F.softplus(self.scale) + 1e-3)[:, None]
        z = (score - (mean + self.offset[:, None])) / (variance.clamp_min(1e-6).sqrt() * scale + 1e-8)
        density = torch.distributions.Normal(0.0, 1.0).log_prob(z) - scale.log()
        return x * (1 + self.strength * density.exp().mean(1, keepdim=True))


class PlainConformer(nn.Module):
    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.heads = heads
        self.feed1, self.feed2 = PlainFeed(width), PlainFeed(width)
        self.norm, self.last = nn.LayerNorm(width, eps=NORM_EPS), nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.convolution = nn.ModuleDict(
            {
                "norm1": nn.GroupNorm(1, width, eps=NORM_EPS),
                "widen": nn.Conv1d(width, 2 * width, 1),
                "depthwise": nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width),
                "norm2": nn.GroupNorm(1, width, eps=NORM_EPS),
                "narrow": nn.Conv1d(width, width, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed1(x)
        qkv = self.attention["qkv"](self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = x + self.attention["proj"](attended)
        c = self.convolution
        inside = c["depthwise"](F.glu(c["widen"](c["norm1"](x.transpose(1, 2))), 1))
        x = x + c["narrow"](F.silu(c["norm2"](inside))).transpose(1, 2)
        return self.last(x + 0.5 * self.feed2(x))


class PlainFeed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm(x))))


WAYS = ("plain forward", "our forward", "plain step", "our step", "our step, hears everything")
ROWS = {"forward": WAYS[:2], "training step": WAYS[2:4], "training step, hears everything": (WAYS[2], WAYS[4])}


def call_of(way: str, preset: str, clip_s: float, batch: int, threads: int) -> Callable[[], object]:
    """One forward pass or one training step with AdamW and the averaged copy, ready to call."""
    torch.set_num_threads(threads)
    config = config_of(preset)
    ours = config.build().initialise(torch.Generator().manual_seed(0))
    network = ours if way.startswith("our") else PlainEncoder(config).take(ours)
    n_frames = config.n_frames(round(clip_s * config.shape.sampling_rate))
    clips = 0.1 * torch.randn(batch, n_frames * config.hop, generator=torch.Generator().manual_seed(1))
    if "forward" in way:
        return torch.no_grad()(lambda: network(clips))
    teacher = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    visible = ((torch.arange(n_frames) // SPAN) % 2 == 0).expand(batch, -1)
    if "everything" in way:
        visible = torch.ones_like(visible)

    def loss() -> Tensor:
        if isinstance(network, Waveform):
            frames = network(clips, None, visible)
            with torch.no_grad():
                target = teacher(clips).values
            return ((frames.values - target).square() * frames.kept[..., None]).mean()
        frames = network(clips)
        with torch.no_grad():
            target = teacher(clips)
            network(clips)  # how many frames there are
        return (frames - target).square().mean()

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(network.parameters()), 1 - MOMENTUM)

    return step


def main() -> None:
    options = parse()
    settings = (options.preset, options.clip_s, options.batch, options.threads)
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}

    def clocked(way: str) -> Callable[[], object]:
        call = call_of(way, *settings)

        def clock() -> None:
            start = time.process_time()
            call()
            cpu[way].append(time.process_time() - start)

        return clock

    memory = {way: common.peak_memory(call_of, way, *settings) / 2**20 for way in WAYS}
    wall: dict[str, common.Timing] = {}
    for ways in (WAYS[:2], WAYS[2:]):  # not more networks in memory than needed
        wall |= common.interleave({way: clocked(way) for way in ways}, options.repeats)
    rows: list[dict[str, object]] = []
    for name, (plain, ours) in ROWS.items():
        cpu_s = [statistics.median(cpu[way][1:]) for way in (plain, ours)]
        rows.append(
            {
                "what": name,
                "plain s": wall[plain].median,
                "ours s": wall[ours].median,
                "times faster": wall[plain].median / wall[ours].median,
                "by CPU time": cpu_s[0] / cpu_s[1],
                "plain MiB": memory[plain],
                "ours MiB": memory[ours],
                "times less": memory[plain] / memory[ours],
            }
        )
    shape = PRESETS[options.preset]
    notes = [
        f"Preset {options.preset}: {options.batch} clips of {options.clip_s:g} s at {shape.sampling_rate} Hz, float32; "
        f"{options.repeats} repeats in turns, medians. Memory is the peak above what the networks hold, in processes "
        "of their own; a step's includes its gradients and AdamW's moments.",
        f"Goal: forward and training step {GOAL} times faster than plain, with less memory.",
    ]
    common.record("Waveform encoder against the public architecture written plainly", rows, notes, options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--preset", default="reference", choices=sorted(PRESETS))
    parser.add_argument("--clip-s", type=float, default=15.0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
