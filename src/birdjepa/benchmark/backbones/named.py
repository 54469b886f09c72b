"""The models under test by name, each as a configuration: what `--model NAME` opens.

`with_tables` lays the tables [models.NAME] of a TOML file over these, or adds to them. Addresses, revisions and files
are settings like any other; nothing is fetched before a model is opened.

Sources of the addresses, tensors and revisions: the projects that publish and use these files (docs/backbones.md).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark.backbones.base import Backbone
from birdjepa.benchmark.backbones.hf import HfBackbone, HfSpec
from birdjepa.benchmark.backbones.logmel import LogMelBackbone
from birdjepa.benchmark.backbones.onnx import OnnxBackbone, OnnxSpec
from birdjepa.benchmark.backbones.ours import EncoderBackbone, open_encoder, open_twin
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.loading import load
from birdjepa.models.patch import PatchConfig
from birdjepa.models.pool import Pooling
from birdjepa.models.vit import VitConfig

_XENO_CANTO = "was trained on Xeno-Canto, where the training recordings"
XENO_CANTO = (
    ("birdset", f"{_XENO_CANTO} of all tasks come from"),
    ("birb-style", f"{_XENO_CANTO} of all tasks come from"),
    ("beans-cbi", f"{_XENO_CANTO} and the tested ones come from"),
)
AUDIOSET = (("audioset-20k", "was trained on AudioSet, of which this is a part"),)
_FSD50K = "was trained on FSD50K, which shares recordings of Freesound with ESC-50"
FSD50K = (("esc50", _FSD50K), ("esc10", _FSD50K), ("beans-esc50", _FSD50K))
FOREIGN_OVERLAPS = {"bird-mae": XENO_CANTO, "audio-mae": AUDIOSET}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """An encoder of birdjepa."""

    folder: str = ""
    """With config.json and model.safetensors."""
    pooling: Pooling | None = None
    """How patches become one embedding; None for the encoder's own way."""
    overlaps: tuple[tuple[str, str], ...] = ()
    """Task or suite, and a warning: test data that it was trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSpec:
    """An encoder at random initialisation."""

    like: str = ""
    """Folder of the encoder whose architecture it has; empty for patches of 16 x 16, size tiny, at 32 kHz."""
    seed: int = 0
    pooling: Pooling | None = None
    """None for the way of the encoder that it is like."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogmelSpec:
    """The log-mel floor."""

    front_end: LogMelConfig = LogMelConfig()
    token_frames: int = 4
    """Frames side by side in a token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignSpec:
    """An encoder of others that ours can be made of."""

    form: Literal["bird-mae", "audio-mae"] = "bird-mae"
    model: str = ""
    """A folder in the Hub's layout, or OWNER/NAME[@REVISION] of the Hub."""
    pooling: Pooling | None = None
    """None for the way of those who made it."""


Spec = EncoderSpec | RandomSpec | LogmelSpec | ForeignSpec | OnnxSpec | HfSpec

RANDOM = EncoderConfig(
    front_end=LogMelConfig(), patch=PatchConfig(), vit=VitConfig(), clips=ClipConfig(), pooling="mean+std"
)
"""What `random` is like, unless it is told."""

MODELS: dict[str, Spec] = {
    "birdjepa": EncoderSpec(),
    "random": RandomSpec(),
    "logmel": LogmelSpec(),
    "bird-mae-base": ForeignSpec(model="DBD-research-group/Bird-MAE-Base"),
    "bird-mae-large": ForeignSpec(model="DBD-research-group/Bird-MAE-Large"),
    "bird-mae-huge": ForeignSpec(model="DBD-research-group/Bird-MAE-Huge"),
    "audio-mae": ForeignSpec(form="audio-mae", model="gaunernst/vit_base_patch16_1024_128.audiomae_as2m"),
    "perch-v2": OnnxSpec(
        model="hub:justinchuby/Perch-onnx/perch_v2.onnx#da88bf8c37c0b3068fc706fe509f633b9fbd28c1",
        sampling_rate=32_000,
        clip_s=5.0,
        embedding="embedding",
        width=1536,
        tokens="spatial_embedding",
        token_width=1536,
        logits="label",
        labels="hub:cgeorgiaw/Perch/assets/perch_v2_ebird_classes.csv#c3c3c816976a6c1bb75140b8fbaef7397a6f708f",
        peak=0.25,
        licence="Apache-2.0",
        overlaps=(*XENO_CANTO, *FSD50K),
    ),
    "birdnet": OnnxSpec(
        model="hub:tphakala/BattyBirdNET-onnx/birdnet-v2.4-embeddings-fp32-dfttrunc.onnx",
        sampling_rate=48_000,
        clip_s=3.0,
        embedding="#1",
        width=1024,
        licence="CC BY-NC-SA 4.0",
        overlaps=XENO_CANTO,
    ),
    "birdnet-v3": OnnxSpec(
        model="hub:tphakala/BirdNET-v3.0-Models/full/birdnet-v3.0-preview3.1-fp32-b1.onnx",
        sampling_rate=32_000,
        clip_s=5.0,
        embedding="embeddings",
        width=1280,
        noise=1e-5,
        licence="sources differ: CC BY-SA 4.0 (Zenodo 20703646), CC BY-NC-SA (README of the package birdnet)",
        overlaps=XENO_CANTO,
    ),
}
"""By the name that results have. Of the bird models by others, birdnet-v3 is a preview."""


def with_tables(tables: Mapping[str, Any], models: Mapping[str, Spec] = MODELS) -> dict[str, Spec]:
    """The models with the tables [models.NAME] of a TOML file laid over them. A new name needs `kind`, the name of its
    class here (OnnxSpec, HfSpec, EncoderSpec, ...).

    Raises:
      UsageError: naming the setting that does not fit.
    """
    kinds: dict[str, type[Spec]] = {
        kind.__name__: kind for kind in (EncoderSpec, RandomSpec, LogmelSpec, ForeignSpec, OnnxSpec, HfSpec)
    }
    merged = dict(models)
    for name, table in tables.items():
        where = f"models.{name}"
        if not isinstance(table, Mapping):
            raise UsageError(f"{where} must be a table of settings, got {table!r}")
        kind = table.get("kind", type(models[name]).__name__ if name in models else None)
        if kind not in kinds:
            told = "is new and needs a kind" if kind is None else f"has kind {kind!r}"
            raise UsageError(f"{where} {told}: one of {', '.join(kinds)}")
        same = name in models and type(models[name]).__name__ == kind
        merged[name] = configs.overlay(models[name] if same else kinds[kind](), table, where=where)
    return merged


def open_backbone(name: str, spec: Spec, device: torch.device | str = "cpu") -> Backbone:
    """The model that a configuration describes, loaded and compared with what it declares.

    Raises:
      UserError: if it cannot be had, or is not what the configuration says.
    """
    match spec:
        case EncoderSpec(folder=""):
            raise UsageError(f"{name}: say which encoder, by its folder (models.{name}.folder, or the folder as name)")
        case EncoderSpec():
            converted = _converted_form(Path(spec.folder))
            overlaps = spec.overlaps or FOREIGN_OVERLAPS.get(converted, ())
            return open_encoder(spec.folder, name=name, pooling=spec.pooling, overlaps=overlaps, device=device)
        case RandomSpec():
            encoder = load(spec.like, device=device) if spec.like else RANDOM.build().to(device)
            return open_twin(encoder, name=name, seed=spec.seed, pooling=spec.pooling)
        case LogmelSpec():
            return LogMelBackbone(spec.front_end, name=name, token_frames=spec.token_frames, device=device)
        case ForeignSpec():
            return _open_foreign(name, spec, device)
        case OnnxSpec():
            return OnnxBackbone(spec, name=name, device=device)
        case HfSpec():
            return HfBackbone(spec, name=name, device=device)


def _open_foreign(name: str, spec: ForeignSpec, device: torch.device | str) -> EncoderBackbone:
    from birdjepa.checkpoint.foreign import convert

    if not spec.model:
        raise UsageError(f"{name}: set model to a folder or to OWNER/NAME[@REVISION] of the Hub")
    made = convert(spec.form, spec.model)
    origin = made.provenance["converted"]
    return EncoderBackbone(
        made.encoder.to(device),
        name=name,
        licence=origin["terms"],
        pooling=spec.pooling,
        overlaps=FOREIGN_OVERLAPS[spec.form],
        origin={"revision": origin["revision"]},
    )


def _converted_form(folder: Path) -> str:
    """Which kind of foreign encoder a folder was converted from; empty for our own."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(described["provenance"]["converted"]["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # what is wrong with the folder is told when it is loaded
