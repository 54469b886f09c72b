"""The vision transformer on log-mel patches: one class for encoders, and the trunk of predictors and decoders.

Contract: `vit(tokens, grid)` takes ANY subset of a clip's patches with the rows of the grid that say where they lie.
All of them at inference, the visible ones in a masked autoencoder, the context in a JEPA, a short view in LeJEPA. The
caller patchifies, masks and selects.

Axes: b clips | n patches | p values per patch | c CLS tokens | r registers | d width
"""

import dataclasses
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from birdjepa.core.config import added
from birdjepa.core.random import Draws
from birdjepa.nn.block import NORM_EPS, Block, Mlp, SwiGlu
from birdjepa.nn.norm import LayerNorm
from birdjepa.nn.position import rotary, sincos
from birdjepa.nn.regularised import RegularisedMaskingConfig, draw_barred

SIZES = {
    "nano": (64, 2, 2),
    "tiny": (192, 4, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, depth, heads. nano is for tests and debugging, tiny for CPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Shape of the transformer."""

    size: str = "tiny"
    """nano, tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS such as 256x8x4."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the width (a SwiGLU takes 2/3 of it, for equal cost)."""
    position: Literal["rope", "absolute"] = "rope"
    """rope: rotary in time and frequency, plus a fixed sin-cos code of the frequency, for pitch is absolute and time is
    not; absolute: fixed sin-cos codes of both."""
    qk_norm: bool = True
    n_cls: int = 1
    n_registers: int = 0
    layer_scale: float = 0.0
    """Initial gain of the residual branches; 0 leaves LayerScale out."""
    drop_path: float = 0.0
    """Stochastic depth: share of clips that skip each branch of the last block; grows linearly from 0 at the first."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass: memory of one block instead of all, for about a third more time."""
    n_positions: int = added(0)
    """Patches of a whole clip whose fixed codes are kept with the weights, in place of those that position=absolute
    computes; 0 computes them. For encoders of other makers (`birdjepa convert`): they take whole grids only."""
    fc_norm: bool = added(False)
    """A second last norm, behind the mean over patches, for pooling=fc_norm (converted encoders)."""

    def __post_init__(self) -> None:
        width, depth, heads = self.dimensions
        if min(width, depth, heads) < 1 or width % heads or (width // heads) % 4:
            raise ValueError(f"size={self.size}: width must be a multiple of heads, and width / heads of 4")
        if self.n_cls < 0 or self.n_registers < 0:
            raise ValueError(f"need n_cls >= 0 and n_registers >= 0, got {self.n_cls}, {self.n_registers}")
        if not 0 <= self.drop_path < 1 or self.mlp_ratio <= 0 or self.layer_scale < 0:
            raise ValueError(
                "need 0 <= drop_path < 1, mlp_ratio > 0, layer_scale >= 0; got "
                f"{self.drop_path}, {self.mlp_ratio}, {self.layer_scale}"
            )
        if self.n_positions < 0 or (self.n_positions and self.position != "absolute"):
            raise ValueError(f"n_positions={self.n_positions} must be >= 0, and needs position='absolute' above 0")

    @property
    def dimensions(self) -> tuple[int, int, int]:
        """Width, depth, heads.

        Raises:
          ValueError: if size is neither a name nor WIDTHxDEPTHxHEADS.
        """
        if self.size in SIZES:
            return SIZES[self.size]
        parts = self.size.split("x")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"size must be one of {', '.join(SIZES)} or WIDTHxDEPTHxHEADS, got {self.size!r}")
        return int(parts[0]), int(parts[1]), int(parts[2])

    @property
    def width(self) -> int:
        return self.dimensions[0]

    def build(self, n_values: int) -> "Vit":
        """A transformer that reads tokens of n_values values each."""
        return Vit(self, n_values)


NOTHING = torch.empty(0, 0, 0)


class EncoderOutput(NamedTuple):
    """What an encoder says of each clip: after the last norm, in the order of the tokens given."""

    cls: Float[Tensor, "b c d"]
    patches: Float[Tensor, "b n d"]
    registers: Float[Tensor, "b r d"]
    bare: Float[Tensor, "b m d"] = NOTHING
    """The patches before the last norm, of an encoder with an fc_norm; of others none (m = 0)."""
    fc_norm: Float[Tensor, "b k d"] = NOTHING
    """Gain and bias of the norm behind the mean over bare patches (k = 2 or 0)."""


class Vit(nn.Module):
    positions: Tensor
    """Fixed codes of a whole grid's patches; only with n_positions."""

    def __init__(self, config: VitConfig, n_values: int) -> None:
        super().__init__()
        self.config = config
        width, depth, heads = config.dimensions
        hidden = round(width * config.mlp_ratio)
        make_mlp = {"gelu": Mlp, "swiglu": SwiGlu}[config.mlp]
        self.embed = nn.Linear(n_values, width)
        self.cls = nn.Parameter(torch.empty(config.n_cls, width))
        self.registers = nn.Parameter(torch.empty(config.n_registers, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, make_mlp(width, hidden), qk_norm=config.qk_norm, layer_scale=config.layer_scale)
            for _ in range(depth)
        )
        self.norm = LayerNorm(width, eps=NORM_EPS)
        if config.fc_norm:
            self.fc_norm = LayerNorm(width, eps=NORM_EPS)
        if config.n_positions:
            self.register_buffer("positions", torch.empty(config.n_positions, width))

    def initialise(self, generator: torch.Generator) -> "Vit":
        """Xavier-uniform matrices, zero biases, CLS, registers and kept positions truncated normal 0.02, all from the
        generator.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        for tokens in (self.cls, self.registers, *((self.positions,) if self.config.n_positions else ())):
            nn.init.trunc_normal_(tokens, std=0.02, a=-0.04, b=0.04, generator=generator)
        return self

    def forward(
        self,
        tokens: Float[Tensor, "b n p"],
        grid: Float[Tensor, "g n 2"],
        draws: Draws | None = None,
        masking: RegularisedMaskingConfig | None = None,
    ) -> EncoderOutput:
        """Embeddings of the given patches. grid has one entry per clip, or one for all (g = 1).

        Stochastic depth and regularised masking are drawn, and off where there is nothing to draw from.
        """
        return self._read(self._pass(*self._enter(tokens, grid), self._n_special, draws, masking))

    def layers(self, tokens: Float[Tensor, "b n p"], grid: Float[Tensor, "g n 2"]) -> list[EncoderOutput]:
        """Output after each block, each through the last norm; the final entry equals forward(tokens, grid)."""
        x, grid = self._enter(tokens, grid)
        turn = self._rotary(grid, self._n_special)
        outputs = []
        for block in self.blocks:
            x = block(x, turn, None)
            outputs.append(self._read(x))
        return outputs

    def run(
        self,
        x: Float[Tensor, "b n d"],
        grid: Float[Tensor, "g k 2"],
        n_still: int,
        draws: Draws | None = None,
        masking: RegularisedMaskingConfig | None = None,
    ) -> Float[Tensor, "b n d"]:
        """All blocks and the last norm, over tokens of the model's width: n_still of no place, then the grid's."""
        return self.norm(self._pass(x, grid, n_still, draws, masking))

    def _pass(
        self,
        x: Float[Tensor, "b n d"],
        grid: Float[Tensor, "g k 2"],
        n_still: int,
        draws: Draws | None,
        masking: RegularisedMaskingConfig | None,
    ) -> Float[Tensor, "b n d"]:
        """All blocks, without the last norm."""
        turn = self._rotary(grid, n_still)
        depth, batch = len(self.blocks), x.shape[0]
        keep = self._draw_keep(batch, draws, x.device)
        barred = draw_barred(masking, depth, batch, n_still, grid.shape[1], draws, x.device)
        for block, kept, hidden in zip(self.blocks, keep, barred, strict=True):
            if self.config.activation_checkpointing and x.requires_grad:
                x = checkpoint(block, x, turn, kept, hidden, use_reentrant=False)
            else:
                x = block(x, turn, kept, hidden)
        return x

    def place(self, grid: Float[Tensor, "g n 2"]) -> Float[Tensor, "g n d"]:
        """The fixed code that is added to a token for where it lies.

        Raises:
          ValueError: if codes are kept for a whole grid, and this is a part of one.
        """
        if self.config.n_positions:
            if grid.shape[1] != self.config.n_positions:
                raise ValueError(
                    f"this encoder keeps positions of all {self.config.n_positions} patches of a clip, and was given "
                    f"{grid.shape[1]}: objectives that show it a part of a clip cannot train it"
                )
            return self.positions.expand(len(grid), -1, -1)
        rope = self.config.position == "rope"
        read = torch.stack((torch.zeros_like(grid[..., 0]), grid[..., 1]), -1) if rope else grid
        return sincos(read, self.config.width)

    @property
    def _n_special(self) -> int:
        return self.config.n_cls + self.config.n_registers

    def _enter(
        self, tokens: Float[Tensor, "b n p"], grid: Float[Tensor, "g n 2"]
    ) -> tuple[Float[Tensor, "b _ d"], Float[Tensor, "g n 2"]]:
        """Tokens in the model's width behind CLS and registers, and their grid."""
        x = self.embed(tokens)
        x = x + self.place(grid).to(x.dtype)
        special = torch.cat((self.cls, self.registers)).to(x.dtype)
        return torch.cat((special.expand(tokens.shape[0], -1, -1), x), 1), grid

    def _rotary(self, grid: Float[Tensor, "g n 2"], n_still: int) -> tuple[Tensor, Tensor] | None:
        width, _, heads = self.config.dimensions
        return rotary(grid, width // heads, n_still) if self.config.position == "rope" else None

    def _read(self, x: Float[Tensor, "b _ d"]) -> EncoderOutput:
        """What the last block left, through the last norm and taken apart."""
        n_cls, n_special = self.config.n_cls, self._n_special
        normed, bare, fc_norm = self.norm(x), x[:, :0], x[:, :0]
        if self.config.fc_norm:
            bare = x[:, n_special:]
            fc_norm = torch.stack((self.fc_norm.weight, self.fc_norm.bias)).expand(len(x), -1, -1)
        return EncoderOutput(normed[:, :n_cls], normed[:, n_special:], normed[:, n_cls:n_special], bare, fc_norm)

    def _draw_keep(self, batch: int, draws: Draws | None, device: torch.device) -> list[Float[Tensor, "2 b"] | None]:
        depth, rate = len(self.blocks), self.config.drop_path
        if draws is None or rate == 0:
            return [None] * depth
        uniform = draws.uniform((depth, 2, batch), clips=2).to(device)
        keep_rate = 1 - torch.linspace(rate, 0, depth, device=device).flip(0)[:, None, None]
        return list((uniform < keep_rate) / keep_rate)
