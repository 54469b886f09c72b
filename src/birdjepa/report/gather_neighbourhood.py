"""Recordings into a map and into neighbours: one stretch per row, embedded, standardised, projected, compared.

What is embedded is what can be heard: a row's labelled segment or recording, of a longer one the clip in its middle.

Axes: n points | d embedding
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from birdjepa.audio import decode
from birdjepa.audio.logmel import LogMel
from birdjepa.benchmark.bootstrap import interval
from birdjepa.benchmark.knn import nearest
from birdjepa.benchmark.standardise import fit_standardiser
from birdjepa.core import random
from birdjepa.core.failures import Failure
from birdjepa.data.lengths import durations
from birdjepa.data.manifest import Manifest
from birdjepa.embed.embedders import Pooled
from birdjepa.embed.rows import embed_rows
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.report.contents import Absent, Agreement, EmbeddingMap, HeardClip, Hit, Query, ReportConfig
from birdjepa.report.gather_clips import hear


class Neighbourhood(NamedTuple):
    map: EmbeddingMap | Absent
    queries: tuple[Query, ...] | Absent
    heard: tuple[HeardClip, ...]
    failures: list[Failure]
    """Rows that could not be embedded."""


class _Point(NamedTuple):
    """A row that was embedded."""

    source: Manifest
    row: int
    label: str
    group: str


def look_around(
    sources: Sequence[Manifest],
    encoder: SoundEncoder,
    config: ReportConfig,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Neighbourhood:
    """Embeds up to n_points rows of all sources together, of those on this machine, and finds who is near whom."""
    sources = [source.here() for source in sources]
    pooling = encoder.config.pooling if encoder.config.pooling != "cls" else "mean"
    embedder = Pooled(encoder, pooling)
    points: list[_Point] = []
    tables: list[np.ndarray] = []
    failures: list[Failure] = []
    n_rows = sum(map(len, sources))
    for number, rows in enumerate(_draw([len(source) for source in sources], config.n_points, seed)):
        if not len(rows):
            continue
        source = narrow(sources[number].select(rows), encoder.config.clips.clip_s)
        embedded = embed_rows([embedder], source, progress=progress)
        refused = embedded.refused
        failures += [Failure(str(source.path(row)), "report", each.offset_s, each.reason) for row, each in refused]
        if len(embedded.rows):
            tables.append(embedded.tables[0])
        for row in embedded.rows.tolist():
            group = f"{number}\0{source.columns['group'][row]}"
            points.append(_Point(source, row, source.columns["label"][row], group))
    if len(points) < 3:
        why = Absent(f"only {len(points)} of {n_rows} rows could be embedded; a map needs at least 3")
        return Neighbourhood(why, why, (), failures)
    table = torch.from_numpy(np.concatenate(tables)).double()
    standard = fit_standardiser(table)(table).numpy()
    queries, heard_points = _neighbours(standard, points, config, seed)
    place = {point: i for i, point in enumerate(heard_points)}
    xy, explained = project(standard)
    made = EmbeddingMap(
        xy=xy,
        explained=explained,
        labels=tuple(point.label for point in points),
        recordings=tuple(point.source.keys[point.row] for point in points),
        heard=tuple(place.get(i) for i in range(len(points))),
        n_rows=n_rows,
        n_refused=len(failures),
        pooling=pooling
        if pooling == encoder.config.pooling
        else f"{pooling}, for a CLS token cannot be confined to a stretch",
        agreement=_agreement(standard, points, seed),
    )
    front_end = encoder.config.log_mel.build()
    heard = tuple(_hear(points[i], encoder, front_end) for i in heard_points)
    return Neighbourhood(made, queries, heard, failures)


def narrow(source: Manifest, clip_s: float) -> Manifest:
    """The same rows, each at most one clip long: of a longer one the middle."""
    lengths = np.array(durations(source))
    whole = np.isnan(source.offset_s)
    end_s = np.where(whole, np.where(lengths > 0, lengths, np.inf), source.offset_s)
    long = np.isfinite(end_s) & (end_s - source.onset_s > clip_s)
    onset_s = np.where(long, (source.onset_s + end_s - clip_s) / 2, source.onset_s)
    return dataclasses.replace(source, onset_s=onset_s, offset_s=np.where(long, onset_s + clip_s, source.offset_s))


def project(standard: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n 2"], tuple[float, float]]:
    """The two principal components of standardised rows, and their shares of the variance.

    Each axis points to where its largest loading is positive, so the same embeddings give the same picture.
    """
    left, values, right = np.linalg.svd(standard, full_matrices=False)
    n_axes = min(2, len(values))
    signs = np.array([math.copysign(1.0, axis[np.abs(axis).argmax()]) for axis in right[:n_axes]])
    xy = np.zeros((len(standard), 2))
    xy[:, :n_axes] = left[:, :n_axes] * values[:n_axes] * signs
    share = np.zeros(2)
    share[:n_axes] = np.square(values[:n_axes]) / max(float(np.square(values).sum()), 1e-12)
    return xy, (float(share[0]), float(share[1]))


def _draw(sizes: list[int], n_points: int, seed: int) -> list[Int[np.ndarray, " _"]]:
    """Rows per source: all, or n_points of all rows together, drawn by the seed."""
    total = sum(sizes)
    chosen = random.generator(seed, "report", "points").permutation(total)[:n_points]
    first = np.cumsum([0, *sizes])
    return [
        np.sort(chosen[(chosen >= low) & (chosen < low + size)] - low) for low, size in zip(first, sizes, strict=False)
    ]


def _neighbours(
    standard: Float[np.ndarray, "n d"], points: list[_Point], config: ReportConfig, seed: int
) -> tuple[tuple[Query, ...] | Absent, list[int]]:
    """Queries with their hits, and the points that must be heard for them, in the order of the page."""
    groups = _numbered([point.group for point in points])
    if len(set(groups.tolist())) < 2:
        return Absent("all rows belong to one group, so that there are no neighbours from other recordings"), []
    chosen = _choose_queries(points, config.n_queries, seed)
    found = nearest(standard[chosen], standard, config.n_neighbours, query_groups=groups[chosen], bank_groups=groups)
    heard: list[int] = []
    queries = []
    for query, index, similarity in zip(chosen, found.index.tolist(), found.similarity.tolist(), strict=True):
        near = [(i, cosine) for i, cosine in zip(index, similarity, strict=True) if i >= 0]
        for i in (query, *(i for i, _ in near)):
            if i not in heard:
                heard.append(i)
        hits = tuple(Hit(heard.index(i), cosine, _same(points[query], points[i])) for i, cosine in near)
        queries.append(Query(heard.index(query), hits))
    return tuple(queries), heard


def _choose_queries(points: list[_Point], n_queries: int, seed: int) -> list[int]:
    """Points in a drawn order, one of each label first, of labels that other groups have too if there are any."""
    order = random.generator(seed, "report", "queries").permutation(len(points)).tolist()
    groups = collections.defaultdict(set)
    for point in points:
        groups[point.label].add(point.group)
    shared = {label for label, those in groups.items() if len(those) > 1} or set(groups)
    firsts = {points[i].label: i for i in reversed(order) if points[i].label in shared}
    ordered = [firsts[label] for label in sorted(firsts)]
    spread = [ordered[round(k)] for k in np.linspace(0, len(ordered) - 1, min(n_queries, len(ordered)))]
    return [*spread, *(i for i in order if i not in spread)][: min(n_queries, len(points))]


def _agreement(standard: Float[np.ndarray, "n d"], points: list[_Point], seed: int) -> Agreement | None:
    """How often the nearest neighbour of another group has the same label; None with fewer than two labels."""
    known = [i for i, point in enumerate(points) if point.label]
    if len({points[i].label for i in known}) < 2:
        return None
    labels = _numbered([points[i].label for i in known])
    groups = _numbered([points[i].group for i in known])
    others = _chance(labels, groups)
    judged = np.flatnonzero(others > 0)
    if not judged.size:
        return None
    found = nearest(standard[known], standard[known], 1, query_groups=groups, bank_groups=groups).index[judged, 0]
    right = (labels[judged] == labels[found]).astype(np.float64)
    drawn_by = [points[known[i]].group for i in judged.tolist()]
    rate = interval(lambda draws: draws.total(right) / draws.size, drawn_by, seed=seed)
    return Agreement(rate=rate, chance=float(others[judged].mean()), n=len(judged))


def _chance(labels: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Share of each row's label among the rows of other groups; 0 where there are none."""
    per_label, per_group = np.bincount(labels), np.bincount(groups)
    pairs = np.stack((groups, labels), axis=1)
    _, index, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    same = per_label[labels] - counts[index.reshape(-1)]
    return same / np.maximum(len(labels) - per_group[groups], 1)


def _hear(point: _Point, encoder: SoundEncoder, front_end: LogMel) -> HeardClip:
    source, row = point.source, point.row
    onset_s, offset_s = float(source.onset_s[row]), float(source.offset_s[row])
    duration_s = encoder.config.clips.clip_s if math.isnan(offset_s) else offset_s - onset_s
    samples = decode.read_clip(source.source(row), encoder.sampling_rate, offset_s=onset_s, duration_s=duration_s)
    return hear(samples, source, row, front_end, label=point.label, start_s=onset_s)


def _same(one: _Point, other: _Point) -> bool | None:
    return one.label == other.label if one.label and other.label else None


def _numbered(names: Sequence[str]) -> Int[np.ndarray, " n"]:
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]
