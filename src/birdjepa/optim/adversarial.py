"""Optimisers for two that play against each other: what is trained, and the discriminators that it is trained against.

They are groups of one optimiser, which is the same as two: each number, and each matrix of Muon, learns by itself, and
each side has a rate of its own and, with train.clip_by=group, gradient norms of its own. So they are saved, resumed,
shared out among processes and handed to DeepSpeed together.
"""

import abc
import dataclasses

import torch
from torch import nn

from birdjepa.models.vocoder import Vocoder
from birdjepa.optim.groups import OptimiserConfig, ParameterRow, make_groups, parameter_table, with_moments
from birdjepa.optim.muon import Muon, require_momentum
from birdjepa.optim.mup import WidthRates
from birdjepa.optim.roles import roles

DISCRIMINATORS = "discriminators"
"""The objective's module of that name, and how the names of its groups begin."""
GAIN = "parametrizations.weight.original0"
"""How weight norm ends the name of a convolution's gains, which are vectors whatever their shape."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig(OptimiserConfig, abc.ABC):
    """Rates and moments as the public density-adaptive JEPA has them, whose betas are HiFi-GAN's."""

    lr: float = 1.5e-4
    weight_decay: float = 1e-3
    beta1: float = 0.8
    beta2: float = 0.99
    discriminator_rate: float = 0.5
    """Factor on the rate of the discriminators."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_decay != 1 or self.head_rate != 1:
            raise ValueError(
                "layer_decay and head_rate are for encoders that learn; leave them at 1, got "
                f"{self.layer_decay}, {self.head_rate}"
            )
        if self.discriminator_rate <= 0:
            raise ValueError(f"discriminator_rate must be positive, got {self.discriminator_rate}")

    def table(self, module: nn.Module, width_rates: WidthRates | None) -> list[ParameterRow]:
        """Both sides' parameters, all for AdamW."""
        table = []
        for row in parameter_table(module, self.layer_decay, self.head_rate, width_rates=width_rates):
            if row.name.endswith(GAIN):
                row = row._replace(group="no_decay", decay=0.0)
            if row.name.startswith(f"{DISCRIMINATORS}."):
                rate = row.rate * self.discriminator_rate
                row = row._replace(group=f"{DISCRIMINATORS} {row.group}", rate=rate)
            table.append(row)
        return table


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialAdamWConfig(AdversarialConfig):
    """AdamW for both sides."""

    def build(self, module: nn.Module, width_rates: WidthRates | None = None) -> torch.optim.AdamW:
        groups = make_groups(module, self.table(module, width_rates), self.weight_decay)
        betas = (self.beta1, self.beta2)
        return with_moments(torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialMuonConfig(AdversarialConfig):
    """Muon for the kernels of the vocoder but its first and last, AdamW for all others and the discriminators."""

    momentum: float = 0.95
    """Of Muon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_momentum(self.momentum)

    def build(self, module: nn.Module, width_rates: WidthRates | None = None) -> Muon:
        hidden = {
            f"{path}.{name}"
            for path, part in module.named_modules()
            if isinstance(part, Vocoder)
            for name, role in roles(part).items()
            if role.kind == "hidden"
        }
        table = [
            row._replace(group="muon", parts=1) if row.name in hidden else row
            for row in self.table(module, width_rates)
        ]
        groups, betas = make_groups(module, table, self.weight_decay), (self.beta1, self.beta2)
        return with_moments(Muon(groups, lr=self.lr, momentum=self.momentum, betas=betas, eps=self.eps))


AnyAdversarial = AdversarialAdamWConfig | AdversarialMuonConfig

ADVERSARIAL: dict[str, type[AnyAdversarial]] = {"adamw": AdversarialAdamWConfig, "muon": AdversarialMuonConfig}
"""What `birdjepa pretrain codec --optim NAME` takes."""
