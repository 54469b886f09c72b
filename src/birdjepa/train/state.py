"""Everything that training changes, as flat named tensors and a small JSON table: what a checkpoint holds.

There is no random state and no data position: both are pure functions of the step.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from birdjepa.checkpoint.store import Checkpoint
from birdjepa.core.errors import UserError
from birdjepa.objectives.base import Objective
from birdjepa.optim.ema import Ema
from birdjepa.optim.groups import AdamWConfig
from birdjepa.train.config import TrainConfig
from birdjepa.train.monitors import EmbeddingBank
from birdjepa.train.probe import OnlineProbe


class TrainState:
    """Objective (encoder included), optimiser, averaged weights, online probe and the monitors' bank."""

    def __init__(
        self, objective: Objective, optimiser: AdamWConfig, config: TrainConfig, *, n_classes: int, seed: int, device: torch.device
    ) -> None:
        self.objective = objective.to(device).train()
        self.optimiser = optimiser.build(self.objective)
        self.ema = Ema(objective.encoder, config.ema_decay) if config.ema_decay else None
        width = objective.encoder.config.embedding_width
        watched = config.probe.enabled and n_classes > 1
        self.probe = OnlineProbe(config.probe, width, n_classes, seed, device) if watched else None
        self.bank = EmbeddingBank(config.monitor.bank, width, device)
        self.step = 0
        """Updates done."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state under a unique name."""
        return dict(self._parts())

    def meta(self) -> dict[str, Any]:
        return {"bank_seen": self.bank.n_seen}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's tensors and step.

        Raises:
          UserError: if the checkpoint's tensors are not exactly those of this state.
        """
        self._fill_optimiser_state()
        own = self.tensors()
        if own.keys() != checkpoint.tensors.keys():
            odd = sorted(own.keys() ^ checkpoint.tensors.keys())
            raise UserError(f"{checkpoint.path}: does not fit this configuration; {len(odd)} tensors differ, the first is {odd[0]}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(checkpoint.tensors[name])
        self.bank.n_seen = int(checkpoint.meta["bank_seen"])
        self.step = checkpoint.step

    def exported_encoder(self) -> dict[str, Tensor]:
        """Weights to export: the averaged ones where there are any."""
        return self.ema.state_dict() if self.ema else self.objective.encoder.state_dict()

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        yield from _named("objective", self.objective.state_dict())
        yield from _optimiser_tensors("optimiser", self.optimiser)
        if self.ema:
            yield from _named("ema", self.ema.state_dict())
        if self.probe:
            yield from _named("probe", self.probe.module.state_dict())
            yield from _optimiser_tensors("probe_optimiser", self.probe.optimiser)
        yield from _named("bank", self.bank.state_dict())

    def _fill_optimiser_state(self) -> None:
        """Makes the optimisers' lazily made moments, for a checkpoint to be copied into."""
        optimisers = [self.optimiser, *([self.probe.optimiser] if self.probe else [])]
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    optimiser.state[parameter] = {
                        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }


def _named(prefix: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        yield f"{prefix}.{name}", tensor


def _optimiser_tensors(prefix: str, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Moments and counters by position of the parameter, which the parameter table fixes."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, value in optimiser.state[parameter].items():
            yield f"{prefix}.{number}.{name}", value
