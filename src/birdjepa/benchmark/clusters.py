"""What embeddings say without labels: k-means, and how well its clusters, or an embedding's neighbours, are classes.

The two agreements take a table of counts, row = class and column = cluster, with any leading axes: they are evaluated
on all bootstrap resamples at once.

Axes: b resamples | n examples | q coordinates | c classes | k clusters
"""

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from numpy.typing import ArrayLike
from torch import Tensor

from birdjepa.benchmark.knn import nearest
from birdjepa.core import random


def kmeans(
    rows: Float[Tensor, "n q"],
    n_clusters: int,
    *,
    seed: int,
    n_starts: int = 4,
    max_steps: int = 100,
) -> Float[Tensor, "k q"]:
    """Centres of Lloyd's algorithm, of the start that ends with the least squared distance.

    Starts are drawn as in k-means++; a cluster that loses all its rows takes the row that is farthest from its centre.

    Raises:
      ValueError: if there are fewer rows than clusters, or n_clusters < 1.
    """
    if not 1 <= n_clusters <= len(rows):
        raise ValueError(f"need 1 to {len(rows)} clusters, one row or more in each, got {n_clusters}")
    best, least = rows[:n_clusters], torch.inf
    for start in range(n_starts):
        centres = _spread(rows, n_clusters, random.generator(seed, "kmeans", start))
        for _ in range(max_steps):
            distance, nearest_centre = _distances(rows, centres).min(dim=1)
            moved = _means(rows, nearest_centre, distance, n_clusters)
            if torch.equal(moved, centres):
                break
            centres = moved
        total = float(_distances(rows, centres).min(dim=1).values.sum())
        if total < least:
            best, least = centres, total
    return best


def assign(rows: Float[Tensor, "n q"], centres: Float[Tensor, "k q"]) -> Int[Tensor, " n"]:
    """The nearest centre of each row."""
    return _distances(rows, centres).argmin(dim=1)


def v_measure(table: Real[np.ndarray, "*b c k"]) -> Float[np.ndarray, "*b"]:
    """Harmonic mean of homogeneity (a cluster holds one class) and completeness (a class lies in one cluster).

    Source: equals sklearn.metrics.v_measure_score.
    """
    total = table.sum(axis=(-2, -1))[..., None, None]
    joint = table / total
    classes, clusters = joint.sum(axis=-1), joint.sum(axis=-2)
    h_class, h_cluster, h_joint = _entropy(classes), _entropy(clusters), _entropy(joint.reshape(*joint.shape[:-2], -1))
    shared = h_class + h_cluster - h_joint
    # A single class is homogeneous in whatever clusters; a single cluster is complete.
    homogeneity = np.where(h_class > 0, shared / np.where(h_class > 0, h_class, 1.0), 1.0)
    completeness = np.where(h_cluster > 0, shared / np.where(h_cluster > 0, h_cluster, 1.0), 1.0)
    both = homogeneity + completeness
    return np.asarray(np.where(both > 0, 2 * homogeneity * completeness / np.where(both > 0, both, 1.0), 0.0))


def adjusted_rand_index(table: Real[np.ndarray, "*b c k"]) -> Float[np.ndarray, "*b"]:
    """Share of pairs on which classes and clusters agree, so shifted and scaled that chance is 0 and equality 1.

    Source: equals sklearn.metrics.adjusted_rand_score.
    """
    table = np.asarray(table, dtype=np.float64)
    together = _pairs(table).sum(axis=(-2, -1))
    in_class = _pairs(table.sum(axis=-1)).sum(axis=-1)
    in_cluster = _pairs(table.sum(axis=-2)).sum(axis=-1)
    all_pairs = _pairs(table.sum(axis=(-2, -1)))
    expected = in_class * in_cluster / np.where(all_pairs > 0, all_pairs, 1.0)
    most = (in_class + in_cluster) / 2
    trivial = most == expected  # one class and one cluster, or every example alone in both
    return np.asarray(np.where(trivial, 1.0, (together - expected) / np.where(trivial, 1.0, most - expected)))


def neighbour_purity(
    embeddings: Float[np.ndarray, "n q"], classes: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], k: int
) -> Float[np.ndarray, " n"]:
    """Share of each example's k nearest from other groups that have its class, by cosine in float32.

    Where a class has fewer than k examples in other groups, only so many neighbours are looked at, so that 1 can be
    reached; NaN where it has none.
    """
    found = nearest(embeddings, embeddings, min(k, len(embeddings)), query_groups=groups, bank_groups=groups)
    content = np.zeros((groups.max() + 1, classes.max() + 1))
    np.add.at(content, (groups, classes), 1.0)
    elsewhere = content.sum(axis=0)[classes] - content[groups, classes]
    looked_at = np.minimum(found.index.shape[1], elsewhere)
    same = (classes[found.index] == classes[:, None]) & (np.arange(found.index.shape[1]) < looked_at[:, None])
    return np.where(looked_at > 0, (same & (found.index >= 0)).sum(axis=1) / np.maximum(looked_at, 1.0), np.nan)


def _spread(rows: Float[Tensor, "n q"], n_clusters: int, generator: np.random.Generator) -> Float[Tensor, "k q"]:
    """Rows drawn one after another, each in proportion to its squared distance from those drawn before."""
    chosen = [int(generator.integers(len(rows)))]
    distance = _distances(rows, rows[chosen]).squeeze(1)
    while len(chosen) < n_clusters:
        total = distance.double().cumsum(0)
        drawn = float(generator.random()) * float(total[-1])
        chosen.append(min(int(torch.searchsorted(total, drawn)), len(rows) - 1))
        distance = torch.minimum(distance, _distances(rows, rows[chosen[-1:]]).squeeze(1))
    return rows[chosen]


def _distances(rows: Float[Tensor, "n q"], centres: Float[Tensor, "k q"]) -> Float[Tensor, "n k"]:
    """Squared, by the product: rounding may leave small negatives, which are cut."""
    squares = rows.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return (squares - 2 * rows @ centres.T).clamp_min(0)


def _means(
    rows: Float[Tensor, "n q"], cluster: Int[Tensor, " n"], distance: Float[Tensor, " n"], n_clusters: int
) -> Float[Tensor, "k q"]:
    sums = rows.new_zeros(n_clusters, rows.shape[1]).index_add_(0, cluster, rows)
    counts = torch.bincount(cluster, minlength=n_clusters)
    means = sums / counts.clamp_min(1).unsqueeze(1).to(rows.dtype)
    empty = torch.nonzero(counts == 0).flatten()
    means[empty] = rows[distance.topk(len(empty)).indices]
    return means


def _entropy(shares: Float[np.ndarray, "*b n"]) -> Float[np.ndarray, "*b"]:
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=-1))


def _pairs(counts: ArrayLike) -> np.ndarray:
    counts = np.asarray(counts)
    return np.asarray(counts * (counts - 1) / 2)
