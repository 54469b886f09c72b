"""Maximal update parameterisation (muP): the best learning rate of a narrow model is the best one of a wide model.

Everything follows from comparing a model with the same model at a base width: a dimension that differs grows with the
width. Nothing is in the forward pass and nothing is saved: initial values are rescaled once, and each parameter's rate
is worked out from the configuration whenever a run starts or resumes. At the base width all factors are 1.

With m the growth of the inputs of a matrix (and spread its root mean square at the base width):

    matrix          inputs, outputs grow    initial spread     rate of AdamW   rate of Muon
    input           no, yes                 spread             1               see below
    hidden          yes, yes                spread / sqrt(m)   1 / m           1 / sqrt(m)
    readout         yes, no                 spread / m         1 / m           see below
    finite          no, no                  spread             1               1
    token, vector                           as drawn           1               AdamW's

A readout's output multiplier 1/m is folded into its spread and its rate, which is the same for AdamW. Muon's step at
rate 1 has the spectral norm 0.2 sqrt(max(rows, columns)) and must have one that goes as sqrt(rows / columns), so its
rate is the quotient, over that at the base width. Weight decay is multiplied by the inverse of a rate: a step decays by
the product of both. Attention logits need nothing, for heads keep their width and their number grows.

Source: Yang et al., "Tensor Programs V", arXiv 2203.03466, table 8, as in github.com/microsoft/mup; Yang et al., "A
spectral condition for feature learning", arXiv 2310.17813.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from birdjepa.optim.roles import Role, roles


class WidthRate(NamedTuple):
    """Factor on the learning rate of one parameter, for either algorithm."""

    adamw: float
    muon: float


WidthRates = Mapping[str, WidthRate]
"""By the parameter's name."""


def width_rates(module: nn.Module, base: nn.Module) -> dict[str, WidthRate]:
    """Rates of all parameters of a module, from its shapes and those of the same module at the base width.

    Raises:
      ValueError: if the two have different parameters, or one has no role.
    """
    rates = {}
    for name, role, parameter, at_base in _pairs(module, base):
        if role.kind in ("token", "vector"):
            rates[name] = WidthRate(1.0, 1.0)
            continue
        grown = _growth(parameter, at_base)
        rates[name] = WidthRate(1 / grown.inputs, _muon(parameter, role) / _muon(at_base, role))
    return rates


def init_factors(module: nn.Module, base: nn.Module) -> dict[str, float]:
    """What to multiply freshly drawn parameters by; both modules must hold them.

    Raises:
      ValueError: as `width_rates`.
    """
    factors = {}
    for name, role, parameter, at_base in _pairs(module, base):
        spread, wanted = _spread(parameter), _spread(at_base)
        if role.kind in ("token", "vector") or spread == 0:
            factors[name] = 1.0
            continue
        grown = _growth(parameter, at_base)
        wanted /= math.sqrt(grown.inputs) if grown.outputs != 1 else grown.inputs
        factors[name] = wanted / spread
    return factors


@torch.no_grad()
def rescale(module: nn.Module, base: nn.Module) -> None:
    """Gives a freshly initialised module the spreads of muP, frozen copies included (a teacher follows its encoder)."""
    named = dict(module.named_parameters())
    for name, factor in init_factors(module, base).items():
        named[name].mul_(factor)


class _Growth(NamedTuple):
    outputs: float
    inputs: float


def _pairs(module: nn.Module, base: nn.Module) -> list[tuple[str, Role, Tensor, Tensor]]:
    role, at_base = roles(module), dict(base.named_parameters())
    if role.keys() != at_base.keys():
        odd = sorted(role.keys() ^ at_base.keys())[0]
        raise ValueError(f"the model at the base width must have the same parameters; {odd} is in one of them only")
    return [(name, role[name], parameter, at_base[name]) for name, parameter in module.named_parameters()]


def _growth(parameter: Tensor, at_base: Tensor) -> _Growth:
    return _Growth(*(mine / theirs for mine, theirs in zip(parameter.shape, at_base.shape, strict=True)))


def _muon(parameter: Tensor, role: Role) -> float:
    """Spectral norm that an update should have, over the one that Muon's has, but for constants."""
    rows, columns = parameter.shape[0] / role.parts, parameter.shape[1]
    return math.sqrt(rows / columns) / math.sqrt(max(rows, columns))


def _spread(parameter: Tensor) -> float:
    """Root mean square; 0 for what is empty."""
    return float(parameter.detach().float().square().mean().sqrt()) if parameter.numel() else 0.0
