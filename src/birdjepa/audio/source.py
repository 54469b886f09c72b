"""What a recording can be handed over as: a file, a part of one, bytes, or something that gives one of these."""

import abc
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """A recording that lies whole and as it is inside a larger file, an uncompressed tar."""

    file: Path
    offset: int
    """First byte of the recording in the file."""
    size: int
    """Bytes of the recording."""
    name: str
    """What the larger file calls it."""

    def __str__(self) -> str:
        return str(self.file / self.name)


class Deferred(abc.ABC):
    """A recording that has to be got hold of first: in a table, or on another machine. `str` names it."""

    @abc.abstractmethod
    def fetch(self) -> bytes | Part:
        """Its encoded bytes, or where they lie by now.

        Raises:
          AudioError: if it cannot be got.
        """


Source = str | Path | bytes | Part | Deferred
"""A file, a part of one, an encoded file's bytes in memory, or what gives one of these."""
