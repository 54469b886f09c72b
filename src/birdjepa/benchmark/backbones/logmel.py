"""The log-mel floor: mean and standard deviation of each band over the clip, which any encoder must beat.

Loudness counts, for the front end normalises by fixed constants. Tokens are frames, some of them side by side, so that
classifiers of tokens have a floor too.

Axes: b clips | s audio samples | t frames | m mel bands
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark.backbones.base import Backbone, Card, Heard, Want, unpadded
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.embed.embedders import statistics

LONGEST_S = 60.0
"""The statistics of longer examples are averaged over clips of this length."""


class LogMelBackbone(Backbone):
    def __init__(
        self, front_end: LogMelConfig, *, name: str, token_frames: int = 4, device: torch.device | str = "cpu"
    ) -> None:
        """token_frames is the number of frames in a token.

        Raises:
          UsageError: if the front end normalises by clip, or a token has no frame.
        """
        if front_end.normalise != "fixed":
            raise UsageError(f"{name}: front_end.normalise must be 'fixed', so that loudness counts")
        if token_frames < 1:
            raise UsageError(f"{name}: token_frames must be at least 1, got {token_frames}")
        self.device = torch.device(device)
        self.config, self.token_frames = front_end, token_frames
        self._front_end = front_end.build().to(self.device)
        bands = f"{front_end.n_mels} {front_end.mel_scale} bands from {front_end.f_min:g} to {front_end.f_max:g} Hz"
        self.card = Card(
            name=name,
            sampling_rate=front_end.sampling_rate,
            clip_s=LONGEST_S,
            fixed_length=False,
            preprocessing=f"log-mel, {bands} every {1000 / front_end.frame_rate:g} ms",
            width=2 * front_end.n_mels,
            token_width=token_frames * front_end.n_mels,
            token_hop_s=token_frames / front_end.frame_rate,
            licence="nothing to license",
            no_finetuning="it has nothing that could be trained",
        )

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "logmel", "front_end": configs.to_json(self.config), "token_frames": self.token_frames}

    def _hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        return unpadded(clips, n_samples, lambda clips: self._of_one_length(clips, want))

    def _of_one_length(self, clips: Float[Tensor, "b s"], want: Want) -> Heard:
        frames = self._front_end(F.pad(clips, (0, max(0, self.config.window - clips.shape[1]))))
        pooled = statistics(frames, frames.new_ones(frames.shape[:2]))[None]
        if not want.tokens:
            return Heard(pooled)
        rest = -frames.shape[1] % self.token_frames
        whole = F.pad(frames, (0, 0, 0, rest), value=self.config.silence)
        tokens = rearrange(whole, "b (n t) m -> b n (t m)", t=self.token_frames)
        return Heard(pooled, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))
