"""The part of MATLAB's level 5 MAT-files that label files need: real numeric arrays and texts, read and written.

MATLAB's `save` wrote this format from version 5 on and still does with -v7 (each variable compressed by zlib); -v7.3
is HDF5 and is refused. Cells, structures, sparse and complex arrays are passed over: what is asked for must not be one.

Source: The MathWorks, "MAT-File Format" (matfile_format.pdf), chapter 1; what is read equals scipy.io.loadmat's.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from birdjepa.core.errors import LabelError

Variable = str | Float[np.ndarray, " n"]
"""A text, or the elements of an array in MATLAB's order (columns first)."""

MAX_BYTES = 1 << 26
"""Longest variable after inflation: label files are small, and a few bytes of zlib can claim gigabytes."""

_HEADER = 128
_INT8, _UINT16, _INT32, _UINT32, _DOUBLE, _MATRIX, _COMPRESSED = 1, 4, 5, 6, 9, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CHAR_CLASS, _DOUBLE_CLASS = 4, 6
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX_FLAG = 0x0800


def read_variables(path: Path, data: bytes) -> dict[str, Variable]:
    """Numeric and text variables of a MAT-file by name.

    Raises:
      LabelError: if it is another format, or damaged.
    """
    if data.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise LabelError(str(path), 0.0, "saved with -v7.3 (HDF5): load it in MATLAB and save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER])
    if order is None:
        raise LabelError(str(path), 0.0, "no MAT-file of level 5: save it in MATLAB with -v7")
    found: dict[str, Variable] = {}
    try:
        at = _HEADER
        while at < len(data):
            kind, element, at = _element(data, at, order)
            if kind == _COMPRESSED:
                kind, element, _ = _element(_inflated(element), 0, order)
            if kind == _MATRIX:
                name, value = _variable(element, order)
                if value is not None:
                    found[name] = value
    except (ValueError, zlib.error) as error:
        raise LabelError(str(path), 0.0, f"damaged MAT-file: {error}") from None
    return found


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, MAX_BYTES)
    if not inflater.eof:
        raise ValueError(f"a variable is cut short, or longer than {MAX_BYTES} bytes")
    return inflated


def _element(data: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """Type and content of the element at a byte, and where the next one begins."""
    head = _integers(data[at : at + 8], "u4", order)
    if len(head) < 2:
        raise ValueError("it ends within an element")
    kind, size = head
    if kind >> 16:  # a small element: size and type share four bytes, the content has the other four
        kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    else:
        start = at + 8
        end = start + size + (0 if kind == _COMPRESSED else -size % 8)
    if size > min(end, len(data)) - start:
        raise ValueError("it ends within an element")
    return kind, data[start : start + size], end


def _variable(data: bytes, order: str) -> tuple[str, Variable | None]:
    """Name and value of an array; None for a class that is not read."""
    _, flags, at = _element(data, 0, order)
    _, size, at = _element(data, at, order)
    _, name, at = _element(data, at, order)
    first = _integers(flags, "u4", order)
    if not first:
        raise ValueError("an array has no flags")
    array_class = first[0] & 0xFF
    readable = array_class == _CHAR_CLASS or array_class in _NUMERIC_CLASSES
    if not readable or first[0] & _COMPLEX_FLAG:
        return name.decode("latin-1"), None
    dimensions = _integers(size, "i4", order)
    n_elements = int(np.prod(dimensions, dtype=np.float64)) if dimensions else 0
    kind, content = _element(data, at, order)[:2] if at < len(data) else (_INT8, b"")
    if array_class == _CHAR_CLASS:
        if n_elements and max(dimensions) != n_elements:
            return name.decode("latin-1"), None  # rows of texts, which no label file has
        return name.decode("latin-1"), _text(kind, content, order, n_elements)
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of type {kind}")
    values = _array(content, _NUMBERS[kind], order).astype(np.float64)
    if len(values) != n_elements:
        raise ValueError(f"an array has {len(values)} numbers, its size says {n_elements}")
    return name.decode("latin-1"), values


def _text(kind: int, content: bytes, order: str, n_elements: int) -> str:
    encoding = _TEXTS.get(kind, "")
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    if not encoding:
        raise ValueError(f"text of type {kind}")
    text = content.decode(encoding)
    if len(text) != n_elements and len(text.encode("utf-16-le")) != 2 * n_elements:
        raise ValueError(f"a text has {len(text)} letters, its size says {n_elements}")
    return text


def _integers(data: bytes, kind: str, order: str) -> list[int]:
    return _array(data, kind, order).tolist()


def _array(data: bytes, kind: str, order: str) -> np.ndarray:
    return np.frombuffer(data[: len(data) // int(kind[1:]) * int(kind[1:])], np.dtype(order + kind))


def mat_file(variables: Mapping[str, float | str | Float[np.ndarray, " n"]]) -> bytes:
    """A MAT-file of level 5 without compression: numbers as doubles (arrays as columns), texts as one row.

    Raises:
      ValueError: if a text has letters beyond UTF-16's first plane, which MATLAB counts as two.
    """
    header = b"MATLAB 5.0 MAT-file, written by birdjepa".ljust(124, b" ")
    return (
        header
        + np.uint16(0x0100).astype("<u2").tobytes()
        + b"IM"
        + b"".join(_tagged(_MATRIX, _matrix(name, value)) for name, value in variables.items())
    )


def _matrix(name: str, value: float | str | Float[np.ndarray, " n"]) -> bytes:
    if isinstance(value, str):
        content = value.encode("utf-16-le")
        if len(content) != 2 * len(value):
            raise ValueError(f"{name} has letters that MATLAB cannot hold in one: {value[:40]!r}")
        array_class, kind, size = _CHAR_CLASS, _UINT16, (1, len(value))
    else:
        column = np.atleast_1d(np.asarray(value, "<f8"))
        array_class, kind, size, content = _DOUBLE_CLASS, _DOUBLE, (len(column), 1), column.tobytes()
    return (
        _tagged(_UINT32, np.array([array_class, 0], "<u4").tobytes())
        + _tagged(_INT32, np.array(size, "<i4").tobytes())
        + _tagged(_INT8, name.encode("ascii"))
        + _tagged(kind, content)
    )


def _tagged(kind: int, content: bytes) -> bytes:
    return np.array([kind, len(content)], "<u4").tobytes() + content + bytes(-len(content) % 8)
