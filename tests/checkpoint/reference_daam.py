"""The public density-adaptive JEPA's encoder in layers of torch, under its own names: what ours is compared with.

Written from the facts (tokenizer.md, sections 3 to 5): (batch, channels, time) throughout, padding of stride // 2,
dilations 1, 3^i, 5^i without end, statistics over whole clips, no positions. It shares no code with ours.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, STRIDES = (6, 8, 48, 10), (4, 5, 3)
"""48 channels are enough for the fast convolutions of ours."""
HOP = math.prod(STRIDES)
HEADS, CODE_DIM, N_RESIDUAL, N_CONFORMERS = 4, 32, 4, 2


class Snake(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = F.softplus(self.raw) + 0.01
        return x + torch.minimum(1 / a, torch.full_like(a, 10.0)) * torch.sin(a * x).square()


class Residual(nn.Module):
    def __init__(self, width: int, number: int) -> None:
        super().__init__()
        dilations = (1, 3**number, 5**number)
        self.convs1 = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=d, padding=d) for d in dilations)
        self.convs2 = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, 0.1)), 0.1))
        return x


class Gaussians(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.mean_offsets = nn.Parameter(torch.zeros(n))
        self.log_sigma = nn.Parameter(torch.full((n,), math.log(0.5)))

    def forward(self, a: Tensor) -> Tensor:
        mean, spread = a.mean(2, keepdim=True), a.var(2, keepdim=True, unbiased=False).clamp_min(1e-6).sqrt()
        density = torch.zeros_like(a)
        for offset, width in zip(self.mean_offsets, F.softplus(self.log_sigma) + 1e-3, strict=True):
            z = (a - (mean + offset)) / (spread * width + 1e-8)
            density = density + torch.exp(-z.square() / 2) / (width * math.sqrt(2 * math.pi))
        return density / len(self.mean_offsets)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.05))
        self.to_attn, self.gaa = nn.Conv1d(width, 1, 1), Gaussians(4)

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.alpha * self.gaa(self.to_attn(x)))


class Stage(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, gates: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width_in, width, 2 * stride, stride=stride, padding=stride // 2)
        self.snake = Snake(width)
        self.res_blocks = nn.ModuleList(Residual(width, number) for number in range(N_RESIDUAL))
        self.gates = gates
        if gates:
            self.gaatn_gate = Gate(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.snake(self.conv(x))
        for block in self.res_blocks:
            x = block(x)
        return self.gaatn_gate(x) if self.gates else x


def feed_forward(width: int) -> nn.Sequential:
    up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    return nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), nn.Dropout(0.1), down, nn.Dropout(0.1))


class ConformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ff1, self.ff2 = feed_forward(width), feed_forward(width)
        self.norm_attn, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.conv = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv1d(width, 2 * width, 1),
            nn.GLU(1),
            nn.Conv1d(width, width, 31, padding=15, groups=width),
            nn.GroupNorm(1, width),
            nn.SiLU(),
            nn.Conv1d(width, width, 1),
            nn.Dropout(0.1),
        )
        self.norm_final = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d)."""
        x = x + self.ff1(x) / 2
        each = []
        for head in zip(*(part.chunk(HEADS, -1) for part in self.qkv(self.norm_attn(x)).chunk(3, -1)), strict=True):
            q, k, v = head
            each.append((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v)
        x = x + self.out_proj(torch.cat(each, -1))
        x = x + self.conv(x.mT).mT
        return self.norm_final(x + self.ff2(x) / 2)


class Encoder(nn.Module):
    """(b, s) samples of whole hops to (b, n, d) frames."""

    def __init__(self, *, gates: bool = True) -> None:
        super().__init__()
        self.input_conv = nn.Conv1d(1, CHANNELS[0], 7, padding=3)
        pairs = zip(CHANNELS[:-1], CHANNELS[1:], STRIDES, strict=True)
        self.encoder = nn.ModuleList(Stage(*each, gates) for each in pairs)
        self.bottleneck_proj = nn.Conv1d(CHANNELS[-1], CODE_DIM, 1)
        self.conformer_blocks = nn.ModuleList(ConformerBlock(CODE_DIM) for _ in range(N_CONFORMERS))

    def forward(self, samples: Tensor) -> Tensor:
        x = self.input_conv(samples[:, None])
        for stage in self.encoder:
            x = stage(x)
        x = self.bottleneck_proj(x).mT
        for block in self.conformer_blocks:
            x = block(x)
        return x


def encoder(seed: int, *, gates: bool = True) -> Encoder:
    """One whose every tensor matters: nothing is at its beginning, and no branch is small."""
    made, chance = Encoder(gates=gates).eval().requires_grad_(False), torch.Generator().manual_seed(seed)
    for name, tensor in made.named_parameters():
        noise = torch.randn(tensor.shape, generator=chance)
        if "log_sigma" in name or "mean_offsets" in name or "raw" in name:
            tensor.add_(0.7 * noise)
        elif "bias" in name:
            tensor.copy_(0.3 * noise)
        elif tensor.ndim < 2:
            tensor.add_(0.3 * noise)
        else:
            tensor.copy_(noise * (0.6 if "res_blocks" in name else 1.2) / tensor[0].numel() ** 0.5)
    return made


def stage_1(seed: int) -> dict[str, Tensor]:
    """A whole checkpoint: the online encoder of that seed, a teacher of the next, and what only training needs."""
    online, teacher = encoder(seed).state_dict(), encoder(seed + 1).state_dict()
    rest = {"mask_token": torch.ones(1, CODE_DIM, 1), "predictor.0.weight": torch.ones(2 * CODE_DIM, CODE_DIM, 1)}
    return {**online, **{f"target_encoder.{name}": tensor for name, tensor in teacher.items()}, **rest}


def stage_2(seed: int) -> dict[str, Tensor]:
    """A whole checkpoint, in which all of stage 1 lies under encoder."""
    whole = {f"encoder.{name}": tensor for name, tensor in stage_1(seed).items()}
    return {**whole, "decoder.0.deconv.weight": torch.ones(4, 2, 8), "fsq.boundaries.0.bounds": torch.ones(4)}
