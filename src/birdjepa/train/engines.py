"""The engine that a configuration names, for as many processes as there are."""

import torch

from birdjepa.core import processes
from birdjepa.core.errors import UsageError
from birdjepa.train.config import TrainConfig
from birdjepa.train.engine import Engine, SingleEngine
from birdjepa.train.loop import autocast_dtype


def require_usable(config: TrainConfig, device: torch.device, n_processes: int) -> None:
    """Refuses an engine that could not be made, before anything of a run is written.

    Raises:
      UsageError: if it is for one process and there are several, is not installed, or cannot take its configuration.
    """
    if config.engine == "single" and n_processes > 1:
        raise UsageError(
            f"train.engine=single is for one process, and there are {n_processes}: give --engine ddp, fsdp or deepspeed"
        )
    if config.engine == "deepspeed":
        from birdjepa.train.engine_deepspeed import resolved

        resolved(config, n_processes, autocast_dtype(config.precision, device))


def make_engine(config: TrainConfig, device: torch.device) -> Engine:
    """The engine of a configuration; with one process, ddp and fsdp are the single one.

    Raises:
      UsageError: as `require_usable`.
    """
    world = processes.here().world
    require_usable(config, device, world)
    if config.engine == "deepspeed":
        from birdjepa.train.engine_deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(device, config, autocast_dtype(config.precision, device))
    if world == 1:
        return SingleEngine(device)
    if config.engine == "ddp":
        from birdjepa.train.engine_ddp import DdpEngine

        return DdpEngine(device)
    from birdjepa.train.engine_fsdp import FsdpEngine

    return FsdpEngine(device)
