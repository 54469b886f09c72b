"""What a training loop is handed: a batch of clips, wherever it came from.

Axes: b clips | s audio samples | c classes
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from birdjepa.core.failures import Failure


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """Clips as they come from the loader; `move` puts them on a device."""

    clips: Float[Tensor, "b s"]
    label: Int[Tensor, " b"]
    """Class number of the recording; -1 where it has none."""
    labels: Bool[Tensor, "b c"]
    """Every class of the recording; none set where it has no label."""
    recording: Int[Tensor, " b"]
    """Number of the recording over all sources: stable for one list of sources."""
    refused: tuple[Failure, ...]
    """What was passed over while this batch was made."""

    def move(self, device: torch.device) -> "ClipBatch":
        return dataclasses.replace(
            self,
            clips=self.clips.to(device, non_blocking=True),
            label=self.label.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            recording=self.recording.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "ClipBatch":
        """Called by torch's loader."""
        return dataclasses.replace(
            self,
            clips=self.clips.pin_memory(),
            label=self.label.pin_memory(),
            labels=self.labels.pin_memory(),
            recording=self.recording.pin_memory(),
        )
