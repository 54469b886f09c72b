"""The transformer block: pre-norm self-attention with QK-norm and rotary positions, then an MLP.

Each of the two branches may have LayerScale and stochastic depth.

Axes: b clips | n tokens | d width | h heads | k head width
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.nn.norm import LayerNorm
from birdjepa.nn.position import rotate

NORM_EPS = 1e-6
LONGEST_PLAIN = 1024
"""Tokens up to which attention in bfloat16 on a CPU is three plain operations."""


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; with qk_norm, queries and keys are normalised per head (no gain)."""

    def __init__(self, width: int, n_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qk_norm = qk_norm
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        turn: tuple[Tensor, Tensor] | None,
        barred: Bool[Tensor, "b q n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """turn holds the tables of position.rotary, or None for no rotation; barred as for `attend`."""
        qkv = rearrange(self.qkv(x), "b n (three h k) -> b n three h k", three=3, h=self.n_heads)
        # The gradient of a split is one copy; that of a slice is a zeroed array and a sum.
        queries_keys, values = qkv.split((2, 1), 2)
        if self.qk_norm:
            queries_keys = F.layer_norm(queries_keys.contiguous(), queries_keys.shape[-1:], eps=NORM_EPS)
            queries_keys = queries_keys.to(values.dtype)  # on a GPU, autocast makes norms float32
        if turn is not None:
            queries_keys = rotate(rearrange(queries_keys, "b n two h k -> b n (two h) k"), *turn)
            queries_keys = rearrange(queries_keys, "b n (two h) k -> b n two h k", two=2)
        queries, keys = rearrange(queries_keys, "b n two h k -> two b h n k").unbind()
        attended = attend(queries, keys, rearrange(values, "b n 1 h k -> b h n k"), barred)
        return self.proj(rearrange(attended, "b h n k -> b n (h k)"))


def attend(
    queries: Float[Tensor, "b h n k"],
    keys: Float[Tensor, "b h n k"],
    values: Float[Tensor, "b h n k"],
    barred: Bool[Tensor, "b q n"] | None = None,
) -> Float[Tensor, "b h n k"]:
    """Softmax attention of all tokens to all tokens, scaled by 1 / sqrt(k).

    barred marks what may not be attended to, by each query (q = n) or by all of them (q = 1); no row may be all True.

    PyTorch's fused kernel, but for bfloat16 on a CPU: there three plain operations are much faster
    (benchmarks/train_step.py), and their n x n scores are no burden while clips are short.
    """
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and queries.shape[2] <= LONGEST_PLAIN:
        scores = queries * queries.shape[-1] ** -0.5 @ keys.mT
        if barred is not None:
            scores = scores.masked_fill(barred.unsqueeze(1), -torch.inf)
        return scores.softmax(-1) @ values
    allowed = None if barred is None else ~barred.unsqueeze(1)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)


class Mlp(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """Gated MLP, silu(gate) * value. Its hidden width is 2/3 of the one asked for, so that it costs as much as `Mlp`.

    Source: Shazeer 2020, "GLU variants improve transformer".
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = -(-hidden * 2 // 3 // 8) * 8
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate, value = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A gain per channel on a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.gain.to(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, n_heads: int, mlp: nn.Module, *, qk_norm: bool, layer_scale: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, n_heads, qk_norm=qk_norm)
        self.scale1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = LayerNorm(width, eps=NORM_EPS)
        self.mlp = mlp
        self.scale2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        turn: tuple[Tensor, Tensor] | None,
        keep: Float[Tensor, "2 b"] | None,
        barred: Bool[Tensor, "b q n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """keep holds, for each branch and clip, 0 (dropped) or 1 / keep rate: stochastic depth drawn by the caller.

        barred as for `attend`.
        """
        attended = self.scale1(self.attention(self.norm1(x), turn, barred))
        x = x + (attended if keep is None else attended * keep[0, :, None, None].to(attended.dtype))
        mixed = self.scale2(self.mlp(self.norm2(x)))
        return x + (mixed if keep is None else mixed * keep[1, :, None, None].to(mixed.dtype))
