"""Classifiers without training: cosine to the centroid of each class, and votes of the nearest neighbours. float32.

Axes: n examples of the training part | m test rows | e pooled embedding | c classes | k neighbours
"""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int

from birdjepa.benchmark.classifiers.base import Classifier, Outcome, Problem
from birdjepa.benchmark.classifiers.reading import Reader, Scaling, fit_scaler
from birdjepa.benchmark.knn import Neighbours, nearest, unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentroidConfig(Classifier):
    """The cosine between an example and the mean of a class's L2-normalised embeddings, over the temperature.

    Source: BIRB and ProtoCLR; with scaling="standardise" akin to SimpleShot (Wang et al. 2019).
    """

    scaling: Scaling = "standardise"
    temperature: float = 0.1
    """Changes no ranking and no prediction, only how far scores lie apart."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    @property
    def needs_tokens(self) -> bool:
        return False

    def solve(self, problem: Problem) -> Outcome:
        train, test = _scaled(problem, self.scaling)
        truth = torch.from_numpy((problem.truth[problem.rows.train] > 0).astype(np.float32))
        means = truth.T @ unit(torch.from_numpy(train)) / truth.sum(0).clamp_min(1)[:, None]
        cosine = unit(torch.from_numpy(test)) @ unit(means).T
        return Outcome((cosine / self.temperature).numpy(), {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnConfig(Classifier):
    """Share of a class among the k nearest training examples, which count by exp(cosine / temperature).

    Source: Wu et al. 2018, "instance discrimination", and DINO's protocol, for any number of labels.
    """

    scaling: Scaling = "standardise"
    k: int = 20
    """Neighbours; all training examples where there are fewer."""
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.k < 1 or not self.temperature > 0:
            raise ValueError(f"need k >= 1 and temperature > 0, got {self.k} and {self.temperature}")

    @property
    def needs_tokens(self) -> bool:
        return False

    def solve(self, problem: Problem) -> Outcome:
        train, test = _scaled(problem, self.scaling)
        found = nearest(test, train, min(self.k, len(train)), device=problem.device)
        return Outcome(votes(found, problem.truth[problem.rows.train], self.temperature), {})


def votes(found: Neighbours, truth: Int[np.ndarray, "n c"], temperature: float) -> Float[np.ndarray, "m c"]:
    """Each class's share of the neighbours' weight."""
    closeness = (found.similarity - found.similarity.max(axis=1, keepdims=True)) / temperature
    weight = np.exp(closeness)
    weight /= weight.sum(axis=1, keepdims=True)
    shares = np.zeros((len(weight), truth.shape[1]), dtype=np.float32)
    for neighbour in range(weight.shape[1]):
        shares += weight[:, neighbour, None] * (truth[found.index[:, neighbour]] > 0)
    return shares


def _scaled(problem: Problem, scaling: Scaling) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "m e"]]:
    features, (train, _, test), device = problem.features, problem.rows, problem.device
    scaler = fit_scaler(scaling, features, train, tokens=False, device=device)
    readers = (Reader(features, rows, tokens=False, scale=scaler, device=device) for rows in (train, test))
    bank, queries = (reader.batch(np.arange(len(reader))).x.cpu().numpy() for reader in readers)
    return bank, queries
