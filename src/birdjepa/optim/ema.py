"""Exponential moving average of weights, in float32 whatever the model's dtype: in half precision small differences
would be rounded away.
"""

import torch
from torch import Tensor, nn


class Ema:
    """Shadow of a module's parameters and buffers. Call `update` once per optimiser step."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {decay}")
        self.decay = decay
        self.shadow = {name: _own(tensor) for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """shadow <- decay * shadow + (1 - decay) * module; integers are copied."""
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.shadow[name].lerp_(tensor.float(), 1 - self.decay)
            else:
                self.shadow[name].copy_(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().float().clone() if tensor.is_floating_point() else tensor.detach().clone()
