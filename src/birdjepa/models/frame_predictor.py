"""The predictor of a waveform encoder: from the frames that the context saw to what a teacher says of the hidden ones.

A mask token stands where a frame is hidden; Conformers read all of them. Thrown away after training.

Axes: b clips | n frames | d code dimensions
"""

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.models.waveform import NORM_EPS, WaveformConfig
from birdjepa.nn.conformer import Conformer, initialise


@dataclasses.dataclass(frozen=True, kw_only=True)
class FramePredictorConfig:
    """Shape of the predictor; what is not said here (kernel, positions, norms) is the encoder's."""

    expansion: int = 2
    """Width over the encoder's code dimensions."""
    depth: int = 2
    """Conformers, with a pointwise layer behind each."""

    def __post_init__(self) -> None:
        if self.expansion < 1 or self.depth < 1:
            raise ValueError(f"need expansion >= 1 and depth >= 1, got {self.expansion}, {self.depth}")

    def build(self, encoder: WaveformConfig) -> "FramePredictor":
        return FramePredictor(self, encoder)


class FramePredictor(nn.Module):
    """Attention is over the whole clip, whatever the encoder's reach: it is not there when recordings are cut."""

    def __init__(self, config: FramePredictorConfig, encoder: WaveformConfig) -> None:
        super().__init__()
        code_dim, heads = encoder.shape.code_dim, encoder.shape.heads
        width = config.expansion * code_dim
        self.frame_rate = encoder.frame_rate
        self.mask = nn.Parameter(torch.empty(code_dim))
        self.widen = nn.Linear(code_dim, width)
        self.conformers = nn.ModuleList(
            Conformer(
                width,
                heads,
                kernel=encoder.kernel,
                reach=0,
                rope=encoder.rope,
                norm=encoder.conv_norm,
                eps=NORM_EPS,
            )
            for _ in range(config.depth)
        )
        self.between = nn.ModuleList(nn.Linear(width, width) for _ in range(config.depth - 1))
        self.head = nn.Linear(width, code_dim)

    def initialise(self, generator: torch.Generator) -> "FramePredictor":
        """As the encoder; the mask token is truncated normal 0.02."""
        initialise(self, generator)
        nn.init.trunc_normal_(self.mask, std=0.02, a=-0.04, b=0.04, generator=generator)
        return self

    def forward(
        self, context: Float[Tensor, "b n d"], hidden: Bool[Tensor, "b n"], there: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n d"]:
        """A prediction for every frame that is there; what the context holds where it is hidden is never read."""
        x = torch.where(hidden[:, :, None], self.mask.to(context.dtype), context)
        x = F.gelu(self.widen(x))
        time_s = torch.arange(x.shape[1], device=x.device) / self.frame_rate
        for number, conformer in enumerate(self.conformers):
            x = conformer(x, there, time_s)
            if number < len(self.between):
                x = F.gelu(self.between[number](x))
        return self.head(x)
