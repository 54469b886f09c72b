"""The encoder of the public density-adaptive JEPA as ours: tensor by tensor, with the settings that make our network
compute what it does (padding that loses a row at odd strides, dilations without end, statistics over whole clips).

Strict: every tensor of their encoder is used once, and every one of ours is filled. Neither the number of attention
heads nor the sampling rate is in the tensors, so the caller says them.

Source: github.com/gioannides/Density-Adaptive-JEPA, train_fsqvae_jepa.py; the names are in checkpoint/deepspeed/names.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from safetensors import safe_open
from torch import Tensor

from birdjepa.audio.clips import ClipConfig
from birdjepa.checkpoint import deepspeed
from birdjepa.checkpoint.deepspeed.names import GATE, ReferenceEncoder, Source, describe, encoder_names
from birdjepa.checkpoint.foreign import reading
from birdjepa.checkpoint.foreign.reading import Found
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.core.provenance import provenance
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoder, WaveformEncoderConfig

SAMPLING_RATE = 24_000
HEADS = 16
CLIP_S = 15.0
"""The longest clips that it trains on by default."""
LICENCE = "not stated here: neither the file nor the README beside the reference's code names one; ask who trained it"
_CONFORMER = {
    "ff1.0": "feed1.norm",
    "ff1.1": "feed1.mlp.fc1",
    "ff1.4": "feed1.mlp.fc2",
    "norm_attn": "norm",
    "qkv": "attention.qkv",
    "out_proj": "attention.proj",
    "conv.0": "convolution.norm1",
    "conv.1": "convolution.widen",
    "conv.3": "convolution.depthwise",
    "conv.4": "convolution.norm2",
    "conv.6": "convolution.narrow",
    "ff2.0": "feed2.norm",
    "ff2.1": "feed2.mlp.fc1",
    "ff2.4": "feed2.mlp.fc2",
    "norm_final": "last",
}
"""Their name of each layer of a Conformer, and ours."""
_GATE: dict[str, str] = dict(zip(GATE, ("strength", "score.weight", "score.bias", "offset", "scale"), strict=True))
_KERNEL = re.compile(r"(input_conv|encoder\.\d+\.(conv|res_blocks\.\d+\.convs[12]\.\d+))\.weight")
"""Weights that lie as (out, in, kernel) with them and as (kernel, in, out) with us."""


class ConvertedDaam(NamedTuple):
    """As `conversion.Converted`, of an encoder of waveforms."""

    encoder: WaveformEncoder
    card: str
    provenance: dict[str, Any]
    """With `converted`, in which `encoder` says which of the two it is."""


def convert_daam(
    source: str,
    *,
    sampling_rate: int = SAMPLING_RATE,
    heads: int = HEADS,
    encoder: Source | None = None,
    tag: str | None = None,
) -> ConvertedDaam:
    """The encoder in a checkpoint of the reference's stage 1 or 2: a safetensors file that `birdjepa convert deepspeed`
    wrote, whole or its encoder alone, or the folder that DeepSpeed saved into (then of a tag, if not of `latest`).

    encoder: the one that was trained, or its averaged teacher; None is the one that the file holds alone, else online.

    Raises:
      UserError: if there is no such checkpoint, or it is not exactly what it should be; the message names the tensor.
    """
    path = Path(source)
    if not path.is_dir() or (path / reading.WEIGHTS).exists():
        if tag is not None:
            raise UsageError(f"{source} is no folder of DeepSpeed, and only those have tags: leave out --tag={tag}")
        return _converted(reading.find(source, ()), sampling_rate=sampling_rate, heads=heads, encoder=encoder)
    with tempfile.TemporaryDirectory(prefix="birdjepa-") as folder:
        merged = Path(folder) / "encoder.safetensors"
        done = deepspeed.convert(path, merged, tag=tag, encoder=encoder or "online")
        found = Found(merged, {}, f"{path.name}/{done.tag}", "")
        return _converted(found, sampling_rate=sampling_rate, heads=heads, encoder=encoder)


def _converted(found: Found, *, sampling_rate: int, heads: int, encoder: Source | None) -> ConvertedDaam:
    tensors = reading.read(found.weights)
    alone = _alone(found.weights)
    if alone and encoder and alone != encoder:
        raise UsageError(f"{found.source}: holds the {alone} encoder alone: leave out --encoder-source={encoder}")
    which = encoder or alone or "online"
    try:
        names = encoder_names(_shapes(tensors), "online" if alone else which)
        theirs = {new: _sound(old, tensors[old]) for old, new in names.items()}
        config = config_of(describe(_shapes(theirs)), sampling_rate=sampling_rate, heads=heads)
        ours = config.build()
    except (UsageError, ValueError) as error:
        raise UsageError(f"{found.source}: {error}") from None
    shapes = _shapes(ours.state_dict())
    ours.load_state_dict(our_weights(theirs, shapes), strict=True)
    left_out = sorted({".".join(name.split(".")[:2]) for name in tensors if name not in names})
    origin = {
        "kind": "daam",
        "source": found.source,
        "revision": found.revision,
        "encoder": which,
        "weights_sha256": files.sha256(found.weights),
        "licence": "unknown",
        "terms": LICENCE,
        "trained_on": "not in the file",
        "overlap": "unknown: the file does not say what it was trained on",
        "left_out": left_out,
    }
    ours = ours.requires_grad_(False).eval()
    return ConvertedDaam(ours, _card(ours, origin), {**provenance(), "converted": origin})


def config_of(found: ReferenceEncoder, *, sampling_rate: int, heads: int) -> WaveformEncoderConfig:
    """The settings with which our network is theirs.

    Raises:
      ValueError: if there is no such network.
    """
    if not found.strides:
        raise ValueError("no encoder.0.conv.weight is among its tensors, so the encoder is not whole")
    network = WaveformConfig(
        preset="reference",
        sampling_rate=sampling_rate,
        channels=found.channels,
        strides=found.strides,
        code_dim=found.code_dim,
        n_res_blocks=found.n_residual,
        n_conformers=found.n_conformers,
        heads=heads,
        reach=0,
        components=found.n_gaussians,
        combine="mixture",
        offsets="score",
        dilation_cycle=max(1, found.n_residual),
        kernel=found.conformer_kernel,
        rope=False,
        conv_norm="clip",
        legacy_padding=True,
    )
    return WaveformEncoderConfig(network=network, clips=ClipConfig(clip_s=CLIP_S, hop_s=CLIP_S), pooling="mean+std")


def our_name(theirs: str) -> str:
    """Our encoder's name of a parameter, by its name in theirs alone (`ReferenceEncoder.shapes`)."""
    part, *rest = theirs.split(".")
    if part == "input_conv":
        return f"network.input.{rest[0]}"
    if part == "bottleneck_proj":
        return f"network.project.{rest[0]}"
    number, *within = rest
    if part == "conformer_blocks":
        return f"network.conformers.{number}.{_CONFORMER['.'.join(within[:-1])]}.{within[-1]}"
    stage = f"network.stages.{number}"
    kind, *rest = within
    if kind == "gaatn_gate":
        return f"{stage}.gate.0.{_GATE['.'.join(rest)]}"
    if kind == "res_blocks":
        block, half, convolution, parameter = rest
        return f"{stage}.blocks.{block}.{ {'convs1': 'dilated', 'convs2': 'plain'}[half] }.{convolution}.{parameter}"
    return f"{stage}.{ {'conv': 'down', 'snake': 'snake'}[kind] }.{rest[0]}"


def our_weights(theirs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Our parameters of theirs, both whole; shapes are what ours must have. Kernels are turned, axes of one left out
    or added.
    """
    made = {}
    for name, tensor in theirs.items():
        ours = our_name(name)
        turned = tensor.permute(2, 1, 0) if _KERNEL.fullmatch(name) else tensor
        assert ours not in made
        assert _long(turned.shape) == _long(shapes[ours]), name
        made[ours] = turned.reshape(shapes[ours]).float().contiguous()
    assert made.keys() == shapes.keys()
    return made


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _long(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _sound(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        what = f"is of {tensor.dtype}" if not tensor.is_floating_point() else "holds NaN or infinite values"
        raise UsageError(f"{name} {what}")
    return tensor


def _alone(path: Path) -> Source | None:
    """Which encoder a file of `birdjepa convert deepspeed --encoder-only` holds, whose names do not say it."""
    with safe_open(path, "pt") as file:
        about = (file.metadata() or {}).get("birdjepa", "{}")
    try:
        kept = json.loads(about).get("encoder")
    except (ValueError, AttributeError):
        raise UsageError(f"{path}: what its header says of birdjepa is not readable: convert it anew") from None
    return kept if kept in get_args(Source) else None


def _card(encoder: WaveformEncoder, origin: Mapping[str, Any]) -> str:
    """README.md of the encoder folder."""
    network, shape = encoder.config.network, encoder.config.network.shape
    n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
    what = {"online": "the encoder that was trained", "teacher": "the average of the encoder over its training"}
    gates = f"{network.components} Gaussians a gate ({network.combine})" if network.components else "no gates"
    return f"""---
library_name: birdjepa
pipeline_tag: feature-extraction
license: {origin["licence"]}
tags: [audio, converted, daam]
---

# A density-adaptive JEPA of others as a birdjepa encoder

Strided convolutions, Gaussian adaptive attention and {shape.n_conformers} Conformers ({n_parameters:,} parameters)
on waveforms, trained by others with github.com/gioannides/Density-Adaptive-JEPA, and converted.

```python
import birdjepa

encoder = birdjepa.load("path/to/this/folder")
out = encoder.embed(waveform, sampling_rate=44_100)
out.embedding  # one row of {encoder.config.embedding_width} numbers per {CLIP_S:g} s
```

| where it came from | |
|---|---|
| source | `{origin["source"]}`{f", commit `{origin['revision']}`" if origin["revision"] else ""} |
| which encoder | {origin["encoder"]}: {what[origin["encoder"]]} |
| SHA-256 of its weights | `{origin["weights_sha256"]}` |
| licence | {origin["terms"]} |

| what it hears | |
|---|---|
| sampling rate | {shape.sampling_rate} Hz (as whoever converted it said), mono; other rates are resampled by soxr HQ |
| clips | at most {CLIP_S:g} s; padded with zeros to whole hops of {network.hop} samples |
| frames | {network.frame_rate:g} a second of {shape.code_dim} numbers; odd strides lose some at the end of a clip |
| strides | {"x".join(map(str, shape.strides))} |
| attention | {shape.heads} heads (as whoever converted it said), over the whole clip, without positions |
| gates | {gates} |
| pooling | {encoder.config.pooling} |
"""
