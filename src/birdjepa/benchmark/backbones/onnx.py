"""Any model in an ONNX file, through onnxruntime: Perch, BirdNET, your own. Waveforms in, named tensors out.

A tensor is named as the file names it, exported or not (`onnx_graph`), or by its place among the outputs: "#0" is the
first. The first axis of a tensor is the batch; of tokens the second is time and the last their width, and axes between
them are frequencies. What the model gives is compared with what the settings declare before anything is embedded: a
wrong tensor that has the right rank gives scores too.

Axes: b clips | s audio samples | e pooled embedding | n tokens | d width of a token | c classes
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.benchmark.backbones import onnx_graph
from birdjepa.benchmark.backbones.base import Backbone, Card, Heard, Want
from birdjepa.benchmark.backbones.licence import NOT_STATED
from birdjepa.benchmark.backbones.vocabulary import read_classes
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import MissingExtraError, UsageError
from birdjepa.core.telling import tell
from birdjepa.data.hub_models import fetch_file

NO_FINETUNING = "an ONNX file is run, not trained: its graph has no gradients"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxSpec:
    """A model in an ONNX file, and what there is to know of it that the file does not say."""

    model: str = ""
    """A path, or hub:OWNER/NAME/PATH[#REVISION]."""
    sampling_rate: int = 32_000
    """In Hz."""
    clip_s: float = 5.0
    """Length of its clips; shorter examples are padded with zeros."""
    input: str = ""
    """Name of the waveform's tensor; empty if it is the only one."""
    input_shape: Literal["b s", "b 1 s", "s"] = "b s"
    """Axes of that tensor: clips, channel, samples."""
    embedding: str = ""
    """Tensor (b, width): one embedding per clip."""
    width: int = 0
    """Numbers in an embedding."""
    tokens: str = ""
    """Tensor (b, time, ..., token_width); empty if there is none."""
    token_width: int = 0
    """Numbers in a token."""
    logits: str = ""
    """Tensor (b, classes), logits or anything that grows with them; empty if there is none. Needs labels."""
    labels: str = ""
    """File of the classes' names, one a line or the first column of a CSV; given like model."""
    peak: float = 0.0
    """Each clip is scaled so that its loudest sample is this; 0 leaves it as it is."""
    noise: float = 0.0
    """Standard deviation of fixed noise added to each clip, for models that answer digital silence with NaN."""
    licence: str = NOT_STATED
    overlaps: tuple[tuple[str, str], ...] = ()
    """Task or suite, and a warning: test data that the model may have been trained on."""


class OnnxBackbone(Backbone):
    def __init__(self, spec: OnnxSpec, *, name: str, device: torch.device | str = "cpu") -> None:
        """Raises:
        MissingExtraError: if onnxruntime is not installed.
        UserError: if the file cannot be had or read, or is not what the settings say; the message names what to set.
        """
        self.device = torch.device(device)
        self._spec, self._name = spec, name
        if not spec.model or not spec.embedding:
            raise UsageError(f"{name}: set model (a file) and embedding (the tensor that is one embedding per clip)")
        path, commit = fetch_file(spec.model)
        self._session, self._tensors = self._open(path)
        self._input, self._batch = self._find_input()
        silent = self._run(np.zeros((1, round(spec.clip_s * spec.sampling_rate)), dtype=np.float32))
        classes, labels_sha256 = self._read_labels(silent["logits"]) if spec.logits else ((), "")
        rows, hop_s = self._compare(silent)
        steps = (f"scaled to a peak of {spec.peak:g}" if spec.peak else "", "noise added" if spec.noise else "")
        self.card = Card(
            name=name,
            sampling_rate=spec.sampling_rate,
            clip_s=spec.clip_s,
            fixed_length=True,
            preprocessing=", ".join(("waveform", *filter(None, steps))),
            width=spec.width,
            token_width=spec.token_width if spec.tokens else None,
            token_rows=rows,
            token_hop_s=hop_s,
            classes=classes,
            licence=spec.licence,
            overlaps=spec.overlaps,
            no_finetuning=NO_FINETUNING,
        )
        said_elsewhere = ("model", "labels", "licence", "overlaps")
        self._identity = {
            **{field: value for field, value in configs.to_json(spec).items() if field not in said_elsewhere},
            "kind": "onnx",
            "weights_sha256": files.sha256(path),
            "labels_sha256": labels_sha256,
            "commit": commit,
        }

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def _hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        said = self._run(clips.cpu().numpy(), tokens=want.tokens, logits=want.logits)
        given = {what: torch.from_numpy(array).to(self.device, torch.float32) for what, array in said.items()}
        tokens = real = None
        if want.tokens:
            columns = torch.arange(given["tokens"].shape[1]) * (clips.shape[1] / given["tokens"].shape[1])
            real = (columns < n_samples[:, None]).repeat_interleave(self.card.token_rows, 1).to(self.device)
            tokens = given["tokens"].flatten(1, -2)
        return Heard(given["embedding"][None], tokens, real, given.get("logits"))

    def _open(self, path: Path) -> tuple[Any, dict[str, str]]:
        """A session, and the tensors of the settings by what they are; those that are not exported are added to it."""
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3  # errors alone
        providers = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, "CUDAExecutionProvider")
            else:
                tell(f"{self._name} runs on the CPU, for this onnxruntime has no CUDA: pip install onnxruntime-gpu")

        def session(model: str | bytes) -> Any:
            try:
                return onnxruntime.InferenceSession(model, options, providers=providers)
            except Exception as error:  # onnxruntime's own errors have no other base
                raise UsageError(f"{path}: cannot be opened: {' '.join(str(error).split())[:300]}") from None

        opened = session(str(path))
        exported = [each.name for each in opened.get_outputs()]
        asked = {what: getattr(self._spec, what) for what in ("embedding", "tokens", "logits")}
        found = {what: _by_place(name, exported) for what, name in asked.items() if name}
        hidden = sorted(set(found.values()) - set(exported))
        if hidden:
            model = path.read_bytes()
            _require(hidden, onnx_graph.tensors(model), exported, path)
            opened = session(onnx_graph.with_outputs(model, hidden))
        return opened, found

    def _find_input(self) -> tuple[str, int]:
        """Name of the input, and how many clips it takes at once; 0 for any number."""
        inputs = {each.name: list(each.shape) for each in self._session.get_inputs()}
        name = self._spec.input or next(iter(inputs))
        if name not in inputs or (not self._spec.input and len(inputs) > 1):
            raise UsageError(f"{self._spec.model}: set input to the waveform's tensor, one of {', '.join(inputs)}")
        shape, axes = inputs[name], self._spec.input_shape.split()
        if len(shape) != len(axes):
            raise UsageError(f"{self._spec.model}: {name} has the shape {shape}, but input_shape is {axes}")
        n_samples = round(self._spec.clip_s * self._spec.sampling_rate)
        if isinstance(shape[-1], int) and shape[-1] != n_samples:
            raise UsageError(
                f"{self._spec.model}: {name} takes {shape[-1]} samples; clip_s x sampling_rate gives {n_samples}"
            )
        if axes == ["s"]:
            return name, 1
        return name, shape[0] if isinstance(shape[0], int) else 0

    def _run(
        self, clips: Float[np.ndarray, "b s"], *, tokens: bool = True, logits: bool = True
    ) -> dict[str, np.ndarray]:
        """What the model says of clips, by the settings' names; the batch is the first axis."""
        clips = self._prepared(clips)
        wanted = [what for what in self._tensors if what == "embedding" or (tokens if what == "tokens" else logits)]
        size = self._batch or len(clips)
        parts: list[list[np.ndarray]] = []
        for first in range(0, len(clips), size):
            batch = clips[first : first + size]
            missing = size - len(batch)
            batch = np.pad(batch, ((0, missing), (0, 0)))
            given = {"b s": batch, "b 1 s": batch[:, None], "s": batch[0]}[self._spec.input_shape]
            said = self._session.run([self._tensors[what] for what in wanted], {self._input: given})
            if self._spec.input_shape == "s":
                said = [each if each.ndim and each.shape[0] == 1 else each[None] for each in said]
            parts.append([each[: size - missing] for each in said])
        return {what: np.concatenate(each) for what, each in zip(wanted, zip(*parts, strict=True), strict=True)}

    def _prepared(self, clips: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b s"]:
        spec = self._spec
        if spec.peak:
            loudest = np.abs(clips).max(1, keepdims=True)
            clips = clips * (spec.peak / np.where(loudest > 0, loudest, spec.peak))
        if spec.noise:
            fixed = np.random.default_rng(0).standard_normal(clips.shape[1])
            clips = clips + spec.noise * fixed
        return np.ascontiguousarray(clips, dtype=np.float32)

    def _read_labels(self, logits: np.ndarray) -> tuple[tuple[str, ...], str]:
        if not self._spec.labels:
            raise UsageError(f"{self._name}: logits need labels, a file with the names of their classes")
        path, _ = fetch_file(self._spec.labels)
        try:
            return read_classes(str(path), path.read_text(encoding="utf-8"), logits.shape[-1]), files.sha256(path)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _compare(self, silent: dict[str, np.ndarray]) -> tuple[int, float | None]:
        """Whether silence gives what the settings declare; rows of tokens and their hop."""
        spec = self._spec
        found = silent["embedding"]
        if found.ndim != 2 or found.shape[1] != spec.width:
            raise UsageError(
                f"{spec.model}: {spec.embedding} has the shape {list(found.shape)} for one clip, and width says"
                f" {spec.width}: set width to its last number if this is the embedding"
            )
        if not spec.tokens:
            return 1, None
        found = silent["tokens"]
        if found.ndim < 3 or found.shape[-1] != spec.token_width:
            raise UsageError(
                f"{spec.model}: {spec.tokens} has the shape {list(found.shape)} for one clip, and token_width says"
                f" {spec.token_width}; tokens have the shape (clips, time, ..., token_width)"
            )
        return int(np.prod(found.shape[2:-1])), spec.clip_s / found.shape[1]


def _by_place(name: str, exported: Sequence[str]) -> str:
    """The name of the output that "#1" means; any other name as it is."""
    is_place = name.startswith("#") and name[1:].isdecimal() and int(name[1:]) < len(exported)
    return exported[int(name[1:])] if is_place else name


def _require(names: Sequence[str], computed: Sequence[str], exported: Sequence[str], path: Path) -> None:
    """Refuses tensors that the model does not even compute, with those of names like theirs."""
    for name in names:
        if name not in computed:
            close = difflib.get_close_matches(name, computed, n=5, cutoff=0.3)
            more = f", and computes {', '.join(close)} among others" if close else ""
            raise UsageError(f"{path}: has no tensor {name!r}; it exports {', '.join(exported)}{more}")
