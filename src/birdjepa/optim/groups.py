"""Parameter groups: which parameters are decayed, said once, printed at start-up, and complete.

Vectors (biases, gains of norms and LayerScale) and special tokens (CLS, registers) are never decayed, every other
parameter is.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019)."""

    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = 0.05
    """Per step and unit of learning rate, on matrices only."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or not 0 <= self.beta1 < 1 or not 0 <= self.beta2 < 1 or self.eps <= 0:
            raise ValueError(
                "need lr > 0, weight_decay >= 0, betas in [0, 1), eps > 0; got "
                f"{self.lr}, {self.weight_decay}, {self.beta1}, {self.beta2}, {self.eps}"
            )

    def build(self, module: nn.Module) -> torch.optim.AdamW:
        """The optimiser over the module's trainable parameters, in two groups."""
        rows = parameter_table(module)
        parameters = dict(module.named_parameters())
        groups = [
            {
                "params": [parameters[row.name] for row in rows if row.group == group],
                "weight_decay": self.weight_decay if group == "decay" else 0.0,
                "name": group,
            }
            for group in ("decay", "no_decay")
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


class ParameterRow(NamedTuple):
    """One line of the table printed at start-up."""

    name: str
    shape: tuple[int, ...]
    group: str


TOKEN_NAMES = ("cls", "registers")


def parameter_table(module: nn.Module) -> list[ParameterRow]:
    """Name, shape and group of every trainable parameter with at least one element."""
    rows = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or parameter.numel() == 0:
            continue
        is_token = name.rpartition(".")[2] in TOKEN_NAMES
        group = "no_decay" if parameter.ndim <= 1 or is_token else "decay"
        rows.append(ParameterRow(name, tuple(parameter.shape), group))
    return rows
