"""Parameter groups: which parameters are decayed, by which algorithm and how fast each learns, said once, printed at
start-up, complete.

Vectors (biases, gains of norms and LayerScale) and special tokens (CLS, registers, masks) are never decayed, every
other parameter is. With layer-wise decay of the rate, blocks of the encoder near its input learn more slowly. Muon
takes the hidden matrices (optim/roles.py says which they are), AdamW all others; muP gives each its own rate.
"""

import abc
import dataclasses
import re
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from birdjepa.optim.clipping import ClipBy
from birdjepa.optim.mup import WidthRate, WidthRates
from birdjepa.optim.roles import roles

OptimiserT = TypeVar("OptimiserT", bound=torch.optim.Optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimiserConfig(abc.ABC):
    """What every optimiser has: AdamW takes at least some of the parameters. Subclasses are final."""

    lr: float = 1e-3
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: float = 0.05
    """Per step and unit of learning rate, on matrices only."""
    beta1: float = 0.9
    """Of AdamW, as the next two."""
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

    @abc.abstractmethod
    def build(self, module: nn.Module, width_rates: WidthRates | None = None) -> torch.optim.Optimizer:
        """The optimiser over the module's trainable parameters, a group for each decay and rate.

        Each group has, besides torch's entries, its `name`, its `rate` (factor on the learning rate) and its
        `full_weight_decay`, which the trainer's schedules start from. width_rates are those of muP.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimiserConfig):
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def build(self, module: nn.Module, width_rates: WidthRates | None = None) -> torch.optim.AdamW:
        table = parameter_table(module, self.layer_decay, self.head_rate, width_rates=width_rates)
        groups = make_groups(module, table, self.weight_decay)
        betas = (self.beta1, self.beta2)
        return with_moments(torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=True))


class ParameterRow(NamedTuple):
    """What is decided of one parameter."""

    name: str
    shape: tuple[int, ...]
    group: str
    """muon, decay or no_decay, with the factors on rate and weight decay where they are not 1."""
    rate: float
    """Factor on the learning rate."""
    decay: float
    """Factor on the weight decay; 0 for what is not decayed."""
    parts: int
    """Matrices in it that Muon takes, on top of each other; 0 for AdamW."""


TOKEN_NAMES = ("cls", "registers", "mask", "queries")
"""Last part of the name of what is learnt but neither a matrix nor a vector of gains."""


def parameter_table(
    module: nn.Module,
    layer_decay: float = 1.0,
    head_rate: float = 1.0,
    *,
    with_muon: bool = False,
    width_rates: WidthRates | None = None,
) -> list[ParameterRow]:
    """A row for every trainable parameter with at least one element.

    Raises:
      ValueError: with_muon, if a parameter has no role.
    """
    named = dict(module.named_parameters())
    role = roles(module) if with_muon else {}
    depth = 1 + max((block for name in named if (block := _block(name)) is not None), default=-1)
    rows = []
    for name, parameter in named.items():
        if not parameter.requires_grad or parameter.numel() == 0:
            continue
        is_token = name.rpartition(".")[2] in TOKEN_NAMES
        kind = "no_decay" if parameter.ndim <= 1 or is_token else "decay"
        parts = role[name].parts if with_muon and role[name].kind == "hidden" else 0
        kind = "muon" if parts else kind
        its = WidthRate(1.0, 1.0) if width_rates is None else width_rates[name]
        width_rate = its.muon if parts else its.adamw
        rate = width_rate * _rate(name, depth, layer_decay, head_rate)
        decay = 0.0 if kind == "no_decay" else 1 / width_rate  # a step decays by the product of both
        group = kind + _factor("", rate) + (_factor("wd ", decay) if decay else "")
        rows.append(ParameterRow(name, tuple(parameter.shape), group, rate, decay, parts))
    return rows


def make_groups(module: nn.Module, table: list[ParameterRow], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser, ordered by name, each with its `name`, `rate` and `full_weight_decay`.

    Those of Muon have `parts`: the number of matrices in each of their parameters.
    """
    parameters = dict(module.named_parameters())
    groups: dict[str, dict[str, Any]] = {}
    for row in table:
        decay = weight_decay * row.decay
        made = {"params": [], "weight_decay": decay, "full_weight_decay": decay, "name": row.group, "rate": row.rate}
        group = groups.setdefault(row.group, made)
        group["params"].append(parameters[row.name])
        if row.parts:
            group.setdefault("parts", []).append(row.parts)
    return [groups[name] for name in sorted(groups)]


def with_moments(optimiser: OptimiserT) -> OptimiserT:
    """The optimiser with the moments that it would make at its first step, so that every state has the same tensors."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if "parts" in group:
                optimiser.state[parameter] = {"momentum": torch.zeros_like(parameter)}
                continue
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimiser


def describe(optimiser: torch.optim.Optimizer, clip_norm: float, clip_by: ClipBy) -> list[str]:
    """The table of groups: how many tensors and numbers learn by what and how fast, and how they are decayed; then how
    gradients are clipped.
    """
    groups = optimiser.param_groups
    width = max(len(group["name"]) for group in groups)
    lines = []
    for group in groups:
        numbers = sum(parameter.numel() for parameter in group["params"])
        algorithm = "Muon " if "parts" in group else "AdamW"
        lines.append(
            f"optimiser: {algorithm} {group['name']:<{width}} {len(group['params']):>4} tensors "
            f"{numbers / 1e6:>7.2f} M numbers  lr {optimiser.defaults['lr'] * group['rate']:<8.3g} "
            f"weight decay {group['full_weight_decay']:.3g}"
        )
    over = {"all": "over all groups together", "group": "in each group by itself"}[clip_by]
    clipped = f"gradient norm at most {clip_norm:g}, {over}" if clip_norm else "gradients are not clipped"
    return [*lines, f"optimiser: {clipped}"]


def _factor(of: str, value: float) -> str:
    return "" if value == 1 else f" {of}x{value:.3g}"


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
