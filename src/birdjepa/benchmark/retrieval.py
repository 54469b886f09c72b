"""Retrieval by a few examples: k exemplars of a species rank a corpus of windows ("BIRB-style").

The query of a species is the mean of its L2-normalised exemplars, the score of a window its cosine with the query, in
float32 (bfloat16 collapses narrow cones of embeddings). A species with fewer than k exemplars has no query; such
species enter no mean and are not counted. Exemplars come from other recordings than the corpus.

This is not BIRB: its data and its learnt class vectors are others, and how its tables average is not settled.

Axes: m exemplars | n windows of the corpus | d width of the embedding | c species
Source: the protocol is BIRB's, arXiv 2312.07439.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from birdjepa.benchmark.knn import unit
from birdjepa.core import random


class Exemplars(NamedTuple):
    """Embeddings to draw queries from: examples of one species each."""

    embeddings: Float[np.ndarray, "m d"]
    species: Int[np.ndarray, " m"]
    """Column of each one's species in the truth of the corpus."""


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


def geometric_mean(values: Float[np.ndarray, " c"]) -> float:
    """Over the species that are not NaN; 0 if one of them is 0, NaN if there is none."""
    scored = values[~np.isnan(values)]
    if not len(scored):
        return math.nan
    return float(np.exp(np.log(scored).mean())) if scored.all() else 0.0
