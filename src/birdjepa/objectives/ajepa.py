"""A-JEPA: predict, from some patches of a spectrogram, how an averaged teacher would describe the others.

The context encoder reads the context patches only. The teacher, an exponential moving average of it, reads the whole
clip. For each target block the predictor gets the context's embeddings and the positions of the block, and must say
what the teacher says there. Nothing is drawn in pixels, and the teacher is never trained. Masks follow a curriculum.

The paper leaves open whether targets are normalised, the teacher's momentum, and the predictor's heads; the defaults
are I-JEPA's layer norm and a momentum that rises linearly to 1.

Axes: b clips | n patches | m target blocks | c context patches | k patches of a target block | d width
Source: A-JEPA, arXiv 2311.15830; I-JEPA, arXiv 2301.08243.
"""

import copy
import dataclasses
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.loading import require_spectrogram
from birdjepa.models.patch import patchify
from birdjepa.models.pool import pool
from birdjepa.models.predictor import PredictorConfig
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.nn import synced
from birdjepa.objectives.augment import GAIN_ONLY, AugmentConfig
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.curriculum import CurriculumConfig
from birdjepa.objectives.masks import BlockMaskConfig, ComplementMaskConfig, Masks, RandomMaskConfig, StripeMaskConfig
from birdjepa.objectives.patches import augmented_frames, panel, pool_seen, take
from birdjepa.objectives.teacher import follow

AnyMasks = CurriculumConfig | BlockMaskConfig | StripeMaskConfig | RandomMaskConfig | ComplementMaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class AjepaConfig(ObjectiveConfig):
    """Masks, predictor, targets and teacher."""

    name = "ajepa"
    masks: AnyMasks = CurriculumConfig()
    predictor: PredictorConfig = PredictorConfig(width=96, depth=2, heads=4)
    """16 blocks of width 512 in the paper, for a ViT-B; the default suits the tiny encoder."""
    loss: Literal["l2", "smooth_l1"] = "l2"
    """Mean squared error as the paper says, or I-JEPA's code's smooth L1."""
    target_norm: Literal["layer", "instance", "none"] = "layer"
    """Standardise each of the teacher's embeddings over its width (I-JEPA), or each of their dimensions over the clip's
    patches (data2vec), which takes away what all patches share; without gains."""
    momentum: tuple[float, float] = (0.996, 1.0)
    """Share of itself that the teacher keeps at an update: from the first step to the last, linearly."""
    export: Literal["teacher", "context"] = "teacher"
    """Which encoder leaves the run."""
    augment: AugmentConfig = GAIN_ONLY

    def __post_init__(self) -> None:
        if not 0 <= self.momentum[0] <= self.momentum[1] <= 1:
            raise ValueError(f"momentum must ascend within [0, 1], got {self.momentum[0]}, {self.momentum[1]}")

    @property
    def mixes(self) -> bool:
        return self.augment.mix_probability > 0

    def build(self, encoder: SoundEncoder, seed: int, data: DataSize) -> "Ajepa":
        return Ajepa(self, require_spectrogram(encoder, self.name), seed)


class Ajepa(Objective):
    def __init__(self, config: AjepaConfig, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride] - set once
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = config.predictor.build(encoder.config.vit, encoder.config.vit.width)
        self.predictor.initialise(random.torch_generator(seed, "initialise", "predictor"))

    @property
    def exported(self) -> Encoder:
        return self.teacher if self.config.export == "teacher" else self.encoder

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        seen = self.look(augmented_frames(self.encoder, batch, self.config.augment, chance), chance)
        loss = latent_loss(seen.predicted, seen.target, self.config.loss)
        n = seen.n_patches
        terms = {
            "context_share": torch.tensor(seen.masks.context.shape[1] / n),
            "target_share": torch.tensor(seen.masks.target_share(n)),
            "target_std": synced.std(seen.target).mean(),
        }
        return ObjectiveOutput(
            loss=loss,
            terms=terms,
            embedding=seen.embedding,
            watched=seen.watched if self.config.export == "teacher" else seen.embedding.detach(),
        )

    def after_update(self, chance: Chance) -> None:
        follow(self.teacher, self.encoder, self.config.momentum, chance.progress)

    @torch.no_grad()
    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        frames = augmented_frames(self.encoder, batch, self.config.augment, chance)
        masks, patch = self.look(frames, chance).masks, self.encoder.config.patch
        shown = [panel("context", "what the context encoder saw", frames, masks.context, patch)]
        for block in range(masks.targets.shape[1]):
            name = f"target {block + 1}" if masks.targets.shape[1] > 1 else "targets"
            shown.append(
                panel(name, "must be predicted, as the teacher sees it", frames, masks.targets[:, block], patch)
            )
        return shown

    def look(self, frames: Float[Tensor, "b t m"], chance: Chance) -> "Look":
        """One pass of teacher, context encoder and predictor."""
        encoder = self.encoder
        tokens = patchify(encoder.front_end.normalise(frames), encoder.config.patch)
        batch, n, _ = tokens.shape
        rows = encoder.config.n_rows
        generator = chance.generator("mask", tokens.device)
        drawn = self.config.masks.draw(n // rows, rows, chance.of_all(batch), chance.progress, generator)
        masks = Masks(*map(chance.own, drawn))
        grid = encoder.grid(frames.shape[1])[None]
        with torch.no_grad():
            whole = self.teacher.vit(tokens, grid)
            target = standardised(whole.patches.float(), self.config.target_norm)
            watched = pool(whole, encoder.config.pooling, rows)
        grid = grid.expand(batch, -1, -1)
        context_grid = take(grid, masks.context)
        output = encoder.vit(take(tokens, masks.context), context_grid, chance.draws("drop", tokens.device))
        n_blocks = masks.targets.shape[1]
        asked = rearrange(masks.targets, "b m k -> (b m) k")

        def for_blocks(x: Float[Tensor, "b c d"]) -> Float[Tensor, "_ c d"]:
            return repeat(x, "b c d -> (b m) c d", m=n_blocks)

        predicted = self.predictor(
            for_blocks(output.cls), for_blocks(output.patches), for_blocks(context_grid), take(for_blocks(grid), asked)
        )
        return Look(
            predicted=predicted.float(),
            target=take(for_blocks(target), asked),
            masks=masks,
            embedding=pool_seen(output, masks.context, n, encoder),
            watched=watched,
            n_patches=n,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """What was predicted, and what the teacher said; a row for each target block of each clip."""

    predicted: Float[Tensor, "_ k d"]
    target: Float[Tensor, "_ k d"]
    masks: Masks
    embedding: Float[Tensor, "b e"]
    """The context encoder's, over what it saw."""
    watched: Float[Tensor, "b e"]
    """The teacher's, over the whole clip."""
    n_patches: int


def standardised(
    embeddings: Float[Tensor, "b n d"], norm: Literal["layer", "instance", "none"]
) -> Float[Tensor, "b n d"]:
    """Embeddings of mean 0 and variance 1 over the width of each patch, over the patches of each clip, or as given."""
    if norm == "layer":
        return F.layer_norm(embeddings, embeddings.shape[-1:])
    if norm == "instance":
        return F.instance_norm(embeddings.mT).mT
    return embeddings


def latent_loss(
    predicted: Float[Tensor, "b k d"], target: Float[Tensor, "b k d"], kind: Literal["l2", "smooth_l1"]
) -> Float[Tensor, ""]:
    """Mean over blocks, patches and width of the squared error, or of the smooth L1 distance (threshold 1)."""
    if kind == "smooth_l1":
        return F.smooth_l1_loss(predicted, target)
    return F.mse_loss(predicted, target)
