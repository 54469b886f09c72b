"""Checkpoints that DeepSpeed wrote, merged into whole tensors without DeepSpeed, and without running what is in them.

`convert(ds_dir, out)` writes one file. The chain is a module each: which files (layout), reading them safely (pickles),
which numbers of them are which tensor (merging, pieces), what the public reference calls its parts (names), and the
file (writing).
"""

from birdjepa.checkpoint.deepspeed.conversion import Converted, convert
from birdjepa.checkpoint.deepspeed.names import ReferenceEncoder, encoder_names

__all__ = ["Converted", "ReferenceEncoder", "convert", "encoder_names"]
