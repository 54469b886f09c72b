"""The best weights so far by a validation score, and for how long nothing was better: what early stopping needs.

It is part of the training state, weights included, so that a resumed run stops where the uninterrupted one does and
exports the same model, whenever it was killed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Judged(NamedTuple):
    """How good a state is. The higher score is better; of equal scores, the lower loss."""

    score: float
    loss: float

    def beats(self, other: "Judged") -> bool:
        return (self.score, -self.loss) > (other.score, -other.loss)


class Best:
    """A copy of the best weights, and what they were judged."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.step = 0
        self.judged: Judged | None = None
        """None until something was judged."""
        self.n_worse = 0
        """Evaluations since the best one."""

    @torch.no_grad()
    def offer(self, weights: Mapping[str, Tensor], step: int, judged: Judged) -> bool:
        """Takes over these weights if they are the best so far, and tells whether they are."""
        if self.judged is not None and not judged.beats(self.judged):
            self.n_worse += 1
            return False
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
        self.step, self.judged, self.n_worse = step, judged, 0
        return True

    def meta(self) -> dict[str, Any]:
        """What is not a tensor."""
        return {"step": self.step, "judged": list(self.judged) if self.judged else None, "n_worse": self.n_worse}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Takes over what `meta` gave; the weights are tensors of the state."""
        self.step, self.n_worse = int(meta["step"]), int(meta["n_worse"])
        self.judged = Judged(*meta["judged"]) if meta["judged"] else None
