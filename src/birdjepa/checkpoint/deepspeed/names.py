"""The public reference of the density-adaptive JEPA: what its parameters are called, and which of them are the encoder.

Stage 1 is the encoder with what trains it; stage 2 has all of that under `encoder.`. The name `encoder.` means the
convolution blocks in the first and the whole of it in the second, so the stage is told by where input_conv is:

    stage 1   input_conv.*  encoder.I.*  bottleneck_proj.*  conformer_blocks.J.*             the online encoder
              target_encoder.{input_conv, encoder.I, bottleneck_proj, conformer_blocks.J}.*  its teacher, a deep copy
              mask_token  predictor.*                                                        what only training needs
    stage 2   encoder.(all of the above)  fsq.*  bottleneck_unproj.*  decoder.*  output_conv.*

Source: github.com/gioannides/Density-Adaptive-JEPA, train_fsqvae_jepa.py at 1a0f3ba and 5a82a57, which agree in this.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from birdjepa.core.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]
Source = Literal["online", "teacher"]
FF_EXPANSION = 4
GATE = ("alpha", "to_attn.weight", "to_attn.bias", "gaa.mean_offsets", "gaa.log_sigma")
"""The tensors of a block's Gaussian gate, under encoder.I.gaatn_gate."""
_PARTS = ("input_conv", "encoder", "bottleneck_proj", "conformer_blocks")
_TEACHER = "target_encoder."
_STAGE_2 = "encoder."
_FIRST = "input_conv.weight"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceEncoder:
    """What can be read from the shapes of an encoder. Its number of attention heads cannot (16 by default there), nor
    its sampling rate (24 000 Hz)."""

    channels: tuple[int, ...]
    """After the first convolution and after each block."""
    strides: tuple[int, ...]
    """Of each block; its kernel is twice as long."""
    n_residual: int
    """Residual blocks of a block, of three dilated convolutions each, which are 1, 3^i and 5^i wide in block i."""
    code_dim: int
    n_conformers: int
    conformer_kernel: int
    """Frames that a Conformer's depthwise convolution spans."""
    n_gaussians: int
    """Components of a gate; 0 without gates."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter of the encoder by its name, without a prefix."""
        found = _conv("input_conv", 1, self.channels[0], 7)
        for block, stride in enumerate(self.strides):
            narrow, wide = self.channels[block : block + 2]
            name = f"encoder.{block}"
            found |= _conv(f"{name}.conv", narrow, wide, 2 * stride)
            found[f"{name}.snake.raw"] = (1, wide, 1)
            for residual in range(self.n_residual):
                for half in ("convs1", "convs2"):
                    for dilated in range(3):
                        found |= _conv(f"{name}.res_blocks.{residual}.{half}.{dilated}", wide, wide, 3)
            if self.n_gaussians:
                found |= gate_shapes(f"{name}.gaatn_gate", wide, self.n_gaussians)
        found |= _conv("bottleneck_proj", self.channels[-1], self.code_dim, 1)
        for conformer in range(self.n_conformers):
            found |= _conformer(f"conformer_blocks.{conformer}", self.code_dim, self.conformer_kernel)
        return found


def gate_shapes(name: str, width: int, n_gaussians: int) -> dict[str, tuple[int, ...]]:
    """A Gaussian gate's: how much it opens (alpha), the projection to one channel that it watches, and for each
    component where it lies and log sigma before the softplus."""
    shapes = ((), (1, width, 1), (1,), (n_gaussians,), (n_gaussians,))
    return {f"{name}.{each}": shape for each, shape in zip(GATE, shapes, strict=True)}


def stage_of(names: Shapes) -> int:
    """1 or 2; 0 for anything but the reference's models."""
    return 2 if _STAGE_2 + _FIRST in names else 1 if _FIRST in names else 0


def encoder_names(shapes: Shapes, source: Source) -> dict[str, str]:
    """Name in the checkpoint -> name in the encoder alone, which is that of stage 1's online encoder for all four.

    Raises:
      UsageError: if it is not the reference's, has no teacher, or is not whole; it names the tensor.
    """
    stage = stage_of(shapes)
    if not stage:
        raise UsageError(
            f"neither {_FIRST} nor {_STAGE_2}{_FIRST} is among its tensors, so it is not the reference's "
            "(docs/deepspeed.md): convert it whole, without --encoder-only"
        )
    prefix = (_STAGE_2 if stage == 2 else "") + (_TEACHER if source == "teacher" else "")
    wanted = tuple(f"{prefix}{part}." for part in _PARTS)
    chosen = {name: name.removeprefix(prefix) for name in shapes if name.startswith(wanted)}
    if not chosen:
        raise UsageError(f"no {prefix}* is among its tensors, so it holds no {source} encoder")
    require_whole({new: shapes[old] for old, new in chosen.items()}, prefix)
    return chosen


def require_whole(shapes: Shapes, prefix: str = "") -> ReferenceEncoder:
    """Checks that shapes are all those of an encoder, and no others; gives what they say of it.

    Raises:
      UsageError: naming the first tensor that is missing, too many, or of another shape.
    """
    described = describe(shapes, prefix)
    expected = described.shapes()
    _require_same({name: shapes.get(name) for name in expected}, expected, prefix)
    if extra := sorted(set(shapes) - set(expected)):
        raise UsageError(f"{prefix}{extra[0]} is no part of the reference's encoder")
    return described


def describe(shapes: Shapes, prefix: str = "") -> ReferenceEncoder:
    """What the shapes of an encoder say of it, by those tensors that have to be there."""

    def size(name: str, n_axes: int) -> tuple[int, ...]:
        if len(shape := shapes.get(name, ())) != n_axes:
            raise UsageError(f"{prefix}{name} is missing or not of {n_axes} axes, so the encoder is not whole")
        return shape

    convs = [size(f"encoder.{block}.conv.weight", 3) for block in range(_n(shapes, r"encoder\.(\d+)\."))]
    n_conformers = _n(shapes, r"conformer_blocks\.(\d+)\.")
    gates = any(".gaatn_gate." in name for name in shapes)
    return ReferenceEncoder(
        channels=(size(_FIRST, 3)[0], *(conv[0] for conv in convs)),
        strides=tuple(conv[2] // 2 for conv in convs),
        n_residual=_n(shapes, r"encoder\.\d+\.res_blocks\.(\d+)\."),
        code_dim=size("bottleneck_proj.weight", 3)[0],
        n_conformers=n_conformers,
        conformer_kernel=size("conformer_blocks.0.conv.3.weight", 3)[2] if n_conformers else 1,
        n_gaussians=size("encoder.0.gaatn_gate.gaa.mean_offsets", 1)[0] if gates else 0,
    )


def require_gates(shapes: Shapes) -> int:
    """Checks the Gaussian gates of every convolution block in shapes, whole models or an encoder alone; gives how many.

    Raises:
      UsageError: naming the first tensor of a gate that is missing or of another shape.
    """
    blocks = {found[1]: shape for name, shape in shapes.items() if (found := _BLOCK.fullmatch(name))}
    if not blocks:
        raise UsageError("--assert-gaatn: no convolution block of the reference's encoder is among its tensors")
    for name, conv in blocks.items():
        gate = f"{name}.gaatn_gate"
        n_gaussians = (shapes.get(f"{gate}.gaa.mean_offsets") or (1,))[0]
        expected = gate_shapes(gate, conv[0], n_gaussians)
        _require_same({each: shapes.get(each) for each in expected}, expected, "")
    return len(blocks)


_BLOCK = re.compile(r"((?:encoder\.)?(?:target_encoder\.)?encoder\.\d+)\.conv\.weight")


def _require_same(found: Mapping[str, tuple[int, ...] | None], expected: Shapes, prefix: str) -> None:
    for name, shape in expected.items():
        if found[name] is None:
            raise UsageError(f"{prefix}{name} is missing")
        if found[name] != shape:
            raise UsageError(f"{prefix}{name} has shape {found[name]}, and the reference's has {shape}")


def _n(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that names have in a place."""
    return max((int(found[1]) for name in shapes if (found := re.match(pattern, name))), default=-1) + 1


def _conv(name: str, n_in: int, n_out: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in, kernel), f"{name}.bias": (n_out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def _conformer(name: str, width: int, kernel: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for half in ("ff1", "ff2"):
        found |= _norm(f"{name}.{half}.0", width)
        found |= _linear(f"{name}.{half}.1", width, FF_EXPANSION * width)
        found |= _linear(f"{name}.{half}.4", FF_EXPANSION * width, width)
    found |= _norm(f"{name}.norm_attn", width)
    found |= _linear(f"{name}.qkv", width, 3 * width) | _linear(f"{name}.out_proj", width, width)
    found |= _norm(f"{name}.conv.0", width) | _conv(f"{name}.conv.1", width, 2 * width, 1)
    found |= _conv(f"{name}.conv.3", 1, width, kernel) | _norm(f"{name}.conv.4", width)
    found |= _conv(f"{name}.conv.6", width, width, 1)
    return found | _norm(f"{name}.norm_final", width)
