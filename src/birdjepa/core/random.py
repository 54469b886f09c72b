"""Named random streams: every use of chance is a pure function of (seed, names, counters).

There is no random state to carry or to save. `generator(seed, "mask", step)` gives the same numbers in any process, on
any worker, before or after a resume, and a new consumer changes nobody else's numbers.
"""

import hashlib
import struct

import numpy as np
import torch


def key(seed: int, *names: str | int) -> int:
    """128-bit key of a stream. Strings and integers never collide: each part is tagged and length-prefixed."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (seed, *names):
        data = part.encode() if isinstance(part, str) else int(part).to_bytes(16, "little", signed=True)
        digest.update(struct.pack("<cI", b"s" if isinstance(part, str) else b"i", len(data)) + data)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy generator (Philox, counter-based) of the stream; cheap enough to make one per example."""
    return np.random.Generator(np.random.Philox(key=key(seed, *names)))


def torch_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator of the stream, on the device that will draw from it.

    On the CPU torch's generator takes the low 32 bits of its seed only, so that two of some ten thousand streams may
    share their numbers. Streams are told apart by their purpose and step, so nothing that is compared ever does.
    """
    made = torch.Generator(device=device)
    made.manual_seed(key(seed, *names) & (2**63 - 1))
    return made


class Draws:
    """Random numbers for the clips of one process, cut out of those for the clips of all: what a clip gets does not
    depend on how many processes share the batch.

    Each draw says along which axis of its shape clips lie; with None it is drawn once and is equal on all processes.
    Where n_views is given, clips lie along that axis view by view, as "(v b)" flattens them.
    """

    def __init__(self, generator: torch.Generator, *, rank: int = 0, world: int = 1, n_views: int = 1) -> None:
        self._generator = generator
        self._rank, self._world, self._n_views = rank, world, n_views

    @property
    def device(self) -> torch.device:
        return self._generator.device

    def uniform(
        self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, *, clips: int | None
    ) -> torch.Tensor:
        """Numbers in [low, high)."""
        drawn = torch.rand(self._whole(shape, clips), generator=self._generator, device=self.device)
        return low + (high - low) * self._own(drawn, clips)

    def normal(self, shape: tuple[int, ...], *, clips: int | None) -> torch.Tensor:
        """Standard normal numbers."""
        drawn = torch.randn(self._whole(shape, clips), generator=self._generator, device=self.device)
        return self._own(drawn, clips)

    def _whole(self, shape: tuple[int, ...], clips: int | None) -> tuple[int, ...]:
        if clips is None:
            return shape
        return (*shape[:clips], shape[clips] * self._world, *shape[clips + 1 :])

    def _own(self, drawn: torch.Tensor, clips: int | None) -> torch.Tensor:
        if clips is None or self._world == 1:
            return drawn
        views = drawn.unflatten(clips, (self._n_views, self._world, -1))
        return views.select(clips + 1, self._rank).flatten(clips, clips + 1)
