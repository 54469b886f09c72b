"""What every objective is: a module that owns the encoder in training and turns a batch into a loss.

Axes: b clips | w frames | m mels | e embedding
"""

import abc
import dataclasses
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.sound_encoder import SoundEncoder

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Chance:
    """Where in a run a micro-batch stands, and its named random streams: all that an objective draws comes from here,
    so that its curriculum and its masks are pure functions of the step.

    With several processes each has some of the micro-batch's clips. What is drawn for a clip is then drawn for all
    clips and cut (`draws` does so by itself), what is drawn for the batch is equal on all processes: the numbers are
    those of one process.
    """

    seed: int
    step: int
    n_steps: int
    """Updates that the run was planned for; a forked run may go on beyond them."""
    micro: int = 0
    rank: int = 0
    world: int = 1

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / self.n_steps)

    def draws(self, purpose: str, device: torch.device, *, n_views: int = 1) -> random.Draws:
        """A named stream for the clips of this process; n_views where they come as "(v b)"."""
        return random.Draws(self.generator(purpose, device), rank=self.rank, world=self.world, n_views=n_views)

    def generator(self, purpose: str, device: torch.device) -> torch.Generator:
        """The same stream as it is, equal on all processes: to draw for `of_all` clips and keep one's `own`."""
        return random.torch_generator(self.seed, purpose, self.step, self.micro, device=device)

    def of_all(self, n_clips: int) -> int:
        """Clips of the whole micro-batch, where each process has n_clips."""
        return n_clips * self.world

    def own(self, rows: Rows) -> Rows:
        """This process's rows of something that has a row for each clip of the whole micro-batch."""
        n_clips = len(rows) // self.world
        return rows[self.rank * n_clips : (self.rank + 1) * n_clips]


class DataSize(NamedTuple):
    """What an objective must know of the data before it sees any."""

    n_recordings: int
    n_classes: int


class ObjectiveOutput(NamedTuple):
    """Loss of a micro-batch (a mean over its clips), the terms to log, and the embeddings of its clips."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    """Detached."""
    embedding: Float[Tensor, "b e"]
    """One embedding per clip by the encoder in training, pooled as its configuration says, with its gradient: what can
    be added to the loss reads it. Objectives that hide patches pool over those that the encoder saw."""
    watched: Float[Tensor, "b e"]
    """Detached embeddings of what will be exported: for monitors and the online probe."""


class Panel(NamedTuple):
    """One picture of what became of each clip of a batch: a view, what was hidden, what was predicted."""

    name: str
    """Short, such as G1 or context."""
    caption: str
    """Few words on what is to be seen; empty where the name says it."""
    start: Int[Tensor, " b"]
    """First frame of the clip that the panel shows."""
    span: Int[Tensor, " b"]
    """Frames of the clip that it shows."""
    frames: Float[Tensor, "b w m"]
    """Log power in the front end's unit, before normalisation; NaN where something is hidden."""


class Objective(nn.Module, abc.ABC):
    """Subclasses are final. `exported` leaves the run; every other submodule is thrown away after training."""

    encoder: SoundEncoder

    @property
    def exported(self) -> nn.Module:
        """What leaves the run for users: the encoder, unless the objective says otherwise."""
        return self.encoder

    @property
    def averaged(self) -> nn.Module:
        """What train.ema_decay averages and then exports."""
        return self.encoder

    @property
    def watched_width(self) -> int:
        """Numbers in an embedding that is watched."""
        return self.encoder.config.embedding_width

    def sleeps(self, group: str, step: int) -> bool:
        """Whether an optimiser's group of that name does not learn yet at a step: as if it began later."""
        return False

    @abc.abstractmethod
    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        """Loss of one micro-batch."""

    def after_update(self, chance: Chance) -> None:
        """Called once after each optimiser update, with the chance of that step."""

    @abc.abstractmethod
    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        """What this objective shows the encoder of a batch, and what it asks, for the report; without gradients."""


class ObjectiveConfig(abc.ABC):
    """Settings of an objective: a frozen dataclass that builds it. Subclasses are final."""

    name = ""
    """What `birdjepa pretrain` calls it."""
    needs_labels = False
    """Whether it can only learn from labelled rows."""

    @property
    def mixes(self) -> bool:
        """Whether clips of a batch are mixed with each other, within groups of `augment.GROUP`."""
        return False

    @abc.abstractmethod
    def build(self, encoder: SoundEncoder, seed: int, data: DataSize) -> Objective:
        """The objective around an encoder, everything else at its initial values from the seed.

        Raises:
          UsageError: if it cannot train an encoder of this kind.
        """

    def least_clip_s(self, patch_s: float) -> float:
        """Shortest clip that the objective can work on, in seconds."""
        return 4 * patch_s
