"""DIET: each recording is a class of its own, and the encoder learns to tell recordings apart from augmented views.

No pairs, no teacher, no projector: a strongly smoothed cross-entropy over all recordings. The numbers of recordings are
those of the data's order, which resuming refuses to change; the head stays behind when the encoder is exported.

Axes: v views | b clips | e embedding
Source: Ibrahim, Balestriero et al., "DIET", arXiv 2302.10260; Perch 2.0 (arXiv 2508.04665) calls it source prediction.
"""

import dataclasses

from einops import rearrange, repeat

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.loading import require_spectrogram
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.models.source_head import SourceHead, SourceHeadConfig
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.views import ViewsConfig, draw_views, embed_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class DietConfig(ObjectiveConfig):
    """Views and head of source prediction."""

    name = "diet"
    views: ViewsConfig = ViewsConfig()
    head: SourceHeadConfig = SourceHeadConfig()

    @property
    def mixes(self) -> bool:
        return self.views.augment.mix_probability > 0

    def build(self, encoder: SoundEncoder, seed: int, data: DataSize) -> "Diet":
        return Diet(self, require_spectrogram(encoder, self.name), seed, data)

    def least_clip_s(self, patch_s: float) -> float:
        return self.views.least_clip_s(patch_s)


class Diet(Objective):
    def __init__(self, config: DietConfig, encoder: Encoder, seed: int, data: DataSize) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride] - set once
        self.head = SourceHead(config.head, encoder.config.embedding_width, data.n_recordings)
        self.head.initialise(random.torch_generator(seed, "initialise", "source_head"))

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        views = draw_views(self.encoder, batch.clips, self.config.views, chance)
        embedding = embed_views(self.encoder, views, chance)
        recording = repeat(batch.recording, "b -> (v b)", v=len(embedding))
        loss = self.head(rearrange(embedding, "v b e -> (v b) e"), recording)
        pooled = embedding[: self.config.views.n_global].float().mean(0)
        return ObjectiveOutput(loss, {"source_excess": self.head.excess(loss)}, pooled, pooled.detach())

    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        return draw_views(self.encoder, batch.clips, self.config.views, chance).panels()
