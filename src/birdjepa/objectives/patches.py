"""Some of a clip's patches: taken from their grid, pooled as if they were all, and shown with the others hidden.

Axes: b clips | n patches of the grid | k patches taken | d width | e embedding | t frames | m mels
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.patch import PatchConfig, patchify, unpatchify
from birdjepa.models.pool import pool
from birdjepa.models.vit import EncoderOutput
from birdjepa.objectives.augment import AugmentConfig, augment, db_per_unit
from birdjepa.objectives.base import Chance, Panel


def take(values: Float[Tensor, "b n d"], numbers: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The rows of those numbers."""
    return values.gather(1, numbers.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def pool_seen(output: EncoderOutput, numbers: Int[Tensor, "b k"], n: int, encoder: Encoder) -> Float[Tensor, "b e"]:
    """The encoder's pooling over the patches that it saw, each in its place among n; a row without any reads 0."""
    patches = output.patches.float()
    index = numbers.unsqueeze(-1).expand_as(patches)
    placed = patches.new_zeros(len(patches), n, patches.shape[-1]).scatter(1, index, patches)
    weights = patches.new_zeros(len(patches), n).scatter(1, numbers, 1.0)
    return pool(
        EncoderOutput(output.cls, placed, output.registers), encoder.config.pooling, encoder.config.n_rows, weights
    )


@torch.no_grad()
def augmented_frames(
    encoder: Encoder, batch: ClipBatch, config: AugmentConfig, chance: Chance
) -> Float[Tensor, "b t m"]:
    """Log power of each clip, altered, in the front end's unit before normalisation; whole patches only."""
    db = db_per_unit(encoder.front_end.config)
    levels = encoder.front_end.log_mel(batch.clips).unsqueeze(0) * db
    altered = augment(levels, config, chance.draws("augment", levels.device))[0] / db
    patch = encoder.config.patch.frames
    return altered[:, : altered.shape[1] // patch * patch]


def panel(
    name: str, caption: str, frames: Float[Tensor, "b t m"], shown: Int[Tensor, "b k"] | None, patch: PatchConfig
) -> Panel:
    """A picture of whole clips; of the patches only those of the numbers in `shown` are not hidden."""
    length, mels = frames.shape[1:]
    if shown is not None:
        tokens = patchify(frames, patch)
        kept = torch.full_like(tokens, torch.nan)
        index = shown.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        frames = unpatchify(kept.scatter(1, index, tokens.gather(1, index)), patch, mels)
    start = torch.zeros(len(frames), dtype=torch.long, device=frames.device)
    return Panel(name, caption, start, torch.full_like(start, length), frames)
