"""Encoders of our own kind as backbones: exports, random twins, and what was converted to them (Bird-MAE, Audio-MAE).

Tokens are the patches, time-major. A clip is heard without its padding. An encoder that knows clips of one length only
pads shorter ones itself: patches of what it added count for nothing in the pooling. Of a whole clip all patches count,
as for those who made it.

Axes: b clips | s audio samples | n patches | l layers
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.benchmark.backbones.base import Backbone, Card, Heard, Want, unpadded
from birdjepa.benchmark.backbones.licence import licence_of
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.embed.collection import weights_sha256
from birdjepa.embed.embedders import random_twin
from birdjepa.models.encoder import Encoder
from birdjepa.models.loading import load
from birdjepa.models.pool import Pooling, pool
from birdjepa.models.sound_encoder import SoundEncoder, SoundEncoderConfig

NO_FINETUNING = "only encoders on log-mel patches can be fine-tuned"


class EncoderBackbone(Backbone):
    """Any encoder of ours: what else there is to know of it is given with it."""

    def __init__(
        self,
        encoder: SoundEncoder,
        *,
        name: str,
        licence: str,
        pooling: Pooling | None = None,
        overlaps: tuple[tuple[str, str], ...] = (),
        origin: dict[str, Any] | None = None,
    ) -> None:
        """origin is what else there is to note in the identity: the seed of a twin, the revision of what was converted.

        Raises:
          UsageError: if it cannot be pooled so.
        """
        self.encoder, self.device = encoder, encoder.device
        self._pooling: Pooling = pooling or encoder.config.pooling
        config = encoder.config
        self.card = Card(
            name=name,
            sampling_rate=config.sampling_rate,
            clip_s=config.clips.clip_s,
            fixed_length=False,
            preprocessing=config.described,
            width=_width(config, self._pooling),
            n_layers=config.n_layers,
            token_width=config.token_width,
            token_rows=config.n_rows,
            token_hop_s=config.token_hop / config.sampling_rate,
            licence=licence,
            overlaps=overlaps,
            no_finetuning="" if isinstance(encoder, Encoder) else NO_FINETUNING,
        )
        self._identity = {
            "kind": "encoder",
            "config": configs.to_json(config),
            "pooling": self._pooling,
            "weights_sha256": weights_sha256(encoder),
            **(origin or {}),
        }

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    def _hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        return unpadded(clips, n_samples, lambda clips: self._of_one_length(clips, want))

    def _of_one_length(self, clips: Float[Tensor, "b s"], want: Want) -> Heard:
        encoder = self.encoder
        if want.layers == (self.card.n_layers,):
            outputs = [encoder(clips)]
        else:
            every = encoder.layers(clips)
            outputs = [every[layer - 1] for layer in want.layers]
        starts_s, _ = encoder.patch_spans(outputs[-1].patches.shape[1])
        until_s = clips.shape[1] / encoder.sampling_rate if clips.shape[1] < self.card.clip_samples else math.inf
        real = torch.from_numpy(starts_s < until_s).to(clips.device).expand(len(clips), -1)
        pooled = [pool(output, self._pooling, encoder.config.n_rows, real.float()) for output in outputs]
        if not want.tokens:
            return Heard(torch.stack(pooled))
        return Heard(torch.stack(pooled), outputs[-1].patches.float(), real)


def open_encoder(
    folder: Path | str,
    *,
    name: str,
    pooling: Pooling | None = None,
    overlaps: tuple[tuple[str, str], ...] = (),
    device: torch.device | str = "cpu",
) -> EncoderBackbone:
    """An export, or a converted encoder in the same form.

    Raises:
      UsageError: naming the file and what is wrong with it; or if it cannot be pooled so.
    """
    encoder = load(folder, device=device)
    licence = licence_of(Path(folder))
    return EncoderBackbone(encoder, name=name, licence=licence, pooling=pooling, overlaps=overlaps)


def open_twin(encoder: SoundEncoder, *, name: str, seed: int, pooling: Pooling | None = None) -> EncoderBackbone:
    """The encoder's architecture at random initialisation: the floor of what that alone is good for.

    Raises:
      UsageError: if it cannot be pooled so.
    """
    twin = random_twin(encoder, seed)
    return EncoderBackbone(twin, name=name, licence="nothing to license", pooling=pooling, origin={"seed": seed})


def _width(config: SoundEncoderConfig, pooling: Pooling) -> int:
    """Numbers in one embedding that is pooled so."""
    if pooling == "cls" and not config.n_cls:
        raise UsageError("the encoder has no CLS token: choose another pooling (mean, mean+std, max, rows, rows+std)")
    return configs.overlay(config, {"pooling": pooling}).embedding_width
