"""Audio models of transformers that return hidden states: HuBERT, wav2vec 2.0, WavLM, AST, Whisper's encoder and more.

The feature extractor in the model's folder prepares the clips, so preprocessing is the authors' own. Layers are hidden
states as transformers gives them, the last one through the model's last norm. Code in a repository is never run. A clip
is heard without our padding; where the extractor fills it up to a fixed length, tokens of what it added count for
nothing in the pooling.

Axes: b clips | s audio samples | l layers | n tokens | d width
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.benchmark.backbones.base import Backbone, Card, Heard, Want, unpadded
from birdjepa.benchmark.backbones.licence import licence_of
from birdjepa.core import files
from birdjepa.core.errors import MissingExtraError, UsageError
from birdjepa.data.hub_models import fetch_model, is_hub

NO_FINETUNING = "models of transformers are probed here, not trained: use its own Trainer"
_UNUSED = ("masked_spec_embed",)
"""Weights that only training needs, which a checkpoint may lack."""
_SPECIAL = 2
"""AST's CLS and distillation tokens, ahead of the patches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfSpec:
    """A model of transformers."""

    model: str = ""
    """A folder that save_pretrained wrote, with preprocessor_config.json; or hub:OWNER/NAME[#REVISION]."""
    clip_s: float = 10.0
    """Longest clip, for models that take waveforms of any length; others have their own."""
    pooling: Literal["mean", "cls"] = "mean"
    """Over tokens that heard something; cls, for AST alone, is the mean of its two special tokens."""
    licence: str = ""
    """Empty for what the model's card states."""
    overlaps: tuple[tuple[str, str], ...] = ()
    """Task or suite, and a warning: test data that the model may have been trained on."""


class HfBackbone(Backbone):
    def __init__(self, spec: HfSpec, *, name: str, device: torch.device | str = "cpu") -> None:
        """Raises:
        MissingExtraError: if transformers is not installed.
        UserError: if the model cannot be had or read, or has no hidden states of one shape.
        """
        self.device = torch.device(device)
        self._spec = spec
        folder, commit = _folder(spec.model, name)
        self._model, self._extractor = _load(folder, self.device)
        config = self._model.config
        self._is_ast = config.model_type == "audio-spectrogram-transformer"
        if spec.pooling == "cls" and not self._is_ast:
            raise UsageError(f"{name}: pooling 'cls' is known for AST only, this is {config.model_type}; set 'mean'")
        rate = int(self._extractor.sampling_rate)
        clip_s = _clip_s(self._extractor, spec.clip_s)
        try:
            states = self._states(torch.zeros(1, round(clip_s * rate), device=self.device), spec.model)
        except (TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{name}: {config.model_type} gives no hidden states of sound alone ({reason})") from None
        strides = getattr(config, "conv_stride", None)
        hop_s = clip_s / states[-1].shape[1] if strides is None else math.prod(strides) / rate
        self._hop_s = config.time_stride / 100 if self._is_ast else hop_s
        width = states[-1].shape[2]
        self.card = Card(
            name=name,
            sampling_rate=rate,
            clip_s=clip_s,
            fixed_length=False,
            least_s=_least_samples(config, rate) / rate,
            preprocessing=f"{type(self._extractor).__name__} of transformers",
            width=width,
            n_layers=len(states) - 1,
            token_width=width,
            token_rows=self._n_rows,
            token_hop_s=self._hop_s,
            licence=spec.licence or licence_of(folder),
            overlaps=spec.overlaps,
            no_finetuning=NO_FINETUNING,
        )
        self._identity = {
            "kind": "hf",
            "weights_sha256": _hash(folder),
            "pooling": spec.pooling,
            "clip_s": clip_s,
            "commit": commit,
        }

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def _hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        return unpadded(clips, n_samples, lambda clips: self._of_one_length(clips, want))

    def _of_one_length(self, clips: Float[Tensor, "b s"], want: Want) -> Heard:
        least = self.card.least_samples
        heard = torch.nn.functional.pad(clips, (0, max(0, least - clips.shape[1])))
        states = self._states(heard, self.card.name)
        chosen = [states[layer] for layer in want.layers]
        tokens = [self._in_time(state) for state in chosen]
        starts_s = torch.arange(tokens[0].shape[1], device=self.device) // self._n_rows * self._hop_s
        real = (starts_s < clips.shape[1] / self.card.sampling_rate).expand(len(clips), -1)
        if self._spec.pooling == "cls":
            pooled = [state[:, :_SPECIAL].mean(1) for state in chosen]
        else:
            pooled = [each[:, real[0]].mean(1) for each in tokens]
        return Heard(torch.stack(pooled), tokens[-1], real) if want.tokens else Heard(torch.stack(pooled))

    def _states(self, clips: Float[Tensor, "b s"], called: str) -> list[Float[Tensor, "b n d"]]:
        """Hidden states: 0 is what the first layer reads, the last one is through the last norm."""
        waves = list(clips.cpu().numpy())
        inputs = self._extractor(waves, sampling_rate=int(self._extractor.sampling_rate), return_tensors="pt")
        with torch.inference_mode():
            said = self._model(**inputs.to(self.device), output_hidden_states=True)
        found = [*(said.hidden_states or ())[:-1], said.last_hidden_state]
        if len(found) < 2 or any(each.ndim != 3 or each.shape != found[-1].shape for each in found):
            shapes = sorted({str(list(each.shape)) for each in found})
            raise UsageError(f"{called}: its hidden states have the shapes {', '.join(shapes)}, not one (b, n, d)")
        return [each.float() for each in found]

    @property
    def _n_rows(self) -> int:
        """Tokens of one moment."""
        config = self._model.config
        return (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1 if self._is_ast else 1

    def _in_time(self, state: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """Tokens of sound, time-major. AST's are frequency-major, behind two that stand for all."""
        if not self._is_ast:
            return state
        return rearrange(state[:, _SPECIAL:], "b (f t) d -> b (t f) d", f=self._n_rows)


def _folder(model: str, name: str) -> tuple[Path, str]:
    """Where the model lies on this machine, and its commit."""
    if not model:
        raise UsageError(f"{name}: set model to a folder or to hub:OWNER/NAME[#REVISION]")
    if is_hub(model):
        return fetch_model(model, _needed)
    if not (Path(model) / "config.json").is_file():
        raise UsageError(f"{model}: no config.json there; give a folder of transformers' save_pretrained, or hub:...")
    return Path(model), ""


def _needed(names: Sequence[str]) -> list[str]:
    """Files of a repository that a model is loaded from; safetensors where there are any."""
    for pattern in (
        r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?",
        r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?",
    ):
        weights = [name for name in names if re.fullmatch(pattern, name)]
        if weights and "config.json" in names:
            beside = ("config.json", "preprocessor_config.json", "processor_config.json", "README.md")
            return [*weights, *(name for name in beside if name in names)]
    return []


def _hash(folder: Path) -> str:
    """Of the files that decide the numbers."""
    names = _needed(sorted(path.name for path in folder.iterdir() if path.is_file()))
    each = [f"{name} {files.sha256(folder / name)}" for name in names if name != "README.md"]
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def _load(folder: Path, device: torch.device) -> tuple[Any, Any]:
    """The model, or its encoder, for evaluation; and its feature extractor."""
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    from transformers.utils import logging

    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in described and described.get("model_type") not in transformers.CONFIG_MAPPING:
        raise UsageError(f"{folder}: this model is code of its own, which is not run here; convert it or use ONNX")
    logging.set_verbosity_error()  # what it says of unused heads; what matters is checked below
    logging.disable_progress_bar()
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        model, info = transformers.AutoModel.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{folder}: {' '.join(str(error).split())[:300]}") from None
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(_UNUSED))
    if missing or info["mismatched_keys"]:
        raise UsageError(f"{folder}: weights are missing or do not fit: {', '.join(missing)[:300] or 'their shapes'}")
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return model.requires_grad_(False).eval().to(device), extractor


def _clip_s(extractor: Any, otherwise: float) -> float:
    """What the extractor fills clips up to, in seconds, if it does so."""
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return extractor.max_length / 100  # frames of 10 ms
    if getattr(extractor, "n_samples", None):
        return extractor.n_samples / extractor.sampling_rate
    return otherwise


def _least_samples(config: Any, rate: int) -> int:
    """Samples of a clip that gives one token: what the convolutions read for it, or one analysis window of 25 ms."""
    kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
    if kernels is None or strides is None:
        return round(0.025 * rate)
    n_samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        n_samples = (n_samples - 1) * stride + kernel
    return n_samples
