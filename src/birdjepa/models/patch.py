"""Frames to patches and back: the (time x mel) tiles that become tokens, and the grid that says where each one lies.

A grid holds one row per patch: its centre in seconds from the clip's start, and its centre frequency in octaves above
1 kHz. Positions are thus fixed quantities of the sound, never of the batch, and a subset of the patches is a subset of
the rows. Patches are time-major: all mel rows of the first time column come first.

Axes: b clips | t frames | m mels | n patches | p values per patch
"""

import dataclasses

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from birdjepa.audio.logmel import LogMelConfig, band_centres


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """Size of one patch."""

    frames: int = 16
    """Frames per patch (160 ms at the default hop)."""
    mels: int = 16
    """Mel bands per patch; must divide the front end's n_mels."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.mels < 1:
            raise ValueError(f"a patch needs at least 1 frame and 1 mel, got {self.frames} x {self.mels}")

    @property
    def n_values(self) -> int:
        return self.frames * self.mels

    def n_rows(self, n_mels: int) -> int:
        """Patches on top of each other.

        Raises:
          ValueError: if the patch height does not divide n_mels.
        """
        if n_mels % self.mels:
            raise ValueError(f"patch.mels must divide n_mels={n_mels}, got {self.mels}")
        return n_mels // self.mels


def patchify(frames: Float[Tensor, "b t m"], config: PatchConfig) -> Float[Tensor, "b n p"]:
    """Whole patches only: frames after the last whole patch are left out (at most config.frames - 1 of them)."""
    columns = frames.shape[1] // config.frames
    config.n_rows(frames.shape[2])
    return rearrange(
        frames[:, : columns * config.frames], "b (c t) (r m) -> b (c r) (t m)", t=config.frames, m=config.mels
    )


def unpatchify(tokens: Float[Tensor, "b n p"], config: PatchConfig, n_mels: int) -> Float[Tensor, "b t m"]:
    """Inverse of patchify for a full grid."""
    rows = config.n_rows(n_mels)
    return rearrange(tokens, "b (c r) (t m) -> b (c t) (r m)", r=rows, t=config.frames, m=config.mels)


def patch_grid(n_frames: int, config: PatchConfig, front_end: LogMelConfig) -> Float[Tensor, "n 2"]:
    """Positions of all whole patches of a clip, in the order of patchify: centre in s, log2 of its frequency in kHz."""
    columns, rows = n_frames // config.frames, config.n_rows(front_end.n_mels)
    frame_centre_s = front_end.window / 2 / front_end.sampling_rate
    time_s = frame_centre_s + (np.arange(columns) * config.frames + (config.frames - 1) / 2) / front_end.frame_rate
    octave = np.log2(band_centres(front_end) / 1000).reshape(rows, config.mels).mean(1)
    grid = np.stack(np.broadcast_arrays(time_s[:, None], octave[None, :]), -1).reshape(-1, 2)
    return torch.from_numpy(grid.astype(np.float32))
