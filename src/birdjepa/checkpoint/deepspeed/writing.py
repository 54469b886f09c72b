"""Tensors to a safetensors file, written as they are read; or to a state dict of torch.

A safetensors file is the length of a header (8 bytes, little-endian), the header (JSON: dtype, shape and place of each
tensor), and the numbers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import load_file

from birdjepa.checkpoint.deepspeed.pieces import Files, Merged
from birdjepa.core import files as disk
from birdjepa.core.errors import UsageError

SUFFIXES = (".safetensors", ".pt")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_METADATA = "__metadata__"


def require_new(out: Path) -> None:
    """Where a file may be written.

    Raises:
      UsageError: if its suffix says no format of ours, or it is there already.
    """
    if out.suffix not in SUFFIXES:
        raise UsageError(f"{out}: name a file that ends in .safetensors, or in .pt for a state dict of torch")
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already: name a new file, or remove this one first")


def write(out: Path, tensors: Mapping[str, Merged], files: Files, about: Mapping[str, str]) -> list[str]:
    """Writes the file whole or not at all; gives the names of tensors that hold NaN or infinity.

    about stands in the header of a safetensors file.

    Raises:
      UsageError: as require_new, if pieces do not agree with the module, or if out cannot be written.
    """
    require_new(out)
    try:
        with disk.replacing(out) as temporary:
            if out.suffix == ".safetensors":
                return _write_safetensors(temporary, tensors, files, about)
            mapped = temporary.with_suffix(".safetensors.tmp")
            try:
                bad = _write_safetensors(mapped, tensors, files, about)
                torch.save(load_file(mapped), temporary)  # which maps the file, so that memory stays small here too
            finally:
                mapped.unlink(missing_ok=True)
            return bad
    except (NotADirectoryError, FileExistsError) as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): name a file in a folder") from None


def _write_safetensors(path: Path, tensors: Mapping[str, Merged], files: Files, about: Mapping[str, str]) -> list[str]:
    bad = []
    with path.open("wb") as file:
        # Wider numbers first, as the format's own library has it, so that each lies where its kind may be mapped.
        ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
        _write_header(file, ordered, about)
        for name, tensor in ordered:
            finite = True
            for chunk in tensor.chunks(files, name):
                finite &= not chunk.dtype.is_floating_point or bool(chunk.isfinite().all())
                file.write(chunk.numpy().data)
            bad += [] if finite else [name]
    return bad


def _write_header(file: BinaryIO, ordered: list[tuple[str, Merged]], about: Mapping[str, str]) -> None:
    header: dict[str, object] = {_METADATA: {"format": "pt", **about}}
    offset = 0
    for name, tensor in ordered:
        if name == _METADATA:
            raise UsageError(f"a tensor is called {name}, which safetensors keeps for itself")
        if tensor.dtype not in _DTYPES:
            raise UsageError(f"{name} is of {tensor.dtype}, which safetensors does not know")
        end = offset + tensor.n_numbers * tensor.dtype.itemsize
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
