"""The classifier that users hold: a fine-tuned encoder and the head that was trained with it, with its folder on disk.

A classifier's folder is an encoder's folder (config.json, model.safetensors, README.md), so that whatever takes an
encoder takes it too, plus head.json and head.safetensors.

Axes: b clips | s audio samples | c classes
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.models.encoder import Encoder
from birdjepa.models.heads import HeadConfig
from birdjepa.models.loading import load, read_description, require_spectrogram
from birdjepa.models.sound_encoder import batches_of_equal_length

FORMAT = 1
Activation = Literal["softmax", "sigmoid"]
"""softmax: each clip is of one class; sigmoid: of any number of them."""


class Prediction(NamedTuple):
    """What `Classifier.predict` returns: one row per clip of the waveform, one column per class."""

    probability: Float[Tensor, "b c"]
    classes: tuple[str, ...]
    start_s: Float[np.ndarray, " b"]
    end_s: Float[np.ndarray, " b"]


class Classifier(nn.Module):
    """`Classifier(encoder, HeadConfig(), classes, is_multi_label=False)` has a head of uninitialised weights.

    Raises:
      ValueError: if there is no class, or one is named twice.
    """

    def __init__(self, encoder: Encoder, head: HeadConfig, classes: Sequence[str], *, is_multi_label: bool) -> None:
        super().__init__()
        if len(set(classes)) != len(classes):
            raise ValueError(f"{len(classes)} classes have {len(set(classes))} names")
        self.encoder = encoder
        self.head_config = head
        self.head = head.build(encoder.config, len(classes))
        self.classes = tuple(classes)
        self.is_multi_label = is_multi_label

    @property
    def activation(self) -> Activation:
        """How logits become probabilities."""
        return "sigmoid" if self.is_multi_label else "softmax"

    def forward(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b c"]:
        """Logits of clips of one length, at the encoder's sampling rate."""
        output = self.encoder(clips)
        return self.head(output, self.encoder.heard(output, clips.shape[1]))

    @torch.inference_mode()
    def predict(
        self, waveform: np.ndarray | Tensor | Sequence[float], *, sampling_rate: int, batch_size: int = 16
    ) -> Prediction:
        """Probabilities of each class in each clip of a waveform (time,) or (channels, time) in [-1, 1], of any length
        and rate, cut as `SoundEncoder.embed` cuts it. A multi-label clip's probabilities need not sum to 1.

        Raises:
          ValueError: as `SoundEncoder.embed`.
        """
        clips = self.encoder.cut(waveform, sampling_rate=sampling_rate)
        batches = batches_of_equal_length(clips.samples, batch_size)
        logits = torch.cat([self(torch.from_numpy(np.stack(batch)).to(self.encoder.device)) for batch in batches])
        return Prediction(probabilities(logits, self.activation), self.classes, clips.start_s, clips.end_s)

    def save(self, folder: Path | str, *, card: str, provenance: dict[str, Any]) -> Path:
        """Writes the encoder's files and head.safetensors, then head.json, each atomically."""
        folder = Path(folder)
        self.encoder.save(folder, card=card, provenance=provenance)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        files.write_bytes(folder / "head.safetensors", save(weights, metadata={"format": "pt"}))
        described = {
            "library_name": "birdjepa",
            "model_type": "birdjepa-head",
            "format": FORMAT,
            "activation": self.activation,
            "classes": list(self.classes),
            "weights_sha256": files.sha256(folder / "head.safetensors"),
            "encoder_sha256": files.sha256(folder / "model.safetensors"),
            "config": configs.to_json(self.head_config),
            "provenance": provenance,
        }
        files.write_json(folder / "head.json", described)
        return folder


def probabilities(logits: Float[Tensor, "b c"], activation: Activation) -> Float[Tensor, "b c"]:
    """Probabilities of float32 or float64 logits."""
    return logits.softmax(1) if activation == "softmax" else logits.sigmoid()


def load_classifier(folder: Path | str, *, device: torch.device | str = "cpu") -> Classifier:
    """The classifier in a folder, ready for use (evaluation mode, no gradients).

    Strict, as `loading.load`: nothing may be missing or left over, and encoder and head must match their hashes.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    folder = Path(folder)
    described = read_description(
        folder / "head.json", "head", FORMAT, missing="give the folder of a fine-tuned classifier such as runs/ft/model"
    )
    encoder = require_spectrogram(load(folder, device=device), "a classifier")
    where = folder / "head.json"
    if files.sha256(folder / "model.safetensors") != described.get("encoder_sha256"):
        raise UsageError(f"{where}: its head was trained with another encoder than model.safetensors; export both anew")
    head = configs.from_json(HeadConfig, described.get("config"), where=f"{where}: config")
    classes = described.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise UsageError(f"{where}: classes must be a list of names")
    if described.get("activation") not in ("softmax", "sigmoid"):
        raise UsageError(f"{where}: activation must be softmax or sigmoid, got {described.get('activation')!r}")
    weights = folder / "head.safetensors"
    if not weights.is_file() or files.sha256(weights) != described.get("weights_sha256"):
        raise UsageError(f"{weights}: missing, or does not match the hash in head.json; copy the folder again")
    try:
        classifier = Classifier(encoder, head, classes, is_multi_label=described["activation"] == "sigmoid")
        classifier.head.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise UsageError(f"{weights}: {' '.join(str(error).split())[:300]}") from None
    return classifier.requires_grad_(False).eval().to(device)
