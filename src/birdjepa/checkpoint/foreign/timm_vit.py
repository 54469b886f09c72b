"""A vision transformer in timm's names (as masked autoencoders publish theirs) as the weights of our `Vit`.

Strict: every tensor is read, or is one of those known to belong to a classifier or a decoder; shapes must be those of
one transformer, and all values finite. The sums that the two codes would make at run time are made here: a CLS token
and its position become one.

Axes: n patches | d width
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from birdjepa.core.errors import UsageError
from birdjepa.models.vit import SIZES, VitConfig

PREFIX = "encoder."
"""Of every tensor of the encoder in some copies."""
LEFT_OUT = ("head.", "mask_token", "decoder.", "decoder_")
"""What tensors begin with that belong to a classifier, or to the half of a masked autoencoder that is thrown away."""
PATCH_SIZE = 16
MLP_RATIO = 4
_BLOCK = re.compile(r"blocks\.(\d+)\.")
_IN_A_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Their name of each layer, and ours."""


class Mapped(NamedTuple):
    """Configuration and weights of a `Vit`, and the tensors that it has no use for."""

    config: VitConfig
    weights: dict[str, Tensor]
    left_out: tuple[str, ...]


def map_weights(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], *, n_patches: int, n_values: int, where: str
) -> Mapped:
    """Our weights from theirs. settings is what their config.json says, which tells the number of heads where width and
    depth are not those of a known size.

    Raises:
      UsageError: naming where, and the tensor or setting that does not fit.
    """
    tensors, left_out = _own(tensors)
    depth = _depth(tensors)
    if "cls_token" not in tensors or not tensors["cls_token"].ndim or not depth:
        raise UsageError(f"{where}: holds no vision transformer in timm's names (cls_token, blocks.0.norm1.weight...)")
    width = tensors["cls_token"].shape[-1]
    norms = tuple(name for name in ("norm", "fc_norm") if f"{name}.weight" in tensors)
    shapes = dict(_shapes(width, depth, norms or ("norm",), n_patches))
    _check(tensors, shapes, where)
    size = _size(width, depth, settings, where)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    layers = {f"blocks.{i}.{a}": f"blocks.{i}.{b}" for i in range(depth) for a, b in _IN_A_BLOCK.items()}
    layers |= {name: name for name in norms}
    weights = {f"{b}.{part}": tensors[f"{a}.{part}"] for a, b in layers.items() for part in ("weight", "bias")}
    if "norm" not in norms:  # a timm model that pools before its only norm: its tokens go through a copy
        weights |= {f"norm.{part}": tensors[f"fc_norm.{part}"].clone() for part in ("weight", "bias")}
    cls_position, positions = tensors["pos_embed"][0, :1], tensors["pos_embed"][0, 1:]
    weights |= {
        "embed.weight": tensors["patch_embed.proj.weight"].reshape(width, n_values),
        "embed.bias": tensors["patch_embed.proj.bias"],
        "cls": tensors["cls_token"][0] + cls_position,
        "registers": torch.empty(0, width),
        "positions": positions,
    }
    return Mapped(_config(size, n_patches, where, fc_norm="fc_norm" in norms), weights, left_out)


def _config(size: str, n_patches: int, where: str, *, fc_norm: bool) -> VitConfig:
    try:
        return VitConfig(
            size=size,
            mlp_ratio=float(MLP_RATIO),
            position="absolute",
            qk_norm=False,
            n_cls=1,
            n_positions=n_patches,
            fc_norm=fc_norm,
        )
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _own(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors that are not known to be of no use, without the prefix that some copies have; and the others."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors) else ""
    own, left_out = {}, []
    for name, tensor in tensors.items():
        bare = name.removeprefix(prefix)
        if bare.startswith(LEFT_OUT):
            left_out.append(name)
        else:
            own[bare] = tensor
    return own, tuple(left_out)


def _depth(tensors: Mapping[str, Tensor]) -> int:
    return len({match[1] for name in tensors if (match := _BLOCK.match(name))})


def _size(width: int, depth: int, settings: Mapping[str, Any], where: str) -> str:
    """The name of the size, or WIDTHxDEPTHxHEADS."""
    known = {(w, d): (name, heads) for name, (w, d, heads) in SIZES.items() if name in ("base", "large", "huge")}
    name, heads = known.get((width, depth), ("", settings.get("num_heads")))
    told = {"embed_dim": width, "num_features": width, "depth": depth, "num_heads": heads}
    for key, value in told.items():
        if key in settings and settings[key] != value:
            raise UsageError(f"{where}: its weights have {key}={value}, and config.json says {settings[key]!r}")
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise UsageError(
            f"{where}: {depth} blocks of width {width} are none of base, large and huge, and no config.json beside it "
            "says num_heads"
        )
    return name or f"{width}x{depth}x{heads}"


def _shapes(width: int, depth: int, norms: tuple[str, ...], n_patches: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor there must be, and its shape."""
    hidden = MLP_RATIO * width
    rows = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    rows |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    yield "cls_token", (1, 1, width)
    yield "pos_embed", (1, 1 + n_patches, width)
    yield "patch_embed.proj.weight", (width, 1, PATCH_SIZE, PATCH_SIZE)
    yield "patch_embed.proj.bias", (width,)
    for layer in (*(f"blocks.{i}.{name}" for i in range(depth) for name in _IN_A_BLOCK), *norms):
        shape = rows.get(layer.split(".", 2)[-1], (width,))
        yield f"{layer}.weight", shape
        yield f"{layer}.bias", shape[:1]


def _check(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise UsageError(f"{where}: lacks {len(missing)} of {len(shapes)} tensors, the first is {missing[0]}")
    odd = [name for name in tensors if name not in shapes]
    if odd:
        raise UsageError(f"{where}: holds {len(odd)} tensors that no part of the encoder reads, the first is {odd[0]}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise UsageError(f"{where}: {name} has shape {tuple(tensor.shape)}, and must have {shapes[name]}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            what = f"is of {tensor.dtype}" if not tensor.is_floating_point() else "holds NaN or infinite values"
            raise UsageError(f"{where}: {name} {what}")
