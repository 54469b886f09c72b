"""A linear probe that labels every frame of a song: fitted and tuned on training songs, silent about the others.

Embeddings are projected onto the principal axes of the training frames, a class-balanced logistic regression gives each
frame a class, and the sequence is smoothed. How strong the penalty is and how much is smoothed is chosen by inner
cross-validation over the training songs: the penalty by balanced accuracy over frames, the smoothing by the syllable
error rate and, of equals, by the frame error. Where there is one training song, its thirds (halves, ...) take turns.

Axes: n frames of all songs | t frames of a song | q coordinates | r strengths
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.benchmark import sequences
from birdjepa.benchmark.frames import (
    UNSCORED,
    FrameSequence,
    Song,
    annotated,
    classes_per_ms,
    scored,
    song_classes,
)
from birdjepa.benchmark.logistic import INNER_TOLERANCE, TOLERANCE, LinearModels, Problem, example_weights, fit
from birdjepa.benchmark.pca import Pca, fit_pca
from birdjepa.core import random


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameProbe:
    """How frames are labelled, and what may be tuned on the training songs."""

    n_components: int = 128
    """Principal axes that are kept."""
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Candidates for C (large = weak penalty)."""
    windows_s: tuple[float, ...] = (0.0, 0.015, 0.025, 0.045)
    """Candidates for the window of the majority vote, in seconds, rounded to an odd number of frames."""
    least_s: tuple[float, ...] = (0.0, 0.01, 0.02, 0.03)
    """Candidates for the shortest sound that is let stand, in seconds."""
    n_inner_folds: int = 3
    """Inner folds over the training songs; fewer where there are fewer songs, but for a single one."""
    most_frames: int = 20_000
    """Frames that a probe is fitted on: of more, every second, third... is taken, for neighbours are much alike."""

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0 or list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError(f"strengths must be positive, ascending and different, got {self.strengths}")
        for name, values in (("windows_s", self.windows_s), ("least_s", self.least_s)):
            if not values or min(values) < 0:
                raise ValueError(f"{name} must hold durations of 0 s or more, got {values}")
        if self.n_inner_folds < 2 or self.most_frames < 1 or self.n_components < 1:
            raise ValueError(
                "need n_inner_folds >= 2, most_frames >= 1, n_components >= 1, got "
                f"{self.n_inner_folds}, {self.most_frames}, {self.n_components}"
            )


class Smoothing(NamedTuple):
    """Frames of the majority vote, and of the shortest sound that stands."""

    window: int
    least: int


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """What a probe said of its test songs, and what it had chosen."""

    classes: tuple[Int[np.ndarray, " _"], ...]
    """Per test song, one class per frame."""
    strength: float
    smoothing: Smoothing
    converged: bool


def label_songs(
    songs: Sequence[Song],
    frames: Sequence[FrameSequence],
    names: Sequence[str],
    train: Sequence[int],
    test: Sequence[int],
    probe: FrameProbe,
    *,
    seed: int,
    device: str = "cpu",
) -> Labelled:
    """Labels each frame of the test songs by what the training songs teach; songs are given by their numbers."""
    pca = project(frames, train, probe, device)
    x = torch.cat([_projected(pca, frames[song], device) for song in train])
    truth = [song_classes(songs[song], frames[song].centre_s, names) for song in train]
    y = torch.as_tensor(np.concatenate(truth), device=device)
    inner = _inner_folds([len(classes) for classes in truth], probe, seed)
    strength, held_out = _choose_strength(x, y, inner, probe, len(names))
    lengths = [len(classes) for classes in truth]
    smoothing = _choose_smoothing(
        [songs[song] for song in train],
        [frames[song] for song in train],
        np.split(held_out, np.cumsum(lengths)[:-1]),
        names,
        probe,
    )
    model = _fit(x, y, [_known(y)], (strength,), probe, len(names), TOLERANCE)[0]
    labelled = []
    for song in test:
        said = model.logits(_projected(pca, frames[song], device))[0].argmax(dim=1).cpu().numpy()
        labelled.append(sequences.smooth(said, window=smoothing.window, least=smoothing.least))
    return Labelled(tuple(labelled), strength, smoothing, bool(model.gap[0] <= TOLERANCE))


def project(frames: Sequence[FrameSequence], train: Sequence[int], probe: FrameProbe, device: str) -> Pca:
    """The principal axes of the training songs' frames, or of every second, third... where they are too many."""
    step = _step(sum(len(frames[song]) for song in train), probe)
    rows = np.concatenate([frames[song].embeddings[::step] for song in train])
    return fit_pca(torch.as_tensor(rows, dtype=torch.float32, device=device), probe.n_components)


def _projected(pca: Pca, frames: FrameSequence, device: str) -> Float[Tensor, "t q"]:
    return pca(torch.as_tensor(frames.embeddings, dtype=torch.float32, device=device)).double()


def _step(n_frames: int, probe: FrameProbe) -> int:
    return max(1, math.ceil(n_frames / probe.most_frames))


def _inner_folds(lengths: Sequence[int], probe: FrameProbe, seed: int) -> Int[np.ndarray, " n"]:
    """The inner fold of each frame: that of its song, or of its part of the only song."""
    if len(lengths) == 1:
        return np.arange(lengths[0]) * probe.n_inner_folds // lengths[0]
    n_folds = min(probe.n_inner_folds, len(lengths))
    of_song = random.generator(seed, "inner folds").permutation(len(lengths)) % n_folds
    return np.repeat(of_song, lengths)


def _fit(
    x: Float[Tensor, "n q"],
    y: Int[Tensor, " n"],
    parts: Sequence[Int[np.ndarray, " _"]],
    strengths: tuple[float, ...],
    probe: FrameProbe,
    n_classes: int,
    tolerance: float,
) -> list[LinearModels]:
    problems = [
        Problem(torch.as_tensor(rows[:: _step(len(rows), probe)], device=x.device), strengths) for rows in parts
    ]
    return list(fit(x, y, problems, n_classes=n_classes, balanced=True, tolerance=tolerance))


def _choose_strength(
    x: Float[Tensor, "n q"], y: Int[Tensor, " n"], inner: Int[np.ndarray, " n"], probe: FrameProbe, n_classes: int
) -> tuple[float, Int[np.ndarray, " n"]]:
    """The C of the best balanced accuracy on held-out frames (of equals the smallest), and what it said of these."""
    tests = [np.flatnonzero(inner == fold) for fold in np.unique(inner)]
    known = _known(y)
    trains = [known[inner[known] != fold] for fold in np.unique(inner)]
    models = _fit(x, y, trains, probe.strengths, probe, n_classes, INNER_TOLERANCE)
    said = np.zeros((len(probe.strengths), len(y)), dtype=np.int64)
    for model, rows in zip(models, tests, strict=True):
        said[:, rows] = model.logits(x[torch.as_tensor(rows, device=x.device)]).argmax(dim=2).cpu().numpy()
    importance = example_weights(y[torch.as_tensor(known, device=y.device)], n_classes, balanced=True).cpu().numpy()
    score = ((said == y.cpu().numpy())[:, known] @ importance / len(known)).round(9)
    best = int(score.argmax())
    return probe.strengths[best], said[best]


def _known(y: Int[Tensor, " n"]) -> Int[np.ndarray, " k"]:
    """The frames that have a class, and teach."""
    return np.flatnonzero(y.cpu().numpy() != UNSCORED)


def _choose_smoothing(
    songs: Sequence[Song],
    frames: Sequence[FrameSequence],
    said: Sequence[Int[np.ndarray, " _"]],
    names: Sequence[str],
    probe: FrameProbe,
) -> Smoothing:
    """The smoothing with the least syllable error rate over these songs; of equals that with the least frame error."""
    frame_s = float(np.median([sequence.frame_s for sequence in frames]))
    windows = sorted({2 * round(window_s / frame_s / 2) + 1 if window_s else 1 for window_s in probe.windows_s})
    leasts = sorted({max(1, round(least_s / frame_s)) for least_s in probe.least_s})
    truths = [(annotated(song, names), classes_per_ms(song, names)) for song in songs]
    members = [sequence.at_ms(song.duration_s) for song, sequence in zip(songs, frames, strict=True)]
    best, least_error = Smoothing(1, 1), (math.inf, math.inf)
    for window, least in itertools.product(windows, leasts):
        edits = wrong = 0
        for classes, sequence, song, (segments, at_ms), member in zip(
            said, frames, songs, truths, members, strict=True
        ):
            smoothed = sequences.smooth(classes, window=window, least=least)
            found = scored(sequences.segments_of(smoothed, sequence.edges_s(song.duration_s)), song)
            edits += sequences.edit_distance(segments.classes, found.classes)
            wrong += int(((smoothed[member] != at_ms) & (at_ms != UNSCORED)).sum())
        if (edits, wrong) < least_error:
            best, least_error = Smoothing(window, least), (edits, wrong)
    return best
