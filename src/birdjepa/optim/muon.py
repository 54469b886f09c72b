"""Muon: hidden matrices move along the nearest orthogonal matrix of their momentum; AdamW takes all other parameters.

    m <- m + (1 - momentum) (g - m);  u = g + momentum (m - g);  O = orthogonalise(u)
    W <- W (1 - lr wd) - lr 0.2 sqrt(max(rows, columns)) O

The factor gives a step the size of one of AdamW, so that one learning rate and one weight decay serve both. Fused
matrices (qkv, the two of a SwiGLU) are orthogonalised one by one. A kernel of a convolution is the matrix of its first
axis by all others. Sharded parameters (FSDP2) are gathered for it whole.

Source: Keller Jordan's Muon; Liu et al., "Muon is scalable", arXiv 2502.16982, for the factor. On plain matrices it is
torch.optim.Muon(adjust_lr_fn="match_rms_adamw").
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from birdjepa.core.hardware import has_bf16
from birdjepa.optim.groups import OptimiserConfig, make_groups, parameter_table, with_moments
from birdjepa.optim.mup import WidthRates
from birdjepa.optim.sharded import placed_like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5 in one step of the iteration: steep at 0, so that five steps bring singular values near 1."""
N_STEPS = 5
LEAST_NORM = 1e-7
RMS = 0.2
"""Root mean square of a step at learning rate 1: what AdamW's is in practice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimiserConfig):
    """Muon for hidden matrices, AdamW for the rest, with one learning rate and one weight decay."""

    momentum: float = 0.95
    """Of Muon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_momentum(self.momentum)

    def build(self, module: nn.Module, width_rates: WidthRates | None = None) -> "Muon":
        """The optimiser over the module's trainable parameters, with groups as the base says.

        Raises:
          ValueError: if a parameter has no role.
        """
        table = parameter_table(module, self.layer_decay, self.head_rate, with_muon=True, width_rates=width_rates)
        betas = (self.beta1, self.beta2)
        groups = make_groups(module, table, self.weight_decay)
        return with_moments(Muon(groups, lr=self.lr, momentum=self.momentum, betas=betas, eps=self.eps))


def require_momentum(momentum: float) -> None:
    """Raises:
    ValueError: if it is none.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")


class Muon(torch.optim.Optimizer):
    """Groups with `parts` (how many matrices each parameter holds) learn by Muon, others by AdamW, whose are betas and
    eps.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, momentum: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(groups, {"lr": lr})
        self.momentum, self.betas, self.eps = momentum, betas, eps

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closures here
        by_muon = [group for group in self.param_groups if "parts" in group]
        for group in self.param_groups:
            if "parts" not in group:
                self._step_adamw(group)
        held = [pair for group in by_muon for pair in zip(group["params"], group["parts"], strict=True)]
        directions = self._directions([(parameter, parts) for parameter, parts in held if parameter.grad is not None])
        for group in by_muon:
            for parameter, parts in zip(group["params"], group["parts"], strict=True):
                if parameter.grad is not None:
                    rows, columns = parameter.shape[0] // parts, math.prod(parameter.shape[1:])
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(next(directions), alpha=-group["lr"] * RMS * math.sqrt(max(rows, columns)))

    def _step_adamw(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self.eps,
            maximize=False,
        )

    def _directions(self, held: list[tuple[Tensor, int]]) -> Iterator[Tensor]:
        """Orthogonalised momentum of each parameter, placed as the parameter is."""
        pieces: list[Tensor] = []
        for parameter, parts in held:
            gradient, momentum = parameter.grad, self.state[parameter]["momentum"]
            assert gradient is not None
            momentum.lerp_(gradient, 1 - self.momentum)
            pieces += whole(gradient.lerp(momentum, self.momentum)).flatten(1).chunk(parts)
        done = iter(orthogonalise_all(pieces))
        for parameter, parts in held:
            direction = torch.cat([next(done) for _ in range(parts)])
            yield placed_like(direction.to(parameter.dtype).view(parameter.shape), parameter)


def orthogonalise_all(matrices: Sequence[Float[Tensor, "_ _"]]) -> list[Float[Tensor, "_ _"]]:
    """`orthogonalise` of each, those of one shape in one go."""
    numbers: dict[torch.Size, list[int]] = defaultdict(list)
    for number, matrix in enumerate(matrices):
        numbers[matrix.shape].append(number)
    done: dict[int, Tensor] = {}
    for alike in numbers.values():
        done.update(zip(alike, orthogonalise(torch.stack([matrices[number] for number in alike])), strict=True))
    return [done[number] for number in range(len(matrices))]


def orthogonalise(matrices: Float[Tensor, "b r c"]) -> Float[Tensor, "b r c"]:
    """About U V^T of each matrix U S V^T: a quintic Newton-Schulz iteration, in bfloat16 where the device has it.

    Singular values come near 1 and not to it (tests/optim/test_muon.py); those that are far below the largest one come
    less near. A matrix of zeros stays.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16 if has_bf16(matrices.device) else torch.float32)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(LEAST_NORM)
    for _ in range(N_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)
