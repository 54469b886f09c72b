"""The Conformer block: half a feed-forward, self-attention, a convolution over time, half a feed-forward, a norm.

Moments that are padding, or hidden, are kept out of everything: nobody attends to them, the convolution reads zeros
there, and statistics over a clip leave them out.

Axes: b clips | n frames | d width | h heads | k head width
Source: Gulati et al. 2020, "Conformer", arXiv 2005.08100.
"""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.nn.block import Attention, Mlp
from birdjepa.nn.norm import LayerNorm
from birdjepa.nn.position import rotary

Norm = Literal["frame", "clip"]


class Conformer(nn.Module):
    """A block of width d on the frames that are `kept`."""

    def __init__(self, width: int, heads: int, *, kernel: int, reach: int, rope: bool, norm: Norm, eps: float) -> None:
        """reach: frames on either side that attention looks at; 0 is the whole clip. norm: what the convolution's norms
        take their statistics over.

        Raises:
          ValueError: if the kernel is even, or a norm over clips is to have a reach.
        """
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        if reach and norm == "clip":
            raise ValueError(f"norm='clip' takes statistics over the whole clip: it needs reach=0, got {reach}")
        self.reach, self.rope, self.head_width = reach, rope, width // heads
        self.feed1 = _Feed(width, eps)
        self.norm = LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, qk_norm=False)
        self.convolution = _Convolution(width, kernel, norm, eps)
        self.feed2 = _Feed(width, eps)
        self.last = LayerNorm(width, eps=eps)

    def forward(
        self, x: Float[Tensor, "b n d"], kept: Bool[Tensor, "b n"], time_s: Float[Tensor, " n"]
    ) -> Float[Tensor, "b n d"]:
        """time_s says when each frame begins; what comes out where nothing is kept means nothing."""
        turn = None
        if self.rope:
            turn = rotary(torch.stack((time_s, torch.zeros_like(time_s)), -1)[None], self.head_width, 0)
        x = x + 0.5 * self.feed1(x)
        x = x + self.attention(self.norm(x), turn, barred(kept, self.reach))
        x = x + self.convolution(x, kept)
        return self.last(x + 0.5 * self.feed2(x))


def barred(kept: Bool[Tensor, "b n"], reach: int) -> Bool[Tensor, "b q n"] | None:
    """What attention may not look at: frames that are not kept, and those out of reach. A frame may look at itself
    whatever it is, so that no row is empty. None where nothing is barred.
    """
    n = kept.shape[1]
    if not reach:
        return None if bool(kept.all()) else ~kept[:, None]
    place = torch.arange(n, device=kept.device)
    away = (place[:, None] - place).abs()
    return (away > reach) | (~kept[:, None] & (away > 0))


class _Feed(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.mlp(self.norm(x))


class _Convolution(nn.Module):
    """Norm, gated pointwise layer, a convolution of each channel over time, norm, SiLU, pointwise layer."""

    def __init__(self, width: int, kernel: int, norm: Norm, eps: float) -> None:
        super().__init__()
        make = {"frame": _FrameNorm, "clip": ClipNorm}[norm]
        self.norm1 = make(width, eps)
        self.widen = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm2 = make(width, eps)
        self.narrow = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], kept: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        x = F.glu(self.widen(self.norm1(x, kept)), -1)
        x = self.depthwise(rearrange(x * kept.unsqueeze(-1), "b n d -> b d n"))
        return self.narrow(F.silu(self.norm2(rearrange(x, "b d n -> b n d"), kept)))


class _FrameNorm(LayerNorm):
    """Over the width of each frame: knows nothing of the others."""

    def forward(self, x: Float[Tensor, "b n d"], kept: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:  # pyright: ignore
        return super().forward(x)


class ClipNorm(nn.Module):
    """Over width and kept frames of each clip, in float32.

    Equals: torch.nn.GroupNorm(1, d) on (b, d, n) where all frames are kept.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b n d"], kept: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        with torch.autocast(x.device.type, enabled=False):
            full, there = x.float(), kept[:, :, None].float()
            count = there.sum((1, 2), keepdim=True) * x.shape[2]
            mean = (full * there).sum((1, 2), keepdim=True) / count
            variance = ((full - mean).square() * there).sum((1, 2), keepdim=True) / count
            normed = (full - mean) * (variance + self.eps).rsqrt()
            return (normed * self.weight.float() + self.bias.float()).to(x.dtype)


def draw(weight: Tensor, fan_in: int, generator: torch.Generator, gain: float = 1.0) -> None:
    """Truncated normal numbers of standard deviation gain / sqrt(fan_in), cut at two of them."""
    std = gain * fan_in**-0.5
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Matrices and kernels that keep the size of what they read, zero biases, norms that leave things as they are."""
    for each in module.modules():
        if isinstance(each, nn.Linear | nn.Conv1d):
            draw(each.weight, each.weight[0].numel(), generator)
            if each.bias is not None:
                nn.init.zeros_(each.bias)
        elif isinstance(each, LayerNorm | ClipNorm):
            nn.init.ones_(each.weight)
            nn.init.zeros_(each.bias)
