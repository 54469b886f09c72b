"""The online probe: LayerNorm + linear classifier on detached embeddings, with its own optimiser and its own clipping.

Axes: b clips | e embedding | c classes
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.core import random
from birdjepa.train.config import OnlineProbeConfig


class OnlineProbe:
    """Watches how well a linear classifier does on the embeddings of training batches. Its gradient never reaches the
    encoder.
    """

    def __init__(self, config: OnlineProbeConfig, width: int, n_classes: int, seed: int, device: torch.device) -> None:
        self.config = config
        self.module = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_classes))
        generator = random.torch_generator(seed, "initialise", "online_probe")
        linear = self.module[1]
        assert isinstance(linear, nn.Linear)
        nn.init.normal_(linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(linear.bias)
        self.module.to(device)
        self.optimiser = config.optimiser.build(self.module)

    def step(self, embedding: Float[Tensor, "b e"], label: Int[Tensor, " b"]) -> tuple[float, float] | None:
        """One update on the labelled clips of a batch: loss and accuracy before it; None when no clip has a label."""
        known = label >= 0
        if not bool(known.any()):
            return None
        with torch.enable_grad(), torch.autocast(embedding.device.type, enabled=False):
            logits = self.module(embedding[known].detach().float())
            loss = F.cross_entropy(logits, label[known])
            self.optimiser.zero_grad(set_to_none=True)
            (self.config.weight * loss).backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm or float("inf"))
            self.optimiser.step()
        accuracy = (logits.argmax(1) == label[known]).float().mean()
        return float(loss.detach()), float(accuracy)
