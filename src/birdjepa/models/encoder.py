"""The encoder that users hold: front end, patches and transformer in one module, with its folder on disk.

`load(folder)` gives one back; `encoder.embed(waveform, sampling_rate=...)` is all that most people need. A folder holds
config.json, model.safetensors and README.md (the model card), which is also the layout for the Hub.

Axes: b clips | s audio samples | t frames | m mels | n patches | e embedding
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.audio.clips import ClipConfig, cut
from birdjepa.audio.decode import resample
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import config as configs
from birdjepa.core import files, random
from birdjepa.core.errors import UsageError
from birdjepa.models.patch import PatchConfig, patch_grid, patchify
from birdjepa.models.pool import Pooling, pool
from birdjepa.models.vit import EncoderOutput, VitConfig

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that turns a waveform into an embedding."""

    front_end: LogMelConfig
    patch: PatchConfig
    vit: VitConfig
    clips: ClipConfig
    pooling: Pooling
    """How tokens become one embedding, unless the caller asks for another way."""

    def __post_init__(self) -> None:
        self.patch.n_rows(self.front_end.n_mels)
        longest = self.front_end.clip_samples
        if longest and round(self.clips.clip_s * self.front_end.sampling_rate) > longest:
            raise ValueError(
                f"clips.clip_s={self.clips.clip_s:g} s is too long: this encoder takes clips of at most "
                f"{longest / self.front_end.sampling_rate:g} s"
            )
        if self.vit.n_positions and (not longest or self.vit.n_positions != self.n_patches):
            raise ValueError(
                f"vit.n_positions={self.vit.n_positions} must be the patches of a whole clip of front_end.clip_samples="
                f"{longest}, which are {self.n_patches if longest else 'not set'}"
            )
        if self.pooling == "fc_norm" and not self.vit.fc_norm:
            raise ValueError("pooling=fc_norm needs an encoder with that norm (vit.fc_norm): take another pooling")

    @property
    def n_rows(self) -> int:
        """Frequency rows of the patch grid."""
        return self.patch.n_rows(self.front_end.n_mels)

    @property
    def n_patches(self) -> int:
        """Patches of a whole clip."""
        n_frames = self.front_end.n_frames(round(self.clips.clip_s * self.front_end.sampling_rate))
        n_frames = self.front_end.clip_frames or n_frames
        return n_frames // self.patch.frames * self.n_rows

    @property
    def embedding_width(self) -> int:
        """Numbers in one pooled embedding."""
        width = self.vit.width
        if self.pooling == "cls":
            return width * self.vit.n_cls
        rows = self.n_rows if self.pooling.startswith("rows") else 1
        return width * rows * (2 if self.pooling.endswith("+std") else 1)

    @property
    def least_s(self) -> float:
        """Length of the shortest clip that fills one patch column, in seconds."""
        return self.min_samples / self.front_end.sampling_rate

    @property
    def min_samples(self) -> int:
        """Shortest clip that fills one patch column, in samples; shorter ones are padded with zeros to it."""
        return self.front_end.n_samples(self.patch.frames)

    def build(self) -> "Encoder":
        """An encoder with uninitialised weights."""
        return Encoder(self)


class Embedding(NamedTuple):
    """What `Encoder.embed` returns: one row per clip of the waveform."""

    embedding: Float[Tensor, "b e"]
    start_s: Float[np.ndarray, " b"]
    end_s: Float[np.ndarray, " b"]


class WaveformClips(NamedTuple):
    """What `Encoder.cut` returns, one entry per clip."""

    samples: list[Float[np.ndarray, " _"]]
    start_s: Float[np.ndarray, " b"]
    end_s: Float[np.ndarray, " b"]


class Encoder(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = config.front_end.build()
        self.vit = config.vit.build(config.patch.n_values)

    def initialise(self, seed: int) -> "Encoder":
        """Random weights from the seed's "initialise" stream; what a probe's random floor uses too."""
        self.vit.initialise(random.torch_generator(seed, "initialise"))
        return self

    @property
    def sampling_rate(self) -> int:
        """The rate in Hz that `forward` expects."""
        return self.config.front_end.sampling_rate

    @property
    def device(self) -> torch.device:
        return self.vit.embed.weight.device

    def frames(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t m"]:
        """Normalised log-mel frames; clips too short for one patch are padded with zeros first."""
        short = self.config.min_samples - clips.shape[1]
        return self.front_end(F.pad(clips, (0, short)) if short > 0 else clips)

    def tokenise(self, clips: Float[Tensor, "b s"]) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "1 n 2"]]:
        """All whole patches of each clip and their grid. Up to one patch length at a clip's end goes unseen."""
        frames = self.frames(clips)
        return patchify(frames, self.config.patch), self.grid(frames.shape[1])[None]

    def grid(self, n_frames: int) -> Float[Tensor, "n 2"]:
        """Positions of the patches of n_frames frames, on the encoder's device."""
        return patch_grid(n_frames, self.config.patch, self.config.front_end).to(self.device)

    def forward(self, clips: Float[Tensor, "b s"]) -> EncoderOutput:
        """Tokens of clips of one length, at the encoder's sampling rate."""
        return self.vit(*self.tokenise(clips))

    def heard(self, output: EncoderOutput, n_samples: int) -> Float[Tensor, "b n"]:
        """How much each patch of clips of n_samples counts when they are pooled: not at all if it is padding and
        nothing else, where the front end pads clips. Of a whole clip all patches count, as for those who made it.
        """
        front_end, patch = self.config.front_end, self.config.patch
        weights = output.patches.new_ones(output.patches.shape[:2], dtype=torch.float32)
        if n_samples < front_end.clip_samples:
            columns = max(1, -(-front_end.n_heard(n_samples) // patch.frames))
            weights[:, columns * self.config.n_rows :] = 0
        return weights

    def patch_spans(self, n_patches: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Start and end of each patch in seconds from the clip's start: the samples that its frames read."""
        front_end, patch = self.config.front_end, self.config.patch
        column = np.arange(n_patches) // self.config.n_rows
        start = column * patch.frames * front_end.hop
        return start / self.sampling_rate, (start + front_end.n_samples(patch.frames)) / self.sampling_rate

    @torch.inference_mode()
    def pooled(self, clips: Float[Tensor, "b s"], pooling: Pooling | None = None) -> Float[Tensor, "b e"]:
        """One embedding per clip, all clips of one length."""
        output = self(clips)
        return pool(output, pooling or self.config.pooling, self.config.n_rows, self.heard(output, clips.shape[1]))

    @torch.inference_mode()
    def embed(
        self,
        waveform: np.ndarray | Tensor | Sequence[float],
        *,
        sampling_rate: int,
        pooling: Pooling | None = None,
        batch_size: int = 16,
    ) -> Embedding:
        """Embeddings of a waveform (time,) or (channels, time) in [-1, 1], of any length and rate: one row per clip.

        Channels are averaged. The waveform is cut into clips as recordings are (config.clips); the last one may be
        shorter.

        Raises:
          ValueError: if the waveform is empty, not finite, of integers, or not of these shapes; or a number is not
          positive.
        """
        clips = self.cut(waveform, sampling_rate=sampling_rate)
        batches = batches_of_equal_length(clips.samples, batch_size)
        rows = [self.pooled(torch.from_numpy(np.stack(batch)).to(self.device), pooling) for batch in batches]
        return Embedding(torch.cat(rows), clips.start_s, clips.end_s)

    def cut(self, waveform: np.ndarray | Tensor | Sequence[float], *, sampling_rate: int) -> "WaveformClips":
        """The clips of a waveform as `embed` hears them: mono, at the encoder's rate, the last one perhaps shorter.

        Raises:
          ValueError: as `embed`.
        """
        if sampling_rate < 1:
            raise ValueError(f"sampling_rate must be positive, got {sampling_rate}")
        pieces = list(cut([_mono(waveform)], sampling_rate, self.config.clips, least_s=self.config.least_s))
        start = np.array([first for first, _ in pieces]) / sampling_rate
        end = start + np.array([len(piece) for _, piece in pieces]) / sampling_rate
        return WaveformClips([resample(piece, sampling_rate, self.sampling_rate) for _, piece in pieces], start, end)

    def save(self, folder: Path | str, *, card: str, provenance: dict[str, Any]) -> Path:
        """Writes config.json, model.safetensors and README.md, each atomically."""
        folder = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        files.write_bytes(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
        described = {
            "library_name": "birdjepa",
            "model_type": "birdjepa-encoder",
            "format": FORMAT,
            "sampling_rate": self.sampling_rate,
            "weights_sha256": files.sha256(folder / "model.safetensors"),
            "config": configs.to_json(self.config),
            "provenance": provenance,
        }
        files.write_text(folder / "README.md", card)
        files.write_json(folder / "config.json", described)
        return folder


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in a folder, ready for use (evaluation mode, no gradients).

    Strict: the configuration must be complete, every tensor must be there and no other, and the weights must match
    their hash.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    folder = Path(folder)
    described = _read_description(folder)
    encoder = _config_of(folder, described).build()
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UsageError(f"{weights}: missing; an encoder folder holds config.json and model.safetensors")
    if files.sha256(weights) != described.get("weights_sha256"):
        raise UsageError(f"{weights}: does not match the hash in config.json; copy the folder again or export it anew")
    try:
        encoder.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise UsageError(f"{weights}: {' '.join(str(error).split())[:300]}") from None
    return encoder.requires_grad_(False).eval().to(device)


def read_config(folder: Path | str) -> EncoderConfig:
    """The configuration of the encoder in a folder, without its weights.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    return _config_of(Path(folder), _read_description(Path(folder)))


def read_provenance(folder: Path | str) -> dict[str, Any]:
    """Where the encoder in a folder came from; `converted` is in it for weights of other makers: kind, source,
    revision, licence, terms, trained_on and overlap.

    Raises:
      UsageError: if there is no encoder.
    """
    return _read_description(Path(folder)).get("provenance") or {}


def batches_of_equal_length(
    clips: Sequence[Float[np.ndarray, " _"]], batch_size: int
) -> list[list[Float[np.ndarray, " _"]]]:
    """Clips in their order, grouped into runs of one length and at most batch_size.

    Raises:
      ValueError: if batch_size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    batches: list[list[np.ndarray]] = []
    for clip in clips:
        if batches and len(batches[-1]) < batch_size and len(batches[-1][0]) == len(clip):
            batches[-1].append(clip)
        else:
            batches.append([clip])
    return batches


def _mono(waveform: np.ndarray | Tensor | Sequence[float]) -> Float[np.ndarray, " s"]:
    """The mean over channels as float32, or a ValueError that says what the waveform should be."""
    given = waveform.detach().cpu() if isinstance(waveform, Tensor) else waveform
    samples = np.asarray(given.float() if isinstance(given, Tensor) and given.is_floating_point() else given)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise ValueError(f"waveform must be (time,) or (channels, time) and not empty, got shape {samples.shape}")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise ValueError(f"waveform must be (channels, time), got shape {samples.shape}: transpose it")
    if samples.dtype.kind != "f":
        raise ValueError(f"waveform must be floats in [-1, 1], got {samples.dtype}: divide 16-bit samples by 32768")
    if not np.isfinite(samples).all():
        raise ValueError("waveform holds NaN or infinite samples")
    return (samples.mean(0) if samples.ndim == 2 else samples).astype(np.float32, copy=False)


def _config_of(folder: Path, described: dict[str, Any]) -> EncoderConfig:
    return configs.from_json(EncoderConfig, described.get("config"), where=f"{folder / 'config.json'}: config")


def _read_description(folder: Path) -> dict[str, Any]:
    missing = "give an encoder folder such as runs/first/encoder"
    return read_description(folder / "config.json", "encoder", FORMAT, missing=missing)


def read_description(path: Path, what: str, version: int, *, missing: str) -> dict[str, Any]:
    """The JSON that an export describes itself by: of model_type birdjepa-WHAT, in a format of this version.

    Raises:
      UsageError: naming the file, and what to do where it is missing.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{path}: missing; {missing}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    is_ours = isinstance(described, dict) and described.get("model_type") == f"birdjepa-{what}"
    if not is_ours or described.get("format") != version:
        raise UsageError(f"{path}: not a birdjepa {what} of format {version}")
    return described
