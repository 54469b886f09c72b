"""A small module with what makes merging go wrong."""

from typing import Any

import torch
from torch import Tensor, nn


class Odd(nn.Module):
    """Sizes that nothing divides, a tied weight, a frozen layer, buffers of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.frozen = nn.Linear(5, 11).requires_grad_(False)
        self.norm = nn.LayerNorm(11)
        self.narrow = nn.Conv1d(11, 3, kernel_size=1)
        self.widen = nn.Linear(3, 7, bias=False)
        self.tied = nn.Linear(7, 5, bias=False)
        self.tied.weight = self.first.weight
        self.alpha = nn.Parameter(torch.tensor([0.5]))  # of one axis: 0.19.8 cannot send numbers of none
        self.register_buffer("table", torch.arange(6).reshape(2, 3))
        self.register_buffer("running", torch.zeros(11))
        self.register_buffer("on", torch.tensor([True, False, True]))
        self.register_buffer("passing", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.frozen(self.first(x)))
        self.running.lerp_(hidden.detach().mean(0).to(self.running), 0.1)  # buffers stay float32 under bf16
        hidden = self.narrow(hidden[..., None])[..., 0]
        return self.tied(self.widen(hidden) * self.alpha)

    def groups(self) -> list[dict[str, Any]]:
        """Three groups: a single number and the narrow layer have their own."""
        own = [self.alpha], list(self.narrow.parameters())
        there = {id(parameter) for group in own for parameter in group}
        rest = [each for each in self.parameters() if each.requires_grad and id(each) not in there]
        return [{"params": rest, "lr": 0.1}, {"params": own[0], "lr": 0.3}, {"params": own[1], "lr": 0.2}]
