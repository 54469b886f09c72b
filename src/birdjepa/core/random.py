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
