"""Scores frame embeddings of annotated songs: labels, segments, sequences, clusters, with intervals over songs.

All models go through one function with the same folds and seed, and meet the same resamples.

Scores are taken at 1 ms (`frames`). frame_error is the share of milliseconds with a wrong class; it is the sum of
parsing_error (sound taken for silence or silence for sound) and identity_error (one syllable for another);
macro_frame_error is the mean over classes, silence among them. Segments are found within 5, 10 or 20 ms at both ends.
syllable_error_rate is the edit distance of the label sequences over the number of true syllables, and may exceed 1.
v_measure and ari are of k-means with as many clusters as classes, knn_purity is over one frame per syllable: these need
no training song, and are given where all songs train.

Axes: n songs | t frames | k segments | c classes, silence first
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from birdjepa.benchmark import clusters, frames, sequences
from birdjepa.benchmark.bootstrap import Draws, Estimate, Resampled, resample
from birdjepa.benchmark.folds import Folds
from birdjepa.benchmark.frame_metrics import METRICS, TOLERANCES_MS, UNSUPERVISED, SongCounts, of_class
from birdjepa.benchmark.frame_probe import FrameProbe, Smoothing, label_songs, project
from birdjepa.benchmark.frames import FrameSequence, Segments, Song
from birdjepa.core import random
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameTask:
    """How many songs teach, by what probe, and how sure we are."""

    n_train_songs: int = 0
    """Songs drawn (by the seed) from each fold's training songs; 0 takes all."""
    probe: FrameProbe = FrameProbe()
    n_neighbours: int = 100
    n_resamples: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.n_train_songs < 0 or self.n_neighbours < 1:
            raise ValueError(
                f"need n_train_songs >= 0 and n_neighbours >= 1, got {self.n_train_songs}, {self.n_neighbours}"
            )


@dataclasses.dataclass(frozen=True)
class FoldChoice:
    """What a fold's probe chose on its training songs."""

    fold: str
    songs: tuple[str, ...]
    """The songs it was trained on."""
    strength: float
    smoothing: Smoothing


@dataclasses.dataclass(frozen=True, eq=False)
class FrameScore:
    """What frame embeddings reached; each song is labelled by probes that had not met it."""

    metrics: dict[str, Estimate]
    per_class: dict[str, dict[str, float]]
    """By label, "" for silence: frame_error, seconds, and for sounds segment_f1_*ms and segments."""
    counts: dict[str, int]
    notes: tuple[str, ...]
    choices: tuple[FoldChoice, ...]
    classes: tuple[str, ...]
    songs: tuple[str, ...]
    """The tested songs, which the rows of song_counts stand for."""
    song_counts: SongCounts
    task: FrameTask
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything but the counts of single songs."""
        return {
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "per_class": self.per_class,
            "counts": self.counts,
            "notes": list(self.notes),
            "choices": [{**dataclasses.asdict(c), "smoothing": c.smoothing._asdict()} for c in self.choices],
            "n_train_songs": self.task.n_train_songs,
            "seed": self.seed,
            "n_resamples": self.task.n_resamples,
            "confidence": self.task.confidence,
        }


def evaluate_frames(
    songs: Sequence[Song],
    embedded: Sequence[FrameSequence],
    folds: Folds,
    task: FrameTask,
    *,
    seed: int,
    device: str = "cpu",
) -> FrameScore:
    """Labels each tested song from the training songs of its fold, and scores all of them.

    One fold entry per song. The seed draws the few songs that teach, the inner folds and the resamples: models are
    compared under the same seed, folds and task.

    Raises:
      UsageError: embeddings that are not finite, no annotation, songs named twice, a fold with fewer training songs
        than asked for.
    """
    names = _check(songs, embedded, folds)
    counts: dict[int, SongCounts] = {}
    choices, notes = [], []
    unsupervised = _Unsupervised(songs, embedded, folds, names, task, seed, device) if not task.n_train_songs else None
    for fold, train, test in folds:
        chosen = _draw(train, task.n_train_songs, fold, seed)
        labelled = label_songs(songs, embedded, names, chosen, test.tolist(), task.probe, seed=seed, device=device)
        choices.append(FoldChoice(fold, tuple(songs[s].name for s in chosen), labelled.strength, labelled.smoothing))
        if not labelled.converged:
            notes.append(f"fold {fold}: the solver stopped before its tolerance at C = {labelled.strength:g}")
        if untaught := sorted(_labels(songs, test.tolist()) - _labels(songs, chosen)):
            notes.append(f"fold {fold}: {len(untaught)} class(es) are in no training song ({', '.join(untaught)})")
        for song, classes in zip(test.tolist(), labelled.classes, strict=True):
            counts[song] = _count(songs[song], embedded[song], classes, names, song, unsupervised)
    tested = sorted(counts)
    rows = [counts[song] for song in tested]
    fields = [field.name for field in dataclasses.fields(SongCounts)]
    stacked = SongCounts(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in fields})
    of_songs = tuple(songs[song].name for song in tested)
    return _score(stacked, names, of_songs, tuple(choices), tuple(notes), task, seed)


def pool_seeds(scores: Sequence[FrameScore]) -> FrameScore:
    """One score of several seeds on the same songs: the seeds' counts together, the interval over songs.

    Raises:
      ValueError: if the scores are not of the same songs, classes and number of training songs.
    """
    first = scores[0]
    total = first.song_counts
    for score in scores[1:]:
        _require_same(score, first)
        if score.task.n_train_songs != first.task.n_train_songs:
            raise ValueError("scores of different numbers of training songs cannot be pooled")
        total = total + score.song_counts
    notes = tuple(dict.fromkeys(note for score in scores for note in score.notes))
    choices = tuple(choice for score in scores for choice in score.choices)
    return _score(total, first.classes, first.songs, choices, notes, first.task, first.seed)


def compare_frames(score: FrameScore, floor: FrameScore) -> dict[str, Estimate]:
    """Paired differences of all metrics that both have, score minus floor, on the same resampled songs.

    Raises:
      ValueError: if the two were not tested on the same songs.
    """
    _require_same(score, floor)
    ours, theirs = (_resampled(each.song_counts, each.songs, score.task, score.seed) for each in (score, floor))
    return {name: (ours[name] - theirs[name]).estimate(score.task.confidence) for name in ours if name in theirs}


def _resampled(counts: SongCounts, songs: Sequence[str], task: FrameTask, seed: int) -> dict[str, Resampled]:
    """All metrics that there are counts for, on the same resamples of songs."""
    asked = {name: metric for name, metric in METRICS.items() if counts.clusters.shape[2] or name not in UNSUPERVISED}

    def statistic(draws: Draws) -> Float[np.ndarray, "b m"]:
        weights = draws.counts[:, draws.group]
        return np.stack([metric(counts, weights) for metric in asked.values()], axis=-1)

    found = resample(statistic, songs, n_resamples=task.n_resamples, seed=seed)
    return {name: found[number] for number, name in enumerate(asked)}


class _Unsupervised:
    """Clusters of all frames and purity of all syllables of the songs in the folds, learnt without labels."""

    def __init__(
        self,
        songs: Sequence[Song],
        embedded: Sequence[FrameSequence],
        folds: Folds,
        names: Sequence[str],
        task: FrameTask,
        seed: int,
        device: str,
    ) -> None:
        used = np.flatnonzero(folds.fold >= 0).tolist()
        pca = project(embedded, used, task.probe, device)
        rows = {s: pca(torch.as_tensor(embedded[s].embeddings, dtype=torch.float32, device=device)) for s in used}
        step = max(1, math.ceil(sum(map(len, rows.values())) / task.probe.most_frames))
        sample = torch.cat([rows[s] for s in used])[::step]
        self.n_clusters = min(len(names), len(sample))
        centres = clusters.kmeans(sample, self.n_clusters, seed=seed)
        self.cluster = {s: clusters.assign(rows[s], centres).cpu().numpy() for s in used}
        segments = {s: frames.annotated(songs[s], names) for s in used}
        # One frame stands for each occurrence of a syllable: that which its centre lies in.
        places = {s: _frame_of_centre(songs[s], embedded[s], segments[s]) for s in used}
        purity = clusters.neighbour_purity(
            np.concatenate([rows[s].cpu().numpy()[places[s]] for s in used]),
            np.concatenate([segments[s].classes for s in used]),
            np.repeat(np.arange(len(used)), [len(segments[s]) for s in used]),
            task.n_neighbours,
        )
        parts = np.split(purity, np.cumsum([len(segments[s]) for s in used])[:-1])
        self.purity = dict(zip(used, parts, strict=True))


def _frame_of_centre(song: Song, sequence: FrameSequence, segments: Segments) -> Int[np.ndarray, " k"]:
    inner_edges = sequence.edges_s(song.duration_s)[1:-1]
    return np.searchsorted(inner_edges, (segments.onset_s + segments.offset_s) / 2, side="right")


def _count(
    song: Song,
    sequence: FrameSequence,
    classes: Int[np.ndarray, " t"],
    names: Sequence[str],
    number: int,
    unsupervised: _Unsupervised | None,
) -> SongCounts:
    n_classes = len(names)
    member, truth = sequence.at_ms(song.duration_s), frames.classes_per_ms(song, names)
    member, truth = member[truth != frames.UNSCORED], truth[truth != frames.UNSCORED]
    said = classes[member]
    segments = frames.annotated(song, names)
    found = frames.scored(sequences.segments_of(classes, sequence.edges_s(song.duration_s)), song)
    table, purity = np.zeros((n_classes, 0), dtype=np.int64), np.zeros(0)
    if unsupervised is not None:
        table = np.zeros((n_classes, unsupervised.n_clusters), dtype=np.int64)
        np.add.at(table, (truth, unsupervised.cluster[number][member]), 1)
        purity = unsupervised.purity[number]
    return SongCounts(
        ms=np.bincount(truth, minlength=n_classes)[None],
        wrong_ms=np.bincount(truth[said != truth], minlength=n_classes)[None],
        parsing_ms=np.array([((said == frames.SILENCE) != (truth == frames.SILENCE)).sum()]),
        oracle_ms=np.array([frames.oracle_errors(song, sequence, names)]),
        true_segments=np.bincount(segments.classes, minlength=n_classes)[None],
        predicted_segments=np.bincount(found.classes, minlength=n_classes)[None],
        found=np.stack([sequences.count_found(segments, found, ms / 1000, n_classes) for ms in TOLERANCES_MS])[None],
        edits=np.array([sequences.edit_distance(segments.classes, found.classes)]),
        clusters=table[None],
        purity=np.array([np.nansum(purity)]),
        n_queries=np.array([(~np.isnan(purity)).sum()]),
    )


def _score(
    counts: SongCounts,
    names: tuple[str, ...],
    songs: tuple[str, ...],
    choices: tuple[FoldChoice, ...],
    notes: tuple[str, ...],
    task: FrameTask,
    seed: int,
) -> FrameScore:
    found = _resampled(counts, songs, task, seed)
    lone = ("one tested song: there is no interval",) if len(songs) == 1 else ()
    return FrameScore(
        metrics={name: each.estimate(task.confidence) for name, each in found.items()},
        per_class={name: of_class(counts, label) for label, name in enumerate(names)},
        counts={
            "n_songs": len(songs),
            "n_classes": len(names) - 1,
            "n_segments": int(counts.true_segments.sum()),
            "n_ms": int(counts.ms.sum()),
        },
        notes=(*dict.fromkeys((*notes, *lone)),),
        choices=choices,
        classes=names,
        songs=songs,
        song_counts=counts,
        task=task,
        seed=seed,
    )


def _draw(train: Int[np.ndarray, " n"], n_songs: int, fold: str, seed: int) -> list[int]:
    """Some of the training songs. The draws of larger numbers contain those of smaller ones."""
    if n_songs > len(train):
        raise UsageError(f"fold {fold} has {len(train)} training songs, {n_songs} were asked for")
    order = random.generator(seed, "training songs", fold).permutation(len(train))
    return sorted(train[order[: n_songs or len(train)]].tolist())


def _labels(songs: Sequence[Song], numbers: Sequence[int]) -> set[str]:
    return {label.label for number in numbers for label in songs[number].labels}


def _check(songs: Sequence[Song], embedded: Sequence[FrameSequence], folds: Folds) -> tuple[str, ...]:
    """The classes of these songs."""
    if not len(songs) == len(embedded) == len(folds.fold):
        found = f"{len(songs)}, {len(embedded)} and {len(folds.fold)}"
        raise ValueError(f"need one sequence of frames and one fold for each song, got {found}")
    if len({song.name for song in songs}) < len(songs):
        raise UsageError("two songs have one name: the bootstrap would take them for one recording")
    for song, sequence in zip(songs, embedded, strict=True):
        if not np.isfinite(sequence.embeddings).all():
            raise UsageError(f"{song.name}: embeddings that are not finite; embed it again or drop it")
    names = frames.class_names([song for song, fold in zip(songs, folds.fold, strict=True) if fold >= 0])
    if len(names) < 2:
        raise UsageError("no song has an annotation: there is nothing to learn")
    return names


def _require_same(score: FrameScore, other: FrameScore) -> None:
    if score.songs != other.songs or score.classes != other.classes:
        raise ValueError("scores can only be put together on the same songs and classes")
