"""The engine that a configuration names, for as many processes as there are."""

import torch

from birdjepa.core import processes
from birdjepa.core.errors import UsageError
from birdjepa.train.engine import Engine, SingleEngine


def make_engine(name: str, device: torch.device) -> Engine:
    """The engine of that name; with one process all of them are the single one.

    Raises:
      UsageError: if the engine is for one process and torchrun started several.
    """
    world = processes.here().world
    if world == 1:
        return SingleEngine(device)
    if name == "ddp":
        from birdjepa.train.engine_ddp import DdpEngine

        return DdpEngine(device)
    if name == "fsdp":
        from birdjepa.train.engine_fsdp import FsdpEngine

        return FsdpEngine(device)
    raise UsageError(f"train.engine={name} is for one process, and there are {world}: give --engine ddp or fsdp")
