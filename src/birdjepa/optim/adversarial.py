"""AdamW for two that play against each other: what is trained, and the discriminators that it is trained against.

They are groups of one optimiser, which is the same as two: AdamW updates every number by itself, and each side has a
rate of its own and, with train.clip_by=group, gradient norms of its own. So they are saved, resumed, shared out among
processes and handed to DeepSpeed together.
"""

import dataclasses

import torch
from torch import nn

from birdjepa.optim.groups import OptimiserConfig, make_groups, parameter_table, with_moments
from birdjepa.optim.mup import WidthRates

DISCRIMINATORS = "discriminators"
"""The objective's module of that name, and how the names of its groups begin."""
GAIN = "parametrizations.weight.original0"
"""How weight norm ends the name of a convolution's gains, which are vectors whatever their shape."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialAdamWConfig(OptimiserConfig):
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

    def build(self, module: nn.Module, width_rates: WidthRates | None = None) -> torch.optim.AdamW:
        table = []
        for row in parameter_table(module, self.layer_decay, self.head_rate, width_rates=width_rates):
            if row.name.endswith(GAIN):
                row = row._replace(group="no_decay", decay=0.0)
            if row.name.startswith(f"{DISCRIMINATORS}."):
                rate = row.rate * self.discriminator_rate
                row = row._replace(group=f"{DISCRIMINATORS} {row.group}", rate=rate)
            table.append(row)
        betas = (self.beta1, self.beta2)
        groups = make_groups(module, table, self.weight_decay)
        return with_moments(torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=True))
