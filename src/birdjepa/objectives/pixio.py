"""Pixio: a masked autoencoder with a deeper decoder, masks of blocks, and CLS tokens that take part in decoding.

The encoder reads the visible patches only. The decoder gets its tokens, its CLS tokens, and a mask token for each
hidden patch, and draws the hidden patches; the loss is the mean squared error there, each patch standardised by its own
mean and (unbiased) variance. A plain MAE is the setting block = (1, 1) with a shallow decoder.

Axes: b clips | n patches | c visible patches | k hidden patches | p values per patch
Source: Pixio, arXiv 2512.15715; He et al., "Masked autoencoders", arXiv 2111.06377. The encoder-decoder split of the
sizes, and the decoder for small encoders, are ours.
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.loading import require_spectrogram
from birdjepa.models.patch import patchify, unpatchify
from birdjepa.models.predictor import PredictorConfig
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.objectives.augment import GAIN_ONLY, AugmentConfig
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.masks import visible_and_hidden
from birdjepa.objectives.patches import augmented_frames, panel, pool_seen, take


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixioConfig(ObjectiveConfig):
    """Masks, decoder and target of the masked autoencoder."""

    name = "pixio"
    share: float = 0.75
    """Share of the patches that are hidden, to the exact count."""
    block: tuple[int, int] = (2, 2)
    """Columns and rows of patches that are hidden together."""
    decoder: PredictorConfig = PredictorConfig()
    """8 blocks of width 512 suit a ViT-B; the default suits the tiny encoder."""
    normalise_target: bool = True
    """Standardise each patch by its own mean and variance."""
    augment: AugmentConfig = GAIN_ONLY

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or min(self.block) < 1:
            raise ValueError(f"need 0 < share < 1 and blocks of at least 1 x 1 patches, got {self.share}, {self.block}")

    @property
    def mixes(self) -> bool:
        return self.augment.mix_probability > 0

    def build(self, encoder: SoundEncoder, seed: int, data: DataSize) -> "Pixio":
        return Pixio(self, require_spectrogram(encoder, self.name), seed)


class Pixio(Objective):
    def __init__(self, config: PixioConfig, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride] - set once
        self.decoder = config.decoder.build(encoder.config.vit, encoder.config.patch.n_values)
        self.decoder.initialise(random.torch_generator(seed, "initialise", "decoder"))

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        drawn = self._draw(augmented_frames(self.encoder, batch, self.config.augment, chance), chance)
        loss = reconstruction_loss(drawn.predicted, drawn.target, normalise=self.config.normalise_target)
        return ObjectiveOutput(
            loss=loss, terms={"visible_share": drawn.share}, embedding=drawn.pooled, watched=drawn.pooled.detach()
        )

    @torch.no_grad()
    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        frames = augmented_frames(self.encoder, batch, self.config.augment, chance)
        drawn = self._draw(frames, chance)
        patch, front_end = self.encoder.config.patch, self.encoder.front_end.config
        predicted = drawn.predicted.float()
        if self.config.normalise_target:
            mean, std = _moments(drawn.target)
            predicted = predicted * std + mean
        tokens = patchify(self.encoder.front_end.normalise(frames), patch)
        index = drawn.hidden.unsqueeze(-1).expand_as(predicted)
        painted = unpatchify(tokens.scatter(1, index, predicted.to(tokens.dtype)), patch, front_end.n_mels)
        raw = self.encoder.front_end.unnormalise(painted, frames)
        lent = " (mean and spread of each patch lent by the original)" if self.config.normalise_target else ""
        return [
            panel("visible", "what the encoder saw", frames, drawn.visible, patch),
            panel("drawn", f"visible patches, and the hidden ones as drawn{lent}", raw, None, patch),
            panel("original", "", frames, None, patch),
        ]

    def _draw(self, frames: Float[Tensor, "b t m"], chance: Chance) -> "_Drawn":
        """One pass through encoder and decoder."""
        encoder, config = self.encoder, self.config
        tokens = patchify(encoder.front_end.normalise(frames), encoder.config.patch)
        batch, n, _ = tokens.shape
        rows = encoder.config.n_rows
        generator = chance.generator("mask", tokens.device)
        drawn = visible_and_hidden(n // rows, rows, chance.of_all(batch), config.block, config.share, generator)
        visible, hidden = map(chance.own, drawn)
        grid = encoder.grid(frames.shape[1]).expand(batch, -1, -1)
        seen_grid = take(grid, visible)
        output = encoder.vit(take(tokens, visible), seen_grid, chance.draws("drop", tokens.device))
        predicted = self.decoder(output.cls, output.patches, seen_grid, take(grid, hidden))
        pooled = pool_seen(output, visible, n, encoder)
        share = torch.tensor(visible.shape[1] / n)
        return _Drawn(predicted, take(tokens, hidden), visible, hidden, pooled, share)


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    predicted: Float[Tensor, "b k p"]
    target: Float[Tensor, "b k p"]
    visible: Tensor
    hidden: Tensor
    pooled: Tensor
    share: Tensor


def reconstruction_loss(
    predicted: Float[Tensor, "b k p"], target: Float[Tensor, "b k p"], *, normalise: bool
) -> Float[Tensor, ""]:
    """Mean squared error over hidden patches and their values, in float32; the target standardised per patch."""
    if normalise:
        mean, std = _moments(target)
        target = (target - mean) / std
    return (predicted.float() - target.float()).square().mean()


def _moments(patches: Float[Tensor, "b k p"]) -> tuple[Tensor, Tensor]:
    """Mean of each patch, and the root of its unbiased variance + 1e-6."""
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
