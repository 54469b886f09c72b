"""A backbone: a model under test, whatever it was made with, behind one small contract.

An adapter declares what it is (`Card`) and answers `hear`: clips of one length in, vectors out. How examples of any
length become its clips is decided once, here: a shorter example is one padded clip, a longer one is covered by evenly
spread clips, the first at its start and the last at its end; pooled vectors are averaged over them, logits take their
maximum, tokens stand one behind the other.

Axes: b examples | s audio samples | e pooled embedding | n tokens | d width of a token | c classes of the model
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What an adapter declares of its model."""

    name: str
    """As results and tables call it."""
    sampling_rate: int
    """In Hz; clips of another rate are refused."""
    clip_s: float
    """Longest clip that it hears at once."""
    fixed_length: bool
    """Whether a clip must be clip_s long, so that shorter ones are padded."""
    width: int
    """Numbers in a pooled embedding of the last layer."""
    n_layers: int = 1
    """Layers that can be asked for, 1 to n_layers; 1 where only the output is given."""
    token_width: int | None = None
    """None where the model gives no tokens."""
    classes: tuple[str, ...] = ()
    """What its own logits stand for; empty where it has none."""
    licence: str
    overlaps: tuple[tuple[str, str], ...] = ()
    """(task or suite, warning): test data that the model may have been trained on."""
    no_finetuning: str = ""
    """Why it cannot be fine-tuned; empty where it can."""


class Want(NamedTuple):
    """What to compute."""

    layers: tuple[int, ...] = ()
    """Numbers from 1; empty for the last alone."""
    tokens: bool = False
    """Of the last of the layers."""
    logits: bool = False


class Heard(NamedTuple):
    """What a backbone says of a batch of clips or examples; float32."""

    pooled: Float[Tensor, "l b e"]
    """One entry per layer that was asked for."""
    tokens: Float[Tensor, "b n d"] | None = None
    real: Bool[Tensor, "b n"] | None = None
    """False for tokens that heard nothing but padding."""
    logits: Float[Tensor, "b c"] | None = None


class Backbone(abc.ABC):
    """Subclasses are final and define `card`, `identity` and `hear`."""

    card: Card
    device: torch.device

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as JSON: hash of the weights, preprocessing, pooling, revision. Results and cached
        features are keyed by it."""

    @abc.abstractmethod
    def hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        """Clips of one length at the card's rate, zero-padded behind n_samples, which must change nothing but length.

        Raises:
          ValueError: for clips that are too long, or something that the card says it cannot give.
        """

    def embed(self, examples: Sequence[Float[np.ndarray, " _"]], want: Want) -> Heard:
        """Examples of any length at the card's rate, cut into clips and put together again."""
        raise NotImplementedError
