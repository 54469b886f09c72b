"""Encoders of other makers as ours: their weights, read from the layout of the Hub, in our transformer with their own
front end, so that embed, probe, finetune and the benchmark take them like any other.

`convert(kind, source)` gives the encoder with its model card. Only safetensors are read, and no code of theirs is run.
"""

from birdjepa.checkpoint.foreign.conversion import Converted, convert
from birdjepa.checkpoint.foreign.kinds import KINDS, Kind

__all__ = ["KINDS", "Converted", "Kind", "convert"]
