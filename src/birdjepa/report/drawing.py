"""What A-JEPA's predictor knew, as a spectrogram: a small decoder turns predicted embeddings back into patches.

The objective itself draws nothing, so a decoder is fitted afterwards, to predictions about other recordings than those
that are shown: ridge regression on the embedding and the patch's mel row, in closed form. The same is done with the
predictions of an untrained twin, with the row alone (the mean spectrum) and with what the teacher said, for a picture
says nothing by itself: what lies between these floors and that ceiling is what the predictor learnt.

Axes: b clips | n target patches of all clips | d features | p values per patch | t frames | m mels
Source: the paper's picture is A-JEPA, arXiv 2311.15830; the decoder, its floors and its ceiling are ours.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from birdjepa.benchmark.bootstrap import Statistic, interval, paired_difference
from birdjepa.benchmark.standardise import Standardiser, fit_standardiser
from birdjepa.core.batch import ClipBatch
from birdjepa.data.loader import Clips
from birdjepa.models.patch import patchify, unpatchify
from birdjepa.objectives.ajepa import Ajepa, Look
from birdjepa.objectives.base import Chance, DataSize, Panel
from birdjepa.objectives.patches import augmented_frames, panel, take
from birdjepa.report.contents import Absent, Drawing

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the ridge penalty for each row, on standardised features; the best on every fourth clip is taken."""
CHUNK = 32
"""Clips that are predicted at a time."""
TRAINED, UNTRAINED, PLACE, TEACHER = (
    "what was predicted",
    "what an untrained encoder and predictor say",
    "the mel row alone: the mean spectrum",
    "what the teacher says: a perfect prediction",
)


class Drawn(NamedTuple):
    """Scores, and the pictures of the batch, one for each chance."""

    drawing: Drawing
    panels: list[Panel]


class Rows(NamedTuple):
    """A row for each target patch: what could be known of it, and what it is."""

    features: dict[str, Float[Tensor, "n _"]]
    value: Float[Tensor, "n p"]
    """Normalised, as the encoder reads it."""
    clip: Int[Tensor, " n"]
    """Place of its clip among those that were looked at."""


@torch.no_grad()
def draw_predictions(
    ajepa: Ajepa, clips: Clips, batch: ClipBatch, chances: Sequence[Chance], *, n_clips: int, held: Collection[int]
) -> Drawn | Absent:
    """Spectrograms of what was predicted about a batch, by decoders fitted to n_clips of the batches after the first.

    held are recordings that no decoder is fitted to: the scores are taken on the batch's clips of these. There is a
    picture with the masks of each chance; fitted and judged is at the last one, whose step also gives other masks to
    the clips for fitting.

    Raises:
      UserError: if the recordings cannot be read any more.
    """
    last = chances[-1]
    untrained = _untrained(ajepa, last.seed)
    fitting = [
        _rows(ajepa, untrained, part, dataclasses.replace(last, micro=number))
        for number, part in enumerate(_parts(clips, n_clips, held), start=1)
    ]
    if not fitting:
        return Absent("there are too few recordings to fit a decoder to others than those that are shown")
    train = _joined(fitting)
    decoders = {name: fit_best(features, train.value, train.clip) for name, features in train.features.items()}
    test = _rows(ajepa, untrained, batch, last)
    drawn = {name: decoders[name](features) for name, features in test.features.items()}
    judged = torch.tensor([recording in held for recording in batch.recording.tolist()])
    mean, n_fitted = train.value.mean(0), int(train.clip.max()) + 1
    drawing = _judge(drawn, test, mean, judged, batch, n_fitted=n_fitted, seed=last.seed)
    return Drawn(drawing, [_panel(ajepa, decoders[TRAINED], batch, chance) for chance in chances])


class Ridge(NamedTuple):
    """A fitted linear map."""

    standardiser: Standardiser
    weights: Float[Tensor, "d p"]
    mean: Float[Tensor, " p"]

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        return (self.standardiser(features.double()) @ self.weights + self.mean).float()


def fit_best(features: Float[Tensor, "n d"], values: Float[Tensor, "n p"], clip: Int[Tensor, " n"]) -> Ridge:
    """Ridge regression of the strength that does best on every fourth clip when fitted to the others; then to all."""
    judged = clip % 4 == 3
    if not judged.any():
        return fit_ridge(features, values, STRENGTHS[-1])

    def error(strength: float) -> float:
        fitted = fit_ridge(features[~judged], values[~judged], strength)
        return float((values[judged] - fitted(features[judged])).square().sum())

    return fit_ridge(features, values, min(STRENGTHS, key=error))


def fit_ridge(features: Float[Tensor, "n d"], values: Float[Tensor, "n p"], strength: float) -> Ridge:
    """Least squares on standardised features with a penalty of n * strength on the squared weights, none on the mean.

    Source: equals sklearn.linear_model.Ridge(alpha=n * strength) behind a StandardScaler.
    """
    standardiser = fit_standardiser(features.double())
    x, mean = standardiser(features.double()), values.double().mean(0)
    penalty = len(x) * strength * torch.eye(x.shape[1], dtype=x.dtype)
    return Ridge(standardiser, torch.linalg.solve(x.T @ x + penalty, x.T @ (values.double() - mean)), mean)


def _untrained(ajepa: Ajepa, seed: int) -> Ajepa:
    """The objective as it was before the first step."""
    encoder = ajepa.encoder.config.build().initialise(seed)
    return ajepa.config.build(encoder, seed, DataSize(0, 0)).requires_grad_(False).eval()


def _parts(clips: Clips, n_clips: int, held: Collection[int]) -> list[ClipBatch]:
    """At most n_clips of the run's batches after the first one, none of a held recording, in chunks."""
    parts, n_left = [], n_clips
    for number in range(1, 1 + -(-n_clips // clips.batch_size)):
        batch = clips.batch(number)
        rows = [i for i, recording in enumerate(batch.recording.tolist()) if recording not in held][:n_left]
        parts += [batch.select(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)]
        n_left -= len(rows)
    return parts


def _look(ajepa: Ajepa, batch: ClipBatch, chance: Chance) -> tuple[Look, Float[Tensor, "b t m"]]:
    frames = augmented_frames(ajepa.encoder, batch, ajepa.config.augment, chance)
    return ajepa.look(frames, chance), frames


def _rows(ajepa: Ajepa, untrained: Ajepa, batch: ClipBatch, chance: Chance) -> Rows:
    """Both look at the same frames with the same masks, which are functions of the chance."""
    look, frames = _look(ajepa, batch, chance)
    asked = rearrange(look.masks.targets, "b m k -> b (m k)")
    tokens = patchify(ajepa.encoder.front_end.normalise(frames), ajepa.encoder.config.patch)
    before = untrained.look(frames, chance).predicted
    place = _place(ajepa, look)
    known = {TRAINED: look.predicted, UNTRAINED: before, TEACHER: look.target}
    features = {name: _beside(x, place) for name, x in known.items()}
    clip = repeat(torch.arange(len(frames)), "b -> (b k)", k=asked.shape[1])
    return Rows({**features, PLACE: place}, rearrange(take(tokens, asked), "b k p -> (b k) p"), clip)


def _place(ajepa: Ajepa, look: Look) -> Float[Tensor, "n r"]:
    """The mel row of each target patch, as a code of its own."""
    n_rows = ajepa.encoder.config.n_rows
    return F.one_hot(look.masks.targets.flatten() % n_rows, n_rows).float()


def _beside(said: Float[Tensor, "_ k d"], place: Float[Tensor, "n r"]) -> Float[Tensor, "n _"]:
    return torch.cat((rearrange(said, "b k d -> (b k) d"), place), 1)


def _joined(parts: list[Rows]) -> Rows:
    first = np.cumsum([0, *(int(part.clip.max()) + 1 for part in parts)]).tolist()
    return Rows(
        {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features},
        torch.cat([part.value for part in parts]),
        torch.cat([part.clip + before for part, before in zip(parts, first, strict=False)]),
    )


def _judge(
    drawn: dict[str, Float[Tensor, "n p"]],
    test: Rows,
    mean: Float[Tensor, " p"],
    judged: Bool[Tensor, " b"],
    batch: ClipBatch,
    *,
    n_fitted: int,
    seed: int,
) -> Drawing:
    """R^2 = 1 - squared error / squared distance from the mean patch of the fitted clips, over the judged ones."""

    def per_clip(errors: Float[Tensor, "n p"]) -> Float[np.ndarray, " b"]:
        sums = torch.zeros(len(judged), dtype=torch.double)
        return sums.index_add(0, test.clip, errors.double().square().sum(1))[judged].numpy()

    spread = per_clip(test.value - mean)

    def share_of(name: str) -> Statistic:
        error = per_clip(test.value - drawn[name])
        return lambda draws: 1 - draws.total(error) / np.maximum(draws.total(spread), 1e-12)

    groups = [str(recording) for recording in batch.recording[judged].tolist()]
    order = (TRAINED, UNTRAINED, PLACE, TEACHER)
    return Drawing(
        scores={name: interval(share_of(name), groups, seed=seed) for name in order},
        lead=paired_difference(share_of(TRAINED), share_of(UNTRAINED), groups, seed=seed),
        n_fitted=n_fitted,
        n_held=int(judged.sum()),
    )


def _panel(ajepa: Ajepa, decoder: Ridge, batch: ClipBatch, chance: Chance) -> Panel:
    """Context patches as they are, target patches as drawn (the mean, where blocks overlap), the others hidden."""
    look, frames = _look(ajepa, batch, chance)
    drawn = rearrange(decoder(_beside(look.predicted, _place(ajepa, look))), "(b k) p -> b k p", b=len(frames))
    front_end, patch = ajepa.encoder.front_end, ajepa.encoder.config.patch
    tokens = patchify(front_end.normalise(frames), patch)
    index = rearrange(look.masks.targets, "b m k -> b (m k)").unsqueeze(-1).expand_as(drawn)
    total = torch.zeros_like(tokens).scatter_add(1, index, drawn)
    count = torch.zeros_like(tokens).scatter_add(1, index, torch.ones_like(drawn))
    shown = total / count.where(count > 0, torch.nan)
    context = look.masks.context.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    painted = unpatchify(shown.scatter(1, context, tokens.gather(1, context)), patch, frames.shape[2])
    caption = "context, and the targets as a decoder draws them from what was predicted"
    return panel("drawn", caption, front_end.unnormalise(painted, frames), None, patch)
