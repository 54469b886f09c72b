"""LeJEPA: views of one recording must agree, and the cloud of all embeddings must look like a standard normal one.

loss = (1 - weight) * invariance + weight * SIGReg. Invariance is the mean squared distance of every view's projection
to the mean projection of the clip's global views; SIGReg is judged on each view's batch by itself. With accumulation
both see one micro-batch at a time. There is no teacher and no stop-gradient.

Axes: v views | b clips | w frames | m mels | e embedding | k projection
Source: Balestriero & LeCun, "LeJEPA", arXiv 2511.08544.
"""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.patch import patchify
from birdjepa.models.pool import pool
from birdjepa.models.projector import Projector, ProjectorConfig
from birdjepa.nn.sigreg import SigregConfig, directions, null_floor, sigreg
from birdjepa.objectives.base import Chance, Objective, ObjectiveOutput
from birdjepa.objectives.views import DB, Views, ViewsConfig, make_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class LejepaConfig:
    """LeJEPA's parts and its one hyper-parameter."""

    weight: float = 0.02
    """Share of SIGReg in the loss (lambda)."""
    views: ViewsConfig = dataclasses.field(default_factory=ViewsConfig)
    projector: ProjectorConfig = dataclasses.field(default_factory=ProjectorConfig)
    sigreg: SigregConfig = dataclasses.field(default_factory=SigregConfig)

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(f"weight must be in (0, 1), got {self.weight}")

    def build(self, encoder: Encoder, seed: int) -> "Lejepa":
        return Lejepa(self, encoder, seed)


class Lejepa(Objective):
    def __init__(self, config: LejepaConfig, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projector = Projector(config.projector, encoder.config.embedding_width)
        self.projector.initialise(random.torch_generator(seed, "initialise", "projector"))
        self.floor = null_floor(config.sigreg)

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        with torch.no_grad():
            global_views, local_views = self.views(batch.clips, chance)
        embeddings = [self._embed(global_views.frames, chance, "drop_global")]
        if local_views.frames.shape[0]:
            embeddings.append(self._embed(local_views.frames, chance, "drop_local"))
        embedding = torch.cat(embeddings)
        projected = self.projector(rearrange(embedding, "v b e -> (v b) e")).float()
        z = rearrange(projected, "(v b) k -> v b k", v=len(embedding))
        n_global = self.config.views.n_global
        slices = directions(chance.seed, chance.step, z.shape[-1], self.config.sigreg.n_slices, z.device)
        invariance = invariance_loss(z, n_global)
        normality = sigreg(z, slices, self.config.sigreg)
        weight = self.config.weight
        return ObjectiveOutput(
            loss=(1 - weight) * invariance + weight * normality,
            terms={"invariance": invariance.detach(), "sigreg_excess": normality.detach() - self.floor},
            embedding=embedding[:n_global].detach().float().mean(0),
        )

    def views(self, clips: Float[Tensor, "b s"], chance: Chance) -> tuple[Views, Views]:
        """Global and local views of a batch, before normalisation; the same for the same chance."""
        front_end, config = self.encoder.front_end, self.config.views
        frames = front_end.log_mel(clips)
        db_per_unit = 1.0 if front_end.config.unit == "db" else DB

        def draw(purpose: str, n_views: int, seconds: float) -> Views:
            generator, window = chance.generator(purpose, clips.device), self.window(seconds)
            return make_views(frames, n_views, window, config, db_per_unit=db_per_unit, generator=generator)

        global_views = draw("views_global", config.n_global, config.global_s)
        return global_views, draw("views_local", config.n_local, config.local_s)

    def window(self, seconds: float) -> int:
        """Frames of a view: the nearest whole number of patches, at least one."""
        patch = self.encoder.config.patch.frames
        return patch * max(1, round(seconds * self.encoder.front_end.config.frame_rate / patch))

    def _embed(self, views: Float[Tensor, "v b w m"], chance: Chance, purpose: str) -> Float[Tensor, "v b e"]:
        """Pooled embeddings of views of one length, all in one forward pass."""
        frames = self.encoder.front_end.normalise(rearrange(views, "v b w m -> (v b) w m"))
        grid = self.encoder.grid(frames.shape[1])[None]
        drawn = chance.generator(purpose, frames.device)
        output = self.encoder.vit(patchify(frames, self.encoder.config.patch), grid, drawn)
        pooled = pool(output, self.encoder.config.pooling, self.encoder.config.n_rows)
        return rearrange(pooled, "(v b) e -> v b e", v=len(views))


def invariance_loss(z: Float[Tensor, "v b k"], n_global: int) -> Float[Tensor, ""]:
    """Mean over views, clips and channels of (z - centre)^2.

    A clip's centre is the mean of its global views, which are the first n_global ones.
    """
    centre = z[:n_global].mean(0)
    return (z - centre).square().mean()
