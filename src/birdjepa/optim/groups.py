"""Parameter groups: which parameters are decayed and how fast each learns, said once, printed at start-up, complete.

Vectors (biases, gains of norms and LayerScale) and special tokens (CLS, registers, masks) are never decayed, every
other parameter is. With layer-wise decay of the rate, blocks of the encoder near its input learn more slowly.
"""

import dataclasses
import re
from typing import Any, NamedTuple

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
    layer_decay: float = 1.0
    """Factor on the rate from each block of the encoder to the one before it; below 1 for fine-tuning."""
    head_rate: float = 1.0
    """Factor on the rate of all that is not the encoder."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1 or self.head_rate <= 0:
            raise ValueError(f"need 0 < layer_decay <= 1, head_rate > 0; got {self.layer_decay}, {self.head_rate}")
        if self.lr <= 0 or self.weight_decay < 0 or not 0 <= self.beta1 < 1 or not 0 <= self.beta2 < 1 or self.eps <= 0:
            raise ValueError(
                "need lr > 0, weight_decay >= 0, betas in [0, 1), eps > 0; got "
                f"{self.lr}, {self.weight_decay}, {self.beta1}, {self.beta2}, {self.eps}"
            )

    def build(self, module: nn.Module) -> torch.optim.AdamW:
        """The optimiser over the module's trainable parameters, a group for each decay and rate.

        Each group has, besides torch's entries, its `name`, its `rate` (factor on the learning rate) and its
        `full_weight_decay`, which the trainer's schedules start from.
        """
        parameters = dict(module.named_parameters())
        groups: dict[str, dict[str, Any]] = {}
        for row in parameter_table(module, self.layer_decay, self.head_rate):
            decay = self.weight_decay if row.group.startswith("decay") else 0.0
            made = {
                "params": [],
                "weight_decay": decay,
                "full_weight_decay": decay,
                "name": row.group,
                "rate": row.rate,
            }
            groups.setdefault(row.group, made)["params"].append(parameters[row.name])
        ordered = [groups[name] for name in sorted(groups)]
        return torch.optim.AdamW(ordered, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


class ParameterRow(NamedTuple):
    """One line of the table printed at start-up."""

    name: str
    shape: tuple[int, ...]
    group: str
    """decay or no_decay, and the rate where it is not 1."""
    rate: float


TOKEN_NAMES = ("cls", "registers", "mask", "queries")
"""Last part of the name of what is learnt but neither a matrix nor a vector of gains."""


def parameter_table(module: nn.Module, layer_decay: float = 1.0, head_rate: float = 1.0) -> list[ParameterRow]:
    """Name, shape, group and rate of every trainable parameter with at least one element."""
    names = [name for name, _ in module.named_parameters()]
    depth = 1 + max((block for name in names if (block := _block(name)) is not None), default=-1)
    rows = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or parameter.numel() == 0:
            continue
        is_token = name.rpartition(".")[2] in TOKEN_NAMES
        group = "no_decay" if parameter.ndim <= 1 or is_token else "decay"
        rate = _rate(name, depth, layer_decay, head_rate)
        rows.append(ParameterRow(name, tuple(parameter.shape), group if rate == 1 else f"{group} x{rate:.3g}", rate))
    return rows


def _rate(name: str, depth: int, layer_decay: float, head_rate: float) -> float:
    """The last norm of the encoder learns at full rate, its last block at layer_decay, its input slowest."""
    if not re.search(r"(^|\.)encoder\.", name):
        return head_rate
    block = _block(name)
    layer = depth + 1 if re.search(r"encoder\.vit\.norm\.", name) else 0 if block is None else block + 1
    return layer_decay ** (depth + 1 - layer)


def _block(name: str) -> int | None:
    found = re.search(r"(^|\.)encoder\.vit\.blocks\.(\d+)\.", name)
    return int(found[2]) if found else None
