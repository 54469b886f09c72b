"""Classification heads: an encoder's tokens to one logit per class, trained together with the encoder.

Every head takes the same weights per patch as `pool`, so that a head can be trained on padded clips and on segments: a
patch of weight 0 has no influence. Heads compute in float32 also under autocast: they are small, and logits are what a
loss is taken of.

Axes: b clips | n patches | d width | e pooled embedding | c classes | j prototypes of a class | q queries | h heads | k
head width
"""

import abc
import dataclasses
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.pool import Pooling, pool
from birdjepa.models.vit import EncoderOutput

N_PROTOTYPES = 20
N_QUERIES = 4
EPSILON = 1e-4
"""Added to squared lengths before a cosine, so that a patch of zeros is like nothing instead of NaN."""
INITIAL_BIAS = -2.0
"""Of a prototypical head: most classes are absent from most clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How tokens become logits."""

    form: Literal["pooled", "mean", "attentive", "prototypical"] = "pooled"
    """pooled: the encoder's own pooling, then a linear layer; mean: the mean over patches, then a linear layer;
    attentive: learnt queries that attend to the patches, then a linear layer; prototypical: how much the most similar
    patch resembles each prototype of a class."""
    n_prototypes: int = N_PROTOTYPES
    """Prototypes of each class; prototypical only."""
    n_queries: int = N_QUERIES
    """Attentive only. The linear layer reads what all of them found, side by side."""

    def __post_init__(self) -> None:
        if self.n_prototypes < 1 or self.n_queries < 1:
            raise ValueError(
                f"n_prototypes and n_queries must be positive, got {self.n_prototypes} and {self.n_queries}"
            )
        if self.form != "prototypical" and self.n_prototypes != N_PROTOTYPES:
            raise ValueError(f"n_prototypes={self.n_prototypes} needs form='prototypical', got form={self.form!r}")
        if self.form != "attentive" and self.n_queries != N_QUERIES:
            raise ValueError(f"n_queries={self.n_queries} needs form='attentive', got form={self.form!r}")

    def build(self, encoder: EncoderConfig, n_classes: int) -> "Head":
        """A head with uninitialised weights for an encoder of this configuration.

        Raises:
          ValueError: if there is no class, or the encoder's pooling is cls and it has no CLS token.
        """
        if n_classes < 1:
            raise ValueError(f"a head needs at least 1 class, got n_classes={n_classes}")
        width, n_heads = encoder.vit.width, encoder.vit.dimensions[2]
        if self.form == "prototypical":
            return PrototypicalHead(width, n_classes, self.n_prototypes)
        if self.form == "attentive":
            return AttentiveHead(width, n_heads, n_classes, self.n_queries)
        read = encoder if self.form == "pooled" else dataclasses.replace(encoder, pooling="mean")
        if read.embedding_width == 0:
            raise ValueError("a head on pooling='cls' needs n_cls >= 1, got 0; set another pooling or form")
        return LinearHead(read.pooling, read.n_rows, read.embedding_width, n_classes)


class Head(nn.Module, abc.ABC):
    """Subclasses are final and define `initialise` and `logits`."""

    @abc.abstractmethod
    def initialise(self, generator: torch.Generator) -> "Head":
        """Sets every parameter, all random ones from the generator."""

    @abc.abstractmethod
    def logits(self, output: EncoderOutput, weights: Float[Tensor, "b n"]) -> Float[Tensor, "b c"]:
        """What `forward` returns, of float32 tokens and weights."""

    def forward(self, output: EncoderOutput, weights: Float[Tensor, "b n"] | None = None) -> Float[Tensor, "b c"]:
        """One float32 logit per class from a full grid of patches.

        weights (>= 0, not all 0 in a row) say how much each patch counts, as in `pool`: a patch of weight 0 has no
        influence, and a maximum takes every patch of positive weight alike.
        """
        rough, device = output.patches, output.patches.device
        given = rough.new_ones(rough.shape[:2], dtype=torch.float32) if weights is None else weights.float()
        with torch.autocast(device.type, enabled=False):
            return self.logits(EncoderOutput(*(part.float() for part in output)), given)

    def orthogonality(self) -> Float[Tensor, ""]:
        """How much the prototypes of one class repeat each other; 0 for a head without prototypes."""
        return next(self.parameters()).new_zeros(())


class LinearHead(Head):
    """A linear layer on the pooled embedding, standardised by two buffers that start as 0 and 1.

    After `fit` and `take_over` its logits are those of a logistic regression on frozen embeddings, which makes it a
    start for fine-tuning that knows the classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pooling: Pooling, n_rows: int, n_in: int, n_classes: int) -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.n_rows = n_rows
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("std", torch.ones(n_in))
        self.linear = nn.Linear(n_in, n_classes)

    def initialise(self, generator: torch.Generator) -> "LinearHead":
        """Truncated normal 0.02, zero bias. The standardisation stays as it is."""
        _initialise_linear(self.linear, generator)
        return self

    @torch.no_grad()
    def fit(self, mean: Float[Tensor, " e"], std: Float[Tensor, " e"]) -> "LinearHead":
        """Standardises the embedding with these from now on; an infinite std leaves its dimension out.

        From `benchmark.standardise.Standardiser`: mean, and 1 / scale, which is infinite where training was constant.

        Raises:
          ValueError: if a mean is not finite or a std is not positive.
        """
        if not mean.isfinite().all() or not (std > 0).all():
            raise ValueError("mean must be finite and std positive; an infinite std leaves a constant dimension out")
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self

    @torch.no_grad()
    def take_over(self, weights: Float[Tensor, "e c"], bias: Float[Tensor, " c"]) -> "LinearHead":
        """Sets the linear layer to coefficients of the standardised embedding.

        From `benchmark.logistic.LinearModels`: one strength's weights and bias. A class that it had no example of has a
        bias so low that no training brings it back.

        Raises:
          ValueError: if they are not finite.
        """
        if not weights.isfinite().all() or not bias.isfinite().all():
            raise ValueError("weights and bias must be finite")
        self.linear.weight.copy_(rearrange(weights, "e c -> c e"))
        self.linear.bias.copy_(bias)
        return self

    def logits(self, output: EncoderOutput, weights: Float[Tensor, "b n"]) -> Float[Tensor, "b c"]:
        pooled = pool(output, self.pooling, self.n_rows, weights)
        return self.linear((pooled - self.mean) / self.std)


class AttentiveHead(Head):
    """Learnt queries attend to the patches in several heads; a linear layer reads what they found, side by side.

    A patch of weight w gets the attention that w copies of it would. Keys have no bias: softmax would not see it.

    Source: the attentive probe of V-JEPA (Bardes et al. 2024) without its residual MLP, and with several queries.
    """

    def __init__(self, width: int, n_heads: int, n_classes: int, n_queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(n_queries, width))
        self.keys = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width)
        self.linear = nn.Linear(n_queries * width, n_classes)
        self.n_heads = n_heads

    def initialise(self, generator: torch.Generator) -> "AttentiveHead":
        """Xavier-uniform keys and values, truncated normal 0.02 for the rest, zero biases."""
        nn.init.trunc_normal_(self.queries, std=0.02, a=-0.04, b=0.04, generator=generator)
        for layer in (self.keys, self.values):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(self.values.bias)
        _initialise_linear(self.linear, generator)
        return self

    def logits(self, output: EncoderOutput, weights: Float[Tensor, "b n"]) -> Float[Tensor, "b c"]:
        queries = rearrange(self.queries, "q (h k) -> h q k", h=self.n_heads)
        keys = rearrange(self.keys(output.patches), "b n (h k) -> b h k n", h=self.n_heads)
        values = rearrange(self.values(output.patches), "b n (h k) -> b h n k", h=self.n_heads)
        scores = queries * queries.shape[-1] ** -0.5 @ keys + weights.log()[:, None, None]
        found = rearrange(scores.softmax(-1) @ values, "b h q k -> b (q h k)")
        return self.linear(found)


class PrototypicalHead(Head):
    """Each class adds up how much the clip's most similar patch resembles each of its prototypes.

    logit = bias + sum over j of relu(weight_j) * max over patches of relu(cosine(patch, prototype_j)): only likeness
    counts, never its absence, and no class reads the prototypes of another.

    Source: AudioProtoPNet (Heinrich et al. 2025) as Bird-MAE's prototypical probe has it, with the epsilon in the
    lengths alone, without the upsampling of the patch grid and without the constant divisor of the cosine.
    """

    def __init__(self, width: int, n_classes: int, n_prototypes: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(n_classes, n_prototypes, width))
        self.weight = nn.Parameter(torch.empty(n_classes, n_prototypes))
        """Negative ones count as 0."""
        self.bias = nn.Parameter(torch.empty(n_classes))

    def initialise(self, generator: torch.Generator) -> "PrototypicalHead":
        """Prototypes uniform in [0, 1) from the generator, weights 1, bias INITIAL_BIAS."""
        nn.init.uniform_(self.prototypes, generator=generator)
        nn.init.ones_(self.weight)
        nn.init.constant_(self.bias, INITIAL_BIAS)
        return self

    def logits(self, output: EncoderOutput, weights: Float[Tensor, "b n"]) -> Float[Tensor, "b c"]:
        prototypes = rearrange(_unit(self.prototypes), "c j d -> d (c j)")
        likeness = F.relu(_unit(output.patches) @ prototypes)
        # 0 is what a patch that resembles nothing has.
        best = likeness.masked_fill((weights <= 0).unsqueeze(-1), 0.0).amax(1)
        best = rearrange(best, "b (c j) -> b c j", c=len(self.bias))
        return (best * F.relu(self.weight)).sum(-1) + self.bias

    def orthogonality(self) -> Float[Tensor, ""]:
        """Mean squared cosine between two prototypes of one class; 0 where each class has one only."""
        n_prototypes = self.prototypes.shape[1]
        if n_prototypes == 1:
            return self.prototypes.new_zeros(())
        unit = _unit(self.prototypes.float())
        apart = ~torch.eye(n_prototypes, dtype=torch.bool, device=unit.device)
        return (unit @ unit.mT)[:, apart].square().mean()


def _initialise_linear(layer: nn.Linear, generator: torch.Generator) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
    nn.init.zeros_(layer.bias)


def _unit(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    return x * (x.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
