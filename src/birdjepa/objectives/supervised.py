"""Supervised learning in the same trainer: the baseline that objectives without labels are measured by, and what
fine-tuning is.

Single-label (softmax): cross-entropy with label smoothing. Multi-label: binary cross-entropy, or the asymmetric loss,
which forgives the many absent classes their easy negatives. Mixup adds two clips' sound; a single-label
mixture is either class by its share, a multi-label one has the classes of both.

Axes: b clips | s audio samples | c classes | n patches
Source: Ridnik et al., "Asymmetric loss", arXiv 2009.14119; Zhang et al., mixup, arXiv 1710.09412.
"""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import Encoder
from birdjepa.models.heads import HeadConfig
from birdjepa.models.loading import require_spectrogram
from birdjepa.models.patch import patchify
from birdjepa.models.pool import pool
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.nn.regularised import RegularisedMaskingConfig
from birdjepa.objectives.augment import AugmentConfig, groups
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveConfig, ObjectiveOutput, Panel
from birdjepa.objectives.patches import augmented_frames, panel


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(ObjectiveConfig):
    """Labels, loss, head and augmentation."""

    name = "supervised"
    needs_labels = True
    loss: Literal["softmax", "binary", "asymmetric"] = "softmax"
    """softmax: cross-entropy over classes of which each clip has one; binary, asymmetric: clips have any number."""
    smoothing: float = 0.1
    """Label smoothing of softmax."""
    gamma_negative: float = 4.0
    gamma_positive: float = 1.0
    margin: float = 0.05
    """Asymmetric loss: focus on hard negatives and positives, and the probability below which negatives are free."""
    mixup: float = 0.0
    """Beta(mixup, mixup) draws the share of the second clip; 0 does not mix."""
    head: HeadConfig = HeadConfig()
    orthogonality: float = 0.01
    """Weight of the penalty that keeps the prototypes of a class apart; only for prototypical heads."""
    augment: AugmentConfig = AugmentConfig()
    masking: RegularisedMaskingConfig = RegularisedMaskingConfig(share=0.0)
    """Regularised masking in attention while training."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.mixup < 0 or not 0 <= self.margin < 1 or self.orthogonality < 0:
            raise ValueError(
                "need 0 <= smoothing < 1, mixup >= 0, 0 <= margin < 1, orthogonality >= 0; got "
                f"{self.smoothing}, {self.mixup}, {self.margin}, {self.orthogonality}"
            )
        if min(self.gamma_negative, self.gamma_positive) < 0:
            raise ValueError(f"gammas must be >= 0, got {self.gamma_negative}, {self.gamma_positive}")

    @property
    def is_multi_label(self) -> bool:
        return self.loss != "softmax"

    @property
    def mixes(self) -> bool:
        return self.augment.mix_probability > 0 or self.mixup > 0

    def build(self, encoder: SoundEncoder, seed: int, data: DataSize) -> "Supervised":
        return Supervised(self, require_spectrogram(encoder, self.name), seed, data)


class Supervised(Objective):
    def __init__(self, config: SupervisedConfig, encoder: Encoder, seed: int, data: DataSize) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder = encoder  # pyright: ignore[reportIncompatibleVariableOverride] - set once
        self.head = config.head.build(encoder.config, data.n_classes)
        self.head.initialise(random.torch_generator(seed, "initialise", "head"))

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        wanted = targets(batch, is_multi_label=self.config.is_multi_label)
        if self.config.mixup:
            batch, wanted = mixed_up(batch, wanted, self.config, chance)
        frames = augmented_frames(self.encoder, batch, self.config.augment, chance)
        tokens = patchify(self.encoder.front_end.normalise(frames), self.encoder.config.patch)
        grid = self.encoder.grid(frames.shape[1])[None]
        output = self.encoder.vit(tokens, grid, chance.draws("drop", tokens.device), self.config.masking)
        heard = self.encoder.heard(output, batch.clips.shape[1])
        logits = self.head(output, heard)
        loss = classification_loss(logits, wanted, self.config)
        terms = {"train_accuracy": hits(logits, wanted).mean().detach()}
        if self.config.head.form == "prototypical":
            loss = loss + self.config.orthogonality * self.head.orthogonality()
        pooled = pool(output, self.encoder.config.pooling, self.encoder.config.n_rows, heard)
        return ObjectiveOutput(loss, terms, pooled, pooled.detach())

    @torch.no_grad()
    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        if self.config.mixup:
            batch, _ = mixed_up(batch, targets(batch, is_multi_label=self.config.is_multi_label), self.config, chance)
        frames = augmented_frames(self.encoder, batch, self.config.augment, chance)
        return [panel("seen", "the clip as it was altered for training", frames, None, self.encoder.config.patch)]


def targets(batch: ClipBatch, *, is_multi_label: bool) -> Float[Tensor, "b c"]:
    """Wanted probability of each class: 1 for a clip's classes (of a single-label clip, for the one in `label`)."""
    if is_multi_label:
        return batch.labels.float()
    return F.one_hot(batch.label, batch.labels.shape[1]).float()


def mixed_up(
    batch: ClipBatch, wanted: Float[Tensor, "b c"], config: SupervisedConfig, chance: Chance
) -> tuple[ClipBatch, Float[Tensor, "b c"]]:
    """Each clip plus one of its group in the batch, sound weighted by a drawn share, and what is wanted then."""
    device = batch.clips.device
    numbers = random.generator(chance.seed, "mixup_share", chance.step, chance.micro)
    shares = chance.own(numbers.beta(config.mixup, config.mixup, size=(chance.of_all(len(wanted)), 1)))
    share = torch.from_numpy(shares).float().to(device)
    order = chance.draws("mixup", device).uniform((len(wanted),), clips=0).argsort()
    first, _ = groups(len(wanted), device)
    other = order[first[order].argsort(stable=True)]  # a permutation within each group
    clips = share * batch.clips + (1 - share) * batch.clips[other]
    both = share * wanted + (1 - share) * wanted[other]
    if config.is_multi_label:
        both = torch.maximum(wanted, wanted[other])
    lengths = torch.maximum(batch.lengths, batch.lengths[other])
    return dataclasses.replace(batch, clips=clips, lengths=lengths), both


def classification_loss(
    logits: Float[Tensor, "b c"], wanted: Float[Tensor, "b c"], config: SupervisedConfig
) -> Float[Tensor, ""]:
    """Mean over clips (and, for several labels, over classes)."""
    if config.loss == "softmax":
        return F.cross_entropy(logits, wanted, label_smoothing=config.smoothing)
    if config.loss == "binary":
        return F.binary_cross_entropy_with_logits(logits, wanted)
    return asymmetric_loss(logits, wanted, config.gamma_negative, config.gamma_positive, config.margin)


def asymmetric_loss(
    logits: Float[Tensor, "b c"],
    wanted: Float[Tensor, "b c"],
    gamma_negative: float,
    gamma_positive: float,
    margin: float,
) -> Float[Tensor, ""]:
    """Mean of -y (1 - p)^gamma_positive ln p - (1 - y) q^gamma_negative ln(1 - q) with q = max(0, p - margin).

    Source: Ridnik et al. 2021, equations 4 to 6; as published, gradients do not flow through the focus factors.
    """
    p = logits.sigmoid()
    q = (p - margin).clamp_min(0)
    with torch.no_grad():
        positive, negative = (1 - p).pow(gamma_positive), q.pow(gamma_negative)
    log_p, log_not_q = F.logsigmoid(logits), torch.log1p(-q.clamp_max(1 - 1e-7))
    return -(wanted * positive * log_p + (1 - wanted) * negative * log_not_q).mean()


def hits(logits: Float[Tensor, "b c"], wanted: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """1 where the best class is among those wanted most."""
    best = logits.argmax(1, keepdim=True)
    most: Bool[Tensor, "b 1"] = wanted.gather(1, best) >= wanted.amax(1, keepdim=True)
    return most.squeeze(1).float()
