"""Monitors: is the embedding still spread out, of high rank, and are neighbours of one kind? With an alarm on collapse.

Axes: n embeddings in the bank | e embedding | b clips
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from birdjepa.nn.spread import effective_rank
from birdjepa.train.config import MonitorConfig


class EmbeddingBank:
    """The newest embeddings with labels and recordings, a ring of fixed size that is part of the training state."""

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        self.embedding = torch.zeros(size, width, device=device)
        self.label = torch.full((size,), -1, device=device)
        self.recording = torch.full((size,), -1, device=device)
        self.n_seen = 0

    def add(self, embedding: Float[Tensor, "b e"], label: Int[Tensor, " b"], recording: Int[Tensor, " b"]) -> None:
        size = len(self.embedding)
        slots = (self.n_seen + torch.arange(len(embedding), device=embedding.device))[-size:] % size
        self.embedding[slots] = embedding[-size:].float()
        self.label[slots], self.recording[slots] = label[-size:], recording[-size:]
        self.n_seen += len(embedding)

    def filled(self) -> Float[Tensor, "n e"]:
        return self.embedding[: min(self.n_seen, len(self.embedding))]

    def state_dict(self) -> dict[str, Tensor]:
        return {"embedding": self.embedding, "label": self.label, "recording": self.recording}


def look(bank: EmbeddingBank, config: MonitorConfig) -> dict[str, float]:
    """Spread, rank and neighbourhood of the bank; empty while it holds fewer than eight embeddings."""
    embedding = bank.filled()
    if len(embedding) < 8:
        return {}
    seen = {
        "embedding_std": float(embedding.std(0).mean()),
        "effective_rank": effective_rank(embedding),
    }
    label, recording = bank.label[: len(embedding)], bank.recording[: len(embedding)]
    accuracy = knn_accuracy(embedding, label, recording, config.neighbours)
    return seen if accuracy is None else {**seen, "knn_accuracy": accuracy}


def alarm(seen: dict[str, float], n_embeddings: int, width: int, config: MonitorConfig) -> str | None:
    """One line on a collapse, or None."""
    if not seen:
        return None
    best = min(n_embeddings - 1, width)
    if seen["embedding_std"] < config.least_std:
        return f"collapse: embeddings hardly differ (mean std {seen['embedding_std']:.2g} < {config.least_std:g})"
    if seen["effective_rank"] < config.least_rank * best:
        rank = seen["effective_rank"]
        return f"collapse: effective rank {rank:.1f} of at most {best} (alarm below {config.least_rank:.0%})"
    return None


def knn_accuracy(
    embedding: Float[Tensor, "n e"], label: Int[Tensor, " n"], recording: Int[Tensor, " n"], k: int
) -> float | None:
    """Share of labelled embeddings whose k nearest of other recordings, by cosine on centred embeddings, vote for their
    label; None with fewer than two labels, or too few embeddings.

    Ties go to the label of the smallest number.
    """
    known = label >= 0
    embedding, label, recording = embedding[known], label[known], recording[known]
    if label.unique().numel() < 2 or len(label) <= k:
        return None
    unit = F.normalize(embedding - embedding.mean(0), dim=1)
    similarity = (unit @ unit.T).masked_fill(recording[:, None] == recording[None, :], -torch.inf)
    best, nearest = similarity.topk(k, dim=1)
    there = torch.isfinite(best)
    votes = (F.one_hot(label[nearest], int(label.max()) + 1) * there.unsqueeze(-1)).sum(1)
    asked = there.any(1)
    return float((votes.argmax(1) == label)[asked].float().mean()) if bool(asked.any()) else None
