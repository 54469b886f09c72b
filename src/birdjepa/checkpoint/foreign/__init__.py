"""Encoders of other makers as ours: their weights, read from the layout of the Hub, in our transformer with their own
front end, so that embed, probe, finetune and the benchmark take them like any other.

`convert(kind, source)` gives the encoder with its model card; `convert_daam(source)` that of the public
density-adaptive JEPA, in our network for waveforms. Only safetensors are read (and DeepSpeed's files, by
checkpoint/deepspeed), and no code of theirs is run.
"""

from birdjepa.checkpoint.foreign.conversion import Converted, convert
from birdjepa.checkpoint.foreign.daam import convert_daam
from birdjepa.checkpoint.foreign.kinds import KINDS, Kind

__all__ = ["KINDS", "Converted", "Kind", "convert", "convert_daam"]
