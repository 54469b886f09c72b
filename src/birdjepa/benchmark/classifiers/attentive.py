"""Attention on tokens: a learnt query looks for what counts, alone or behind transformer blocks of its own.

Axes: b examples | t tokens | d width | c classes
"""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.benchmark.classifiers.reading import Scaling
from birdjepa.benchmark.classifiers.training import GradientClassifier, GridConfig, HeadModule
from birdjepa.models.heads import AttentiveHead
from birdjepa.nn.block import NORM_EPS, Block, Mlp
from birdjepa.nn.norm import LayerNorm

HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentiveConfig(GradientClassifier):
    """One learnt query attends to the tokens in width / 64 heads; a linear layer reads what it found.

    Source: the attentive probe of BioFoundation (arXiv 2508.01277), after AIM's.
    """

    scaling: Scaling = "standardise"
    grid: GridConfig = GridConfig(rates=(3e-4, 1e-3, 3e-3, 1e-2), decays=(0.01, 1.0), batch_size=64)

    @property
    def needs_tokens(self) -> bool:
        return True

    def build(self, width: int, n_classes: int) -> HeadModule:
        return _Attentive(width, n_classes)

    def activations(self, n_tokens: int, width: int, n_classes: int) -> int:
        n_heads = _heads_of(width)
        return n_heads * (4 * n_tokens + 2 * width) + 4 * n_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepAttentiveConfig(GradientClassifier):
    """Self-attention blocks over the tokens, then a cross-attention block with an MLP in which one query asks.

    Source: the attentive probe of V-JEPA 2 (Assran et al. 2025), with 4 blocks in all.
    """

    scaling: Scaling = "standardise"
    depth: int = 4
    """Blocks, of which the last is the query's."""
    n_heads: int = 16
    """Heads of each block; the most that the width can be divided by where it is not divisible by these."""
    grid: GridConfig = GridConfig(rates=(1e-4, 3e-4), decays=(0.01,), n_epochs=20, batch_size=64)

    def __post_init__(self) -> None:
        if self.depth < 1 or self.n_heads < 1:
            raise ValueError(f"depth and n_heads must be at least 1, got {self.depth} and {self.n_heads}")

    @property
    def needs_tokens(self) -> bool:
        return True

    def build(self, width: int, n_classes: int) -> HeadModule:
        return _Deep(self.depth, _fitting(width, self.n_heads), width, n_classes)

    def activations(self, n_tokens: int, width: int, n_classes: int) -> int:
        return self.depth * n_tokens * (16 * width + self.n_heads * n_tokens) + 4 * n_classes


class _Attentive(HeadModule):
    """`AttentiveHead` with one query, at a fraction of its cost: neither keys nor values of tokens are computed, for a
    query that is learnt may ask the tokens themselves, and values are linear in what it finds.
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.head = AttentiveHead(width, _heads_of(width), n_classes, n_queries=1)

    def initialise(self, generator: torch.Generator) -> None:
        self.head.initialise(generator)

    def forward(
        self, x: Float[Tensor, "b t d"], weights: Float[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        head = self.head
        query = rearrange(head.queries, "1 (h k) -> h 1 k", h=head.n_heads)
        keys, values = (
            rearrange(layer.weight, "(h k) d -> h k d", h=head.n_heads) for layer in (head.keys, head.values)
        )
        asked = rearrange(query * query.shape[-1] ** -0.5 @ keys, "h 1 d -> d h")
        attention = (x @ asked + weights.log()[..., None]).softmax(1)
        found = rearrange(attention.mT @ x, "b h d -> h b d") @ values.mT
        found = rearrange(found, "h b k -> b (h k)") + head.values.bias
        return head.linear(found), x.new_zeros(())


class _Deep(HeadModule):
    """Keys and values of the last block have a norm before them, its query has none: it is learnt as it is needed."""

    def __init__(self, depth: int, n_heads: int, width: int, n_classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, n_heads, Mlp(width, 4 * width), qk_norm=False, layer_scale=0.0) for _ in range(depth - 1)
        )
        self.query = nn.Parameter(torch.empty(width))
        self.norm1 = LayerNorm(width, eps=NORM_EPS)
        self.ask = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.norm2 = LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, 4 * width)
        self.linear = nn.Linear(width, n_classes)
        self.n_heads = n_heads

    def initialise(self, generator: torch.Generator) -> None:
        """Truncated normal 0.02, zero biases; what a branch adds is smaller the deeper it lies."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.query, std=0.02, a=-0.04, b=0.04, generator=generator)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                assert isinstance(block, Block)
                assert isinstance(block.mlp, Mlp)
                block.attention.proj.weight.div_((2 * number) ** 0.5)
                block.mlp.fc2.weight.div_((2 * number) ** 0.5)
            self.mlp.fc2.weight.div_((2 * (len(self.blocks) + 1)) ** 0.5)

    def forward(
        self, x: Float[Tensor, "b t d"], weights: Float[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        barred = (weights <= 0).unsqueeze(1)
        for block in self.blocks:
            x = block(x, None, None, barred)
        query = self.query.expand(x.shape[0], 1, -1)
        asked = rearrange(self.ask(query), "b q (h k) -> b h q k", h=self.n_heads)
        both = rearrange(self.keys_values(self.norm1(x)), "b t (two h k) -> two b h t k", two=2, h=self.n_heads)
        allowed = (weights > 0)[:, None, None]
        heard = F.scaled_dot_product_attention(asked, both[0], both[1], attn_mask=allowed)
        found = query + rearrange(heard, "b h q k -> b q (h k)")
        found = found + self.mlp(self.norm2(found))
        return self.linear(found[:, 0]), x.new_zeros(())


def _heads_of(width: int) -> int:
    return _fitting(width, max(1, width // HEAD_WIDTH))


def _fitting(width: int, n_heads: int) -> int:
    """The most heads, up to n_heads, that divide the width."""
    return max(heads for heads in range(1, min(n_heads, width) + 1) if width % heads == 0)
