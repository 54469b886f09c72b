"""LayerNorm in float32."""

from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """In the dtype of its weights whatever the autocast, as torch has it on GPUs. On CPUs torch 2.13 would add up the
    gradients of gain and bias in bfloat16, where sums stop growing: over 16,000 tokens most of the bias's is lost.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:  # pyright: ignore
        return super().forward(x.to(self.weight.dtype))
