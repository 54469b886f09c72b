"""What several processes prove to each other before they train together, and at each checkpoint: that exchanges are
right, that all hold the same, that each hears its own recordings. A failure is one line, and nothing is trained.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from birdjepa.core import processes
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UserError


def require_same(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses to go on where processes do not hold the same tensors, bit for bit.

    Raises:
      UserError: naming the process and the first tensor that differs.
    """
    if processes.here().world > 1:
        processes.here().require_equal(what, {name: digest(tensor) for name, tensor in tensors.items()})


def require_own_clips(batches: Sequence[ClipBatch]) -> None:
    """Refuses to go on where two processes hear the very same clips.

    Raises:
      UserError: naming the two processes.
    """
    own = processes.here()
    if own.world == 1:
        return
    heard = own.objects(" ".join(digest(batch.clips) for batch in batches))
    for rank, clips in enumerate(heard):
        if heard.index(clips) < rank:
            raise processes.everywhere(
                UserError(
                    f"process {rank} hears the same clips as process {heard.index(clips)}; nothing was trained with "
                    "them. Each must have its own RANK, and the data more than one recording"
                )
            )


def digest(tensor: Tensor) -> str:
    """Hash of a tensor's values."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()
