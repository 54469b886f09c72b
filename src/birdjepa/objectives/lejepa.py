"""LeJEPA: views of one recording must agree, and the cloud of all embeddings must look like a standard normal one.

loss = (1 - weight) * invariance + weight * SIGReg. Invariance is the mean squared distance of every view's projection
to the mean projection of the clip's global views; SIGReg is judged on each view's batch by itself. With accumulation
both see one micro-batch at a time. There is no teacher and no stop-gradient.

Axes: v views | b clips | e embedding | k projection
Source: Balestriero & LeCun, "LeJEPA", arXiv 2511.08544.
"""

import dataclasses

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.loading import require_spectrogram
from birdjepa.models.projector import Projector, ProjectorConfig
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.nn.sigreg import SigregConfig, directions, null_floor, sigreg
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.views import ViewsConfig, draw_views, embed_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class LejepaConfig(ObjectiveConfig):
    """LeJEPA's parts and its one hyper-parameter."""

    name = "lejepa"
    weight: float = 0.02
    """Share of SIGReg in the loss (lambda)."""
    views: ViewsConfig = dataclasses.field(default_factory=ViewsConfig)
    projector: ProjectorConfig = dataclasses.field(default_factory=ProjectorConfig)
    sigreg: SigregConfig = dataclasses.field(default_factory=SigregConfig)

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(f"weight must be in (0, 1), got {self.weight}")

    @property
    def mixes(self) -> bool:
        return self.views.augment.mix_probability > 0

    def build(self, encoder: SoundEncoder, seed: int, data: DataSize) -> "Lejepa":
        return Lejepa(self, require_spectrogram(encoder, self.name), seed)

    def least_clip_s(self, patch_s: float) -> float:
        return self.views.least_clip_s(patch_s)


class Lejepa(Objective):
    def __init__(self, config: LejepaConfig, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride] - set once
        self.projector = Projector(config.projector, encoder.config.embedding_width)
        self.projector.initialise(random.torch_generator(seed, "initialise", "projector"))
        self.floor = null_floor(config.sigreg)

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        views = draw_views(self.encoder, batch.clips, self.config.views, chance)
        embedding = embed_views(self.encoder, views, chance)
        projected = self.projector(rearrange(embedding, "v b e -> (v b) e")).float()
        z = rearrange(projected, "(v b) k -> v b k", v=len(embedding))
        n_global = self.config.views.n_global
        slices = directions(chance.seed, chance.step, z.shape[-1], self.config.sigreg.n_slices, z.device)
        invariance = invariance_loss(z, n_global)
        normality = sigreg(z, slices, self.config.sigreg)
        weight = self.config.weight
        pooled = embedding[:n_global].float().mean(0)
        return ObjectiveOutput(
            loss=(1 - weight) * invariance + weight * normality,
            terms={"invariance": invariance.detach(), "sigreg_excess": normality.detach() - self.floor},
            embedding=pooled,
            watched=pooled.detach(),
        )

    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        return draw_views(self.encoder, batch.clips, self.config.views, chance).panels()


def invariance_loss(z: Float[Tensor, "v b k"], n_global: int) -> Float[Tensor, ""]:
    """Mean over views, clips and channels of (z - centre)^2.

    A clip's centre is the mean of its global views, which are the first n_global ones.
    """
    centre = z[:n_global].mean(0)
    return (z - centre).square().mean()
