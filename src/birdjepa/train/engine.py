"""Engines: how a state is trained, by one process or by several. The loop, the state and the checkpoints do not know.

An engine holds the objective as its way of working wants it (as it is, replicated, sharded), runs it forward and
backward, exchanges gradients between processes, measures and clips them, and updates. It reads and writes whole
tensors of what it may have cut up, so that a checkpoint is the same whichever engine wrote it.

What all of them promise: the gradient is that of the mean loss over all processes, and every process sees the same
norm, the same update and the same state. Everything but `forward` is to be called by all processes at the same time.
"""

import abc
import contextlib

import torch
from torch import Tensor, nn

from birdjepa.core import processes
from birdjepa.core.batch import ClipBatch
from birdjepa.objectives.base import Chance, Objective, ObjectiveOutput
from birdjepa.optim.clipping import ClipBy, clip_gradients


class Engine(abc.ABC):
    """Subclasses are final, one to a file. Order of use: `place`, then the optimiser is built, then `adopt`."""

    is_replicated = True
    """Whether every process holds all of every tensor."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        """Where this process computes."""
        self.processes = processes.here()
        """Those that train together."""

    @property
    def notes(self) -> list[str]:
        """Lines for the start of a run."""
        return []

    @property
    def rank(self) -> int:
        """Number of this process; number 0 writes."""
        return self.processes.rank

    @property
    def world(self) -> int:
        """Processes that train together."""
        return self.processes.world

    @abc.abstractmethod
    def place(self, objective: Objective) -> None:
        """Puts the objective on the device, and cuts it up where the engine does. Its parameters may become other
        objects, so the optimiser is built afterwards.
        """

    @abc.abstractmethod
    def adopt(self, objective: Objective, optimiser: torch.optim.Optimizer) -> None:
        """Takes charge of a placed objective and the optimiser over its parameters, whose moments are made already
        (`optimiser.state`): called once, before any step.
        """

    @abc.abstractmethod
    def forward(self, batch: ClipBatch, chance: Chance, *, last: bool) -> ObjectiveOutput:
        """Loss of one micro-batch on the device; `last` of a step's micro-batches is the one whose backward pass
        exchanges gradients.
        """

    @abc.abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds to the gradients; `last` as it was for `forward`."""

    @abc.abstractmethod
    def clip(self, limit: float, by: ClipBy) -> float:
        """Norm of the whole gradient over all processes, before it is clipped as `optim.clipping` says."""

    @abc.abstractmethod
    def step(self) -> None:
        """Updates the parameters. Rates and decays are in the optimiser's groups."""

    @abc.abstractmethod
    def zero_grad(self) -> None:
        """Forgets the gradients."""

    def opened(self) -> contextlib.AbstractContextManager[None]:
        """While it is open, parameters of the objective may be read and written element by element: a teacher follows,
        weights are averaged.
        """
        return contextlib.nullcontext()

    @abc.abstractmethod
    def read(self, tensor: Tensor) -> Tensor:
        """The whole of a parameter or buffer of the objective, or of a tensor made like one; not to be written to."""

    @abc.abstractmethod
    def write(self, tensor: Tensor, whole: Tensor) -> None:
        """Gives such a tensor the values of a whole one, of any device."""

    @abc.abstractmethod
    def read_moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        """The whole of one of the optimiser's tensors for a parameter, by the name it had in `optimiser.state`."""

    @abc.abstractmethod
    def write_moment(self, parameter: nn.Parameter, name: str, whole: Tensor) -> None:
        """Gives one of the optimiser's tensors the values of a whole one."""


class PlainEngine(Engine):
    """What engines share that leave the optimiser as torch made it: parameters keep their gradients and moments."""

    objective: Objective
    optimiser: torch.optim.Optimizer

    def adopt(self, objective: Objective, optimiser: torch.optim.Optimizer) -> None:
        self.objective, self.optimiser = objective, optimiser

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def clip(self, limit: float, by: ClipBy) -> float:
        return float(clip_gradients(self.optimiser, limit, by).total)

    def step(self) -> None:
        self.optimiser.step()

    def zero_grad(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def read(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    @torch.no_grad()
    def write(self, tensor: Tensor, whole: Tensor) -> None:
        tensor.copy_(whole)

    def read_moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        return self.read(self.optimiser.state[parameter][name])

    def write_moment(self, parameter: nn.Parameter, name: str, whole: Tensor) -> None:
        self.write(self.optimiser.state[parameter][name], whole)


class SingleEngine(PlainEngine):
    """One process, one device. What it reads are the tensors themselves."""

    def place(self, objective: Objective) -> None:
        objective.to(self.device)

    def forward(self, batch: ClipBatch, chance: Chance, *, last: bool) -> ObjectiveOutput:
        return self.objective(batch, chance)
