"""Everything that training changes, as flat named tensors and a small JSON table: what a checkpoint holds.

There is no random state and no data position: both are pure functions of the step.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from birdjepa.checkpoint.store import Checkpoint
from birdjepa.core.batch import Refusal
from birdjepa.core.errors import UserError
from birdjepa.objectives.base import Objective
from birdjepa.optim import AnyOptimiser
from birdjepa.optim.ema import Ema
from birdjepa.optim.mup import WidthRates
from birdjepa.train.best import Best
from birdjepa.train.config import TrainConfig
from birdjepa.train.monitors import EmbeddingBank
from birdjepa.train.probe import OnlineProbe


class TrainState:
    """Objective (encoder included), optimiser, averaged weights, online probe, monitors' bank, what was refused, and
    the best weights of a run that is judged on the way.
    """

    def __init__(
        self,
        objective: Objective,
        optimiser: AnyOptimiser,
        config: TrainConfig,
        *,
        n_classes: int,
        seed: int,
        device: torch.device,
        keeps_best: bool = False,
        width_rates: WidthRates | None = None,
    ) -> None:
        self.objective = objective.to(device).train()
        self.optimiser = optimiser.build(self.objective, width_rates)
        self.ema = Ema(objective.encoder, config.ema_decay) if config.ema_decay else None
        width = objective.encoder.config.embedding_width
        watched = config.probe.enabled and n_classes > 1
        self.probe = OnlineProbe(config.probe, width, n_classes, seed, device) if watched else None
        self.bank = EmbeddingBank(config.monitor.bank, width, device)
        self.best = Best(self.objective.state_dict()) if keeps_best else None
        self.refused: dict[str, Refusal] = {}
        """One refusal of each recording that could not be read."""
        self.n_refused = 0
        """Examples that could not be read; a recording may count several times."""
        self.step = 0
        """Updates done."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a unique name."""
        return dict(self._parts())

    def meta(self) -> dict[str, Any]:
        """What is not a tensor."""
        refused = [list(refusal) for refusal in self.refused.values()]
        best = {"best": self.best.meta()} if self.best else {}
        return {"bank_seen": self.bank.n_seen, "n_refused": self.n_refused, "refused": refused, **best}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's tensors and step.

        Raises:
          UserError: if the checkpoint's tensors are not exactly those of this state.
        """
        own = self.tensors()
        here, there = ({(name, tensor.shape) for name, tensor in held.items()} for held in (own, checkpoint.tensors))
        if here != there:
            odd = sorted({name for name, _ in here ^ there})
            raise UserError(
                f"{checkpoint.path}: does not fit this configuration; {len(odd)} tensors differ, the first is {odd[0]}"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(checkpoint.tensors[name])
        self.bank.n_seen = int(checkpoint.meta["bank_seen"])
        self.n_refused = int(checkpoint.meta["n_refused"])
        self.refused = {path: Refusal(path, offset_s, reason) for path, offset_s, reason in checkpoint.meta["refused"]}
        if self.best:
            self.best.restore(checkpoint.meta["best"])
        self.step = checkpoint.step

    def exported_encoder(self) -> dict[str, Tensor]:
        """Weights to export: those averaged by train.ema_decay where there are any, else what the objective exports."""
        return self.ema.state_dict() if self.ema else self.objective.exported.state_dict()

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        yield from _named("objective", self.objective.state_dict())
        yield from _optimiser_tensors("optimiser", self.optimiser)
        if self.ema:
            yield from _named("ema", self.ema.state_dict())
        if self.probe:
            yield from _named("probe", self.probe.module.state_dict())
            yield from _optimiser_tensors("probe_optimiser", self.probe.optimiser)
        yield from _named("bank", self.bank.state_dict())
        if self.best:
            yield from _named("best", self.best.weights)


def _named(prefix: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        yield f"{prefix}.{name}", tensor


def _optimiser_tensors(prefix: str, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Moments and counters by position of the parameter, which the parameter table fixes."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, value in optimiser.state[parameter].items():
            yield f"{prefix}.{number}.{name}", value
