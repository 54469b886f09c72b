"""Data parallel: each process holds all of the model and a part of each batch; gradients are averaged on their way."""

import torch
from torch.nn.parallel import DistributedDataParallel

from birdjepa.core.batch import ClipBatch
from birdjepa.objectives.base import Chance, Objective, ObjectiveOutput
from birdjepa.train.engine import PlainEngine


class DdpEngine(PlainEngine):
    """torch's DistributedDataParallel. Nothing is sent at its start and no buffer ever: all processes begin with the
    same weights, which is checked, and what is computed over all clips (BatchNorm) stays the same everywhere.
    """

    def place(self, objective: Objective) -> None:
        objective.to(self.device)

    def adopt(self, objective: Objective, optimiser: torch.optim.Optimizer) -> None:
        super().adopt(objective, optimiser)
        buffers = [name for name, _ in objective.named_buffers()]
        empty = [
            name for name, parameter in objective.named_parameters() if parameter.numel() == 0
        ]  # no registers, say
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, buffers + empty)
        self.model = DistributedDataParallel(objective, init_sync=False, gradient_as_bucket_view=True)

    def forward(self, batch: ClipBatch, chance: Chance, *, last: bool) -> ObjectiveOutput:
        self.model.require_backward_grad_sync = last  # as DistributedDataParallel.no_sync does
        return self.model(batch, chance)
