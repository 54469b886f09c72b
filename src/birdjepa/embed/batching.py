"""Clips of many recordings in batches of one length, and their embeddings gathered per slot.

A slot is what becomes one row of a table: a clip, a segment, a recording. A slot of several pieces gets their mean,
weighted by the time that each stands for. What is batched together, and in which order, depends on the pieces alone.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.embed.embedders import Embedder
from birdjepa.embed.reading import Piece

_WAITING = 4
"""Batches' worth of clips that may wait for others of their length."""


@dataclasses.dataclass
class _Slot:
    seconds: float
    sums: list[Float[np.ndarray, " _"]]
    """One per embedder."""


class Batcher:
    """Collects pieces and runs the embedders on full batches; `before_batch` is called before each."""

    def __init__(self, embedders: Sequence[Embedder], batch_size: int, before_batch: Callable[[], None]) -> None:
        self._embedders, self._batch_size, self._before_batch = embedders, batch_size, before_batch
        self._waiting: dict[int, list[tuple[int, Piece]]] = {}
        self._slots: dict[int, _Slot] = {}

    def add(self, slot: int, piece: Piece) -> None:
        """Takes one piece; runs a batch when there is one."""
        group = self._waiting.setdefault(len(piece.samples), [])
        group.append((slot, piece))
        if len(group) == self._batch_size:
            self._run(len(piece.samples))
        elif sum(map(len, self._waiting.values())) >= _WAITING * self._batch_size:
            self._run(max(self._waiting, key=lambda length: len(self._waiting[length])))

    def flush(self) -> None:
        """Runs what is waiting."""
        while self._waiting:
            self._run(next(iter(self._waiting)))

    def take(self, slot: int) -> list[Float[np.ndarray, " _"]]:
        """The slot's embedding by each embedder, float32; the slot is forgotten. Flush first."""
        taken = self._slots.pop(slot)
        return [(total / taken.seconds).astype(np.float32) for total in taken.sums]

    def drop(self, slot: int) -> None:
        """Forgets a slot and what waits for it."""
        self._slots.pop(slot, None)
        kept = {length: [entry for entry in group if entry[0] != slot] for length, group in self._waiting.items()}
        self._waiting = {length: group for length, group in kept.items() if group}

    def _run(self, length: int) -> None:
        self._before_batch()
        batch = self._waiting.pop(length)
        clips = torch.from_numpy(np.stack([piece.samples for _, piece in batch]))
        inside_s = np.array([piece.inside_s for _, piece in batch])
        with torch.inference_mode():
            tables = [
                embedder.embed(clips.to(embedder.device), inside_s).float().cpu().numpy().astype(np.float64)
                for embedder in self._embedders
            ]
        for index, (slot, piece) in enumerate(batch):
            seconds = piece.end_s - piece.start_s
            parts = [table[index] * seconds for table in tables]
            held = self._slots.get(slot)
            if held is None:
                self._slots[slot] = _Slot(seconds, parts)
            else:
                held.seconds += seconds
                held.sums = [total + part for total, part in zip(held.sums, parts, strict=True)]
