"""Everything that training changes, as flat named tensors and a small JSON table: what a checkpoint holds.

There is no random state and no data position: both are pure functions of the step. What an engine has cut up is whole
here, under names that no engine changes.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from birdjepa.checkpoint.store import Checkpoint
from birdjepa.core.errors import UserError
from birdjepa.core.failures import Failure
from birdjepa.objectives.base import Objective
from birdjepa.optim.ema import Ema
from birdjepa.optim.groups import OptimiserConfig
from birdjepa.optim.mup import WidthRates
from birdjepa.train.best import Best
from birdjepa.train.config import TrainConfig
from birdjepa.train.engine import Engine
from birdjepa.train.monitors import EmbeddingBank
from birdjepa.train.probe import OnlineProbe
from birdjepa.train.selftest import require_same


class Held(NamedTuple):
    """A tensor of the state, however it is kept."""

    read: Callable[[], Tensor]
    """All of it."""
    write: Callable[[Tensor], object]
    """Gives it the values of a whole one."""


class TrainState:
    """Objective (encoder included), optimiser, averaged weights, online probe, monitors' bank, what was refused, and
    the best weights of a run that is judged on the way.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: OptimiserConfig,
        config: TrainConfig,
        *,
        n_classes: int,
        seed: int,
        engine: Engine,
        keeps_best: bool = False,
        width_rates: WidthRates | None = None,
    ) -> None:
        self.engine = engine
        self.objective = objective.train()
        require_same("their first weights", self.objective.state_dict())
        engine.place(self.objective)
        self.optimiser = optimiser.build(self.objective, width_rates)
        self.ema = Ema(objective.averaged, config.ema_decay) if config.ema_decay else None
        width = objective.watched_width
        watched = config.probe.enabled and n_classes > 1
        self.probe = OnlineProbe(config.probe, width, n_classes, seed, engine.device) if watched else None
        self.bank = EmbeddingBank(config.monitor.bank, width, engine.device)
        self.best = Best(self.objective.state_dict()) if keeps_best else None
        self.refused: dict[str, Failure] = {}
        """One refusal of each recording that could not be read."""
        self.n_refused = 0
        """Examples that could not be read; a recording may count several times."""
        self.n_asked = 0
        """Examples that were to be heard, as many as clips."""
        self.step = 0
        """Updates done."""
        self._moments = [
            (parameter, list(self.optimiser.state[parameter])) for parameter in _parameters(self.optimiser)
        ]
        engine.adopt(self.objective, self.optimiser)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a unique name, whole. All processes ask together."""
        return {name: held.read() for name, held in self._held()}

    def meta(self) -> dict[str, Any]:
        """What is not a tensor."""
        refused = [list(refusal) for refusal in self.refused.values()]
        best = {"best": self.best.meta()} if self.best else {}
        counts = {"bank_seen": self.bank.n_seen, "n_asked": self.n_asked, "n_refused": self.n_refused}
        return {**counts, "refused": refused, **best}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's tensors and step; every process has the same one.

        Raises:
          UserError: if the checkpoint's tensors are not exactly those of this state, another version saved it, or
            processes differ in it.
        """
        require_same("the checkpoint", checkpoint.tensors)
        own = {name: tensor.shape for name, tensor in self.tensors().items()}
        odd = sorted(own.items() ^ {(name, tensor.shape) for name, tensor in checkpoint.tensors.items()})
        if odd:
            n_odd = len({name for name, _ in odd})
            raise UserError(
                f"{checkpoint.path}: does not fit this configuration; {n_odd} tensors differ, the first is {odd[0][0]}"
            )
        missing = sorted(self.meta().keys() - checkpoint.meta.keys())
        if missing:
            raise UserError(f"{checkpoint.path}: was saved by another version of birdjepa (it tells no {missing[0]})")
        for name, held in self._held():
            held.write(checkpoint.tensors[name])
        self.require_same(self.tensors(), "what they loaded")
        self.bank.n_seen = int(checkpoint.meta["bank_seen"])
        self.n_asked = int(checkpoint.meta["n_asked"])
        self.n_refused = int(checkpoint.meta["n_refused"])
        self.refused = {row[0]: Failure(*row) for row in checkpoint.meta["refused"]}
        if self.best:
            self.best.restore(checkpoint.meta["best"])
        self.step = checkpoint.step

    def require_same(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Refuses to go on where processes that each hold all of the model hold different ones.

        tensors are the state's.

        Raises:
          UserError: naming the process and the first tensor that differs.
        """
        if self.engine.is_replicated:
            trained = ("objective.", "optimiser.", "ema.")
            require_same(what, {name: tensor for name, tensor in tensors.items() if name.startswith(trained)})

    def exported(self) -> dict[str, Tensor]:
        """Weights to export: those averaged by train.ema_decay where there are any, else what the objective exports."""
        exported = self.objective.exported
        weights = self.ema.state_dict() if self.ema else exported.state_dict(keep_vars=True)
        return {name: self.engine.read(tensor) for name, tensor in weights.items()}

    def _held(self) -> Iterator[tuple[str, Held]]:
        yield from self._cut_up("objective", self.objective.state_dict(keep_vars=True))
        for number, (parameter, names) in enumerate(self._moments):
            for name in names:
                yield f"optimiser.{number}.{name}", self._moment(parameter, name)
        if self.ema:
            yield from self._cut_up("ema", self.ema.state_dict())
        if self.probe:
            yield from _plain("probe", self.probe.module.state_dict())
            for number, parameter in enumerate(_parameters(self.probe.optimiser)):
                yield from _plain(f"probe_optimiser.{number}", self.probe.optimiser.state[parameter])
        yield from _plain("bank", self.bank.state_dict())
        if self.best:
            yield from _plain("best", self.best.weights)

    def _cut_up(self, prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Held]]:
        """Tensors that the engine may have cut up."""
        for name, tensor in tensors.items():
            yield (
                f"{prefix}.{name}",
                Held(functools.partial(self.engine.read, tensor), functools.partial(self.engine.write, tensor)),
            )

    def _moment(self, parameter: nn.Parameter, name: str) -> Held:
        """A moment or counter of the optimiser, known by the parameter's position, which the parameter table fixes."""
        engine = self.engine
        return Held(
            functools.partial(engine.read_moment, parameter, name),
            functools.partial(engine.write_moment, parameter, name),
        )


def _plain(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Held]]:
    """Tensors that every process holds whole."""
    for name, tensor in tensors.items():
        yield f"{prefix}.{name}", Held(tensor.detach, tensor.detach().copy_)


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
