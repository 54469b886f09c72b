"""Retrieval by a few examples: k exemplars of a species rank a corpus of windows ("BIRB-style").

The query of a species is the mean of its L2-normalised exemplars, the score of a window its cosine with the query, in
float32 (bfloat16 collapses narrow cones of embeddings). A species with fewer than k exemplars has no query, and one
without a window to find, or without another, has no value: such species enter no mean and are not counted.

This is not BIRB: its data and its learnt class vectors are others, and how its tables average is not settled.

Axes: m exemplars | n windows of the corpus | d width of the embedding | c species | s seeds
Source: the protocol is BIRB's, arXiv 2312.07439.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from birdjepa.benchmark.bootstrap import whole
from birdjepa.benchmark.knn import unit
from birdjepa.benchmark.ranking import class_values
from birdjepa.core import random


class Exemplars(NamedTuple):
    """Embeddings to draw queries from: examples of one species each."""

    embeddings: Float[np.ndarray, "m d"]
    species: Int[np.ndarray, " m"]
    """Column of each one's species in the truth of the corpus."""
    rows: Int[np.ndarray, " m"]
    """The window of the corpus that each one is, -1 where it is none: a query does not search for its own exemplars."""


@dataclasses.dataclass(frozen=True, eq=False)
class Retrieval:
    """Each species under each seed; NaN where it was skipped."""

    k: int
    seeds: tuple[int, ...]
    auroc: Float[np.ndarray, "s c"]
    ap: Float[np.ndarray, "s c"]

    @property
    def n_species_scored(self) -> tuple[int, ...]:
        """Species with a ROC-AUC, for each seed."""
        return tuple((~np.isnan(self.auroc)).sum(axis=1).tolist())

    def metrics(self) -> dict[str, tuple[float, ...]]:
        """Means over the species, one number per seed: auroc, its geometric mean (0 if one species has 0), and map."""
        return {
            "auroc": tuple(_mean(row) for row in self.auroc),
            "auroc_geometric": tuple(_geometric_mean(row) for row in self.auroc),
            "map": tuple(_mean(row) for row in self.ap),
        }


def retrieve(
    exemplars: Exemplars,
    corpus: Float[np.ndarray, "n d"],
    truth: Int[np.ndarray, "n c"],
    *,
    k: int,
    seeds: Sequence[int],
    searched: Bool[np.ndarray, "n c"] | None = None,
    device: str = "cpu",
) -> Retrieval:
    """ROC-AUC and AP of each species' search, with other exemplars drawn for each seed.

    `searched` says which windows take part in a species' search, all of them where it is None: BIRB leaves windows out
    in which the species is in the background only.

    Raises:
      ValueError: k < 1, no seed, a species or row out of range, embeddings not finite, truth that is not 0 or 1.
    """
    _check(exemplars, corpus, truth, k, seeds)
    n_species = truth.shape[1]
    auroc, ap = np.full((len(seeds), n_species), np.nan), np.full((len(seeds), n_species), np.nan)
    for number, seed in enumerate(seeds):
        chosen = draw_exemplars(exemplars.species, n_species, k=k, seed=seed)
        scores = search(exemplars, corpus, chosen, device=device)
        for species in np.flatnonzero(chosen[:, 0] >= 0).tolist():
            use = np.ones(len(corpus), dtype=bool) if searched is None else searched[:, species].copy()
            own = exemplars.rows[chosen[species]]
            use[own[own >= 0]] = False
            if use.any():
                column = slice(species, species + 1)
                values = next(class_values(truth[use, column], scores[use, column], whole(int(use.sum()))))
                if not math.isnan(values.auroc[0]):  # a search in which all windows are right ones shows nothing
                    auroc[number, species], ap[number, species] = values.auroc[0], values.ap[0]
    return Retrieval(k, tuple(seeds), auroc, ap)


def draw_exemplars(
    species: Int[np.ndarray, " m"], n_species: int, *, k: int, seed: int
) -> Int[np.ndarray, "{n_species} {k}"]:
    """k exemplars of each species without replacement, -1 for a species that has fewer.

    The first k of one order for each seed and species, so that those of a smaller k are among those of a larger one.
    """
    chosen = np.full((n_species, k), -1, dtype=np.int64)
    for column in range(n_species):
        own = np.flatnonzero(species == column)
        if len(own) >= k:
            chosen[column] = random.generator(seed, "exemplars", column).permutation(own)[:k]
    return chosen


def search(
    exemplars: Exemplars,
    corpus: Float[np.ndarray, "n d"],
    chosen: Int[np.ndarray, "c k"],
    *,
    device: str = "cpu",
) -> Float[np.ndarray, "n c"]:
    """Cosine of each window with the query of each species; 0 for a species without one."""
    units = unit(torch.tensor(exemplars.embeddings, device=device))
    queries = torch.zeros(len(chosen), corpus.shape[1], device=device)
    asked = np.flatnonzero((chosen >= 0).all(axis=1))
    queries[asked] = units[torch.from_numpy(chosen[asked]).to(device)].mean(dim=1)
    return (unit(torch.tensor(corpus, device=device)) @ unit(queries).T).cpu().numpy()


def _mean(values: Float[np.ndarray, " c"]) -> float:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else math.nan


def _geometric_mean(values: Float[np.ndarray, " c"]) -> float:
    scored = values[~np.isnan(values)]
    if not len(scored):
        return math.nan
    return float(np.exp(np.log(scored).mean())) if scored.all() else 0.0


def _check(
    exemplars: Exemplars,
    corpus: Float[np.ndarray, "n d"],
    truth: Int[np.ndarray, "n c"],
    k: int,
    seeds: Sequence[int],
) -> None:
    if k < 1 or not len(seeds):
        raise ValueError(f"need k >= 1 exemplars and a seed, got {k} and {len(seeds)} seeds")
    if len(exemplars.species) and not 0 <= exemplars.species.min() <= exemplars.species.max() < truth.shape[1]:
        raise ValueError(f"species must be columns of the truth, in [0, {truth.shape[1]})")
    if len(exemplars.rows) and not -1 <= exemplars.rows.min() <= exemplars.rows.max() < len(corpus):
        raise ValueError(f"rows must be windows of the corpus, in [0, {len(corpus)}), or -1")
    if not (np.isfinite(exemplars.embeddings).all() and np.isfinite(corpus).all()):
        raise ValueError("embeddings must be finite")
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError("truth must be 0 or 1")
