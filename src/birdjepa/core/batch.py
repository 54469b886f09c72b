"""What a training loop is handed: a batch of clips, wherever it came from.

Axes: b clips | s audio samples | c classes
"""

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from birdjepa.core.failures import Failure

_TENSORS = ("clips", "lengths", "label", "labels", "recording")


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """Clips as they come from the loader; `move` puts them on a device."""

    clips: Float[Tensor, "b s"]
    lengths: Int[Tensor, " b"]
    """Samples of each clip that are sound; zeros follow."""
    label: Int[Tensor, " b"]
    """Class number of the recording; -1 where it has none."""
    labels: Bool[Tensor, "b c"]
    """Every class of the recording; none set where it has no label."""
    recording: Int[Tensor, " b"]
    """Number of the recording over all sources: stable for one list of sources."""
    refused: tuple[Failure, ...]
    """What was passed over while this batch was made."""

    def move(self, device: torch.device) -> "ClipBatch":
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> "ClipBatch":
        """Called by torch's loader."""
        return dataclasses.replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})

    def select(self, rows: list[int]) -> "ClipBatch":
        """Some clips of the batch, in the order given."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in _TENSORS})
