"""Nearest neighbours by cosine: exact, in bounded memory, in float32 (bfloat16 collapses narrow cones of embeddings).

Axes: q queries | n examples of the bank | d width of the embedding | k neighbours
"""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.benchmark.standardise import fit_standardiser

CHUNK = 2**24
"""Similarities held at a time (64 MiB)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnProbe:
    """Majority vote of the k nearest training examples; equal votes go to the class of larger summed similarity."""

    k: int = 5
    standardise: bool = True
    """Standardise each dimension first (training part only): without it one large dimension decides every cosine."""
    exclude_same_group: bool = False
    """Neighbours from the query's own group do not vote; matters where the user's folds share groups."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1 neighbour, got {self.k}")


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbours:
    """Rows of the bank and their cosines, nearest first; index -1 and similarity -inf where too few were allowed."""

    index: Int[np.ndarray, "q k"]
    similarity: Float[np.ndarray, "q k"]


def nearest(
    queries: Float[np.ndarray, "q d"],
    bank: Float[np.ndarray, "n d"],
    k: int,
    *,
    query_groups: Int[np.ndarray, " q"] | None = None,
    bank_groups: Int[np.ndarray, " n"] | None = None,
    device: str = "cpu",
) -> Neighbours:
    """The k nearest rows of the bank for each query, by cosine in float32; a zero vector has similarity 0 to all.

    With groups for both, rows of the query's own group are passed over, the query itself included.

    Raises:
      ValueError: if k < 1, or only one of the groups is given.
    """
    if k < 1 or (query_groups is None) != (bank_groups is None):
        raise ValueError(f"need k >= 1 (got {k}), and groups for both queries and bank or for neither")
    units = unit(torch.tensor(bank, device=device)).T
    n_found = min(k, len(bank))
    index = np.full((len(queries), k), -1, dtype=np.int64)
    similarity = np.full((len(queries), k), -np.inf, dtype=np.float32)
    step = max(1, CHUNK // max(1, len(bank)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        cosines = unit(torch.tensor(queries[rows], device=device)) @ units
        if query_groups is not None and bank_groups is not None:
            same = torch.as_tensor(query_groups[rows, None] == bank_groups[None], device=device)
            cosines.masked_fill_(same, -torch.inf)
        values, found = cosines.topk(n_found, dim=1)
        similarity[rows, :n_found] = values.cpu().numpy()
        index[rows, :n_found] = torch.where(values.isinf(), -1, found).cpu().numpy()
    return Neighbours(index, similarity)


def predict(
    embeddings: Float[np.ndarray, "n d"],
    classes: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
    probe: KnnProbe,
    *,
    device: str = "cpu",
) -> Int[np.ndarray, " test"]:
    """The class of each test row from the training rows; the commonest one where no neighbour is allowed."""
    bank, queries = embeddings[train], embeddings[test]
    if probe.standardise:
        standardiser = fit_standardiser(torch.as_tensor(bank, dtype=torch.float64))
        bank = standardiser(torch.as_tensor(bank, dtype=torch.float64)).numpy()
        queries = standardiser(torch.as_tensor(queries, dtype=torch.float64)).numpy()
    query_groups, bank_groups = (groups[test], groups[train]) if probe.exclude_same_group else (None, None)
    found = nearest(queries, bank, probe.k, query_groups=query_groups, bank_groups=bank_groups, device=device)
    return vote(found, classes[train])


def vote(found: Neighbours, bank_classes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " q"]:
    """The majority class of each query's neighbours.

    Source: equals sklearn.neighbors.KNeighborsClassifier(metric="cosine") where no two classes have equally many votes.
    """
    counts = np.bincount(bank_classes).astype(np.float64)
    votes = np.zeros((len(found.index), len(counts)))
    closeness = np.zeros_like(votes)
    query, neighbour = np.nonzero(found.index >= 0)
    voted = bank_classes[found.index[query, neighbour]]
    np.add.at(votes, (query, voted), 1.0)
    np.add.at(closeness, (query, voted), found.similarity[query, neighbour])
    # Cosines are at least -1, so a class without votes cannot win a tie: it has no tie to win while another has votes.
    winner = np.where(votes == votes.max(axis=1, keepdims=True), closeness, -np.inf).argmax(axis=1)
    return np.where(votes.any(axis=1), winner, counts.argmax())


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length 1 in float32; lengths are taken in float64, where squares of large values do not overflow."""
    rows = rows.double()
    return (rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)).float()
