"""Tensors in pieces that lie in several files, read a stretch at a time so that memory does not grow with the model."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from birdjepa.checkpoint.deepspeed import pickles
from birdjepa.core.errors import UsageError

CHUNK = 1 << 21
"""Numbers that are in memory at a time: 8 MB of float32."""
_MAPPED = 1 << 26
"""Bytes that are read before the maps are let go. What was read of a map counts as memory of the process until then."""

Pick = Callable[[dict[str, Any]], Mapping[Hashable, Tensor]]


class Piece(NamedTuple):
    """Numbers [start, stop) of a tensor in a file, in the order of its elements."""

    path: Path
    key: Hashable
    start: int
    stop: int


class Files:
    """The tensors of all the files of a checkpoint."""

    def __init__(self) -> None:
        self._picks: dict[Path, Pick] = {}
        self._open: dict[Path, Mapping[Hashable, Tensor]] = {}
        self._bytes_read = 0

    def open(self, path: Path) -> dict[str, Any]:
        """Everything in a file that was found whole."""
        pickles.verify(path)
        return pickles.read(path)

    def keep(self, path: Path, state: dict[str, Any], pick: Pick) -> None:
        """From now on, what pick takes of a file's state can be read.

        Raises:
          UsageError: if something among it is no plain tensor with all its numbers in the file.
        """
        self._picks[path] = pick
        self._open[path] = pick(state)
        for key, tensor in self._open[path].items():
            _require_plain(path, key, tensor)

    def read(self, piece: Piece) -> Tensor:
        """A copy of a piece, flat."""
        if self._bytes_read > _MAPPED:
            self._open.clear()
            self._bytes_read = 0
        if piece.path not in self._open:
            self._open[piece.path] = self._picks[piece.path](pickles.read(piece.path))
        found = self._open[piece.path][piece.key].detach().reshape(-1)[piece.start : piece.stop].clone()
        self._bytes_read += found.nbytes
        if found.numel() != piece.stop - piece.start:
            raise UsageError(f"{piece.path}: was changed while it was read")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merged:
    """A whole tensor, of which only is known yet where its pieces lie."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    """In which it is written; its pieces may be of another."""
    pieces: tuple[Piece, ...]
    rounded: Piece | None = None
    """The same tensor as the module had it, perhaps in less precision. The pieces must agree with it."""

    @property
    def n_numbers(self) -> int:
        return math.prod(self.shape)

    def chunks(self, files: Files, name: str) -> Iterator[Tensor]:
        """The numbers in their order, a flat chunk at a time.

        Raises:
          UsageError: if they are not what the module held, so that the pieces would be put together wrongly.
        """
        position = 0
        for piece in self.pieces:
            for start in range(piece.start, piece.stop, CHUNK):
                stop = min(start + CHUNK, piece.stop)
                chunk = files.read(piece._replace(start=start, stop=stop)).to(self.dtype)
                if self.rounded is not None:
                    own = files.read(self.rounded._replace(start=position, stop=position + stop - start))
                    _require_agreement(chunk, own, name, piece.path, self.rounded.path)
                position += stop - start
                yield chunk


def whole(path: Path, key: Hashable, tensor: Tensor) -> Merged:
    """A tensor that lies in one file."""
    return Merged(shape=tuple(tensor.shape), dtype=widened(tensor.dtype), pieces=(Piece(path, key, 0, tensor.numel()),))


def widened(dtype: torch.dtype) -> torch.dtype:
    """float32 for what has less precision than that; anything else as it is."""
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def stretch(parts: list[Piece], start: int, stop: int) -> list[Piece]:
    """Numbers [start, stop) of parts that follow one another, as pieces of them."""
    found, offset = [], 0
    for part in parts:
        size = part.stop - part.start
        first, last = max(start - offset, 0), min(stop - offset, size)
        if first < last:
            found.append(part._replace(start=part.start + first, stop=part.start + last))
        offset += size
    return found


def _require_plain(path: Path, key: Hashable, tensor: Tensor) -> None:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UsageError(f"{path}: {key} is no plain tensor (sparse, quantised, or without its numbers)")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise UsageError(f"{path}: {key} claims more numbers than the file holds")


def _require_agreement(chunk: Tensor, own: Tensor, name: str, path: Path, module: Path) -> None:
    if torch.equal(own, chunk.to(own.dtype)):
        return
    # An optimiser on the processor rounds in its own way, so one unit in the last place of half precision is let pass.
    half = own.dtype.is_floating_point and own.dtype.itemsize < 4
    rtol, atol = (torch.finfo(own.dtype).eps, torch.finfo(own.dtype).tiny) if half else (0.0, 0.0)
    if not torch.allclose(own.to(chunk.dtype), chunk, rtol=rtol, atol=atol, equal_nan=True):
        raise UsageError(
            f"{path}: {name} put together from the pieces is not what {module.name} holds: a file is of another step, "
            "the module was changed beside its optimiser, or a DeepSpeed that cuts otherwise wrote it"
        )
