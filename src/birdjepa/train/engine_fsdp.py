"""Fully sharded: each process holds a part of every parameter, gradient and moment, and gathers a block's parameters
while it needs them.

torch's `fully_shard` (FSDP2) on each transformer block, and on the rest as a whole. Parameters become DTensors; a
teacher and averaged weights are cut up in the same way, so that they follow without any exchange, in float32.
"""

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from birdjepa.core.batch import ClipBatch
from birdjepa.nn.block import Block
from birdjepa.objectives.base import Chance, Objective, ObjectiveOutput
from birdjepa.optim import sharded
from birdjepa.train.engine import PlainEngine


class FsdpEngine(PlainEngine):
    is_replicated = False

    def place(self, objective: Objective) -> None:
        objective.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.world,))
        empty = {parameter for parameter in objective.parameters() if parameter.numel() == 0}  # no registers, say
        for block in [module for module in objective.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh, ignored_params=empty)

    def forward(self, batch: ClipBatch, chance: Chance, *, last: bool) -> ObjectiveOutput:
        assert isinstance(self.objective, FSDPModule)
        self.objective.set_requires_gradient_sync(last)
        return self.objective(batch, chance)

    @torch.no_grad()
    def read(self, tensor: Tensor) -> Tensor:
        return sharded.whole(tensor).detach()

    @torch.no_grad()
    def write(self, tensor: Tensor, whole: Tensor) -> None:
        tensor.copy_(sharded.placed_like(whole.to(device=tensor.device, dtype=tensor.dtype), tensor))
