"""What a checkpoint folder holds, and the proof that it is what was written.

    state.safetensors   every tensor, by flat name
    meta.json           everything else that resuming needs
    manifest.json       size and SHA-256 of both; dtype, shape and SHA-256 of every tensor; in front, its own seal

The files' hashes find any changed byte. The tensors' hashes are taken from memory, so they also prove that what is
loaded is what the training held. The seal proves the manifest itself. Other files in the folder are ignored.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from birdjepa.core import files
from birdjepa.core.errors import UserError

FORMAT = 1
STATE = "state.safetensors"
META = "meta.json"
MANIFEST = "manifest.json"

LISTED = re.compile(r"step-([0-9]{8,})(\.replacement)?")
"""Names of folders that claim to be checkpoints; the first group is the step."""


class CheckpointError(UserError):
    """A checkpoint cannot be written, or is damaged; the message names the file and the reason."""


class FileEntry(NamedTuple):
    """What the manifest says of a file."""

    size: int
    sha256: str


class TensorEntry(NamedTuple):
    """What the manifest says of a tensor."""

    dtype: str
    shape: list[int]
    sha256: str


class Manifest(NamedTuple):
    """The content of a manifest whose seal is whole."""

    step: int
    files: dict[str, FileEntry]
    tensors: dict[str, TensorEntry]


def write_manifest(path: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Adds manifest.json to a folder that holds the other two. The tensors are contiguous and on the CPU."""
    content = {
        "format": FORMAT,
        "step": step,
        "files": {name: FileEntry(_size(path / name), files.sha256(path / name))._asdict() for name in (META, STATE)},
        "tensors": {name: _entry(tensor)._asdict() for name, tensor in tensors.items()},
    }
    (path / MANIFEST).write_bytes(_seal(content))


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint in the folder path.

    Raises:
      CheckpointError: if it is missing, unreadable, altered, of another format, or of another step than path says.
    """
    file = path / MANIFEST
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise CheckpointError(f"{path}: is not a folder")
        _require_regular(file)
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        content = json.loads(data)
        del content["sha256"]
        if _seal(content) != data:
            raise CheckpointError(f"{file}: is damaged: its seal is broken")
        if content["format"] != FORMAT:
            raise CheckpointError(f"{file}: has format {content['format']}, this version reads format {FORMAT}")
        manifest = Manifest(
            step=int(content["step"]),
            files={name: FileEntry(**content["files"][name]) for name in (META, STATE)},
            tensors={name: TensorEntry(**entry) for name, entry in content["tensors"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: is damaged: not the manifest of a checkpoint") from error
    named = LISTED.fullmatch(path.name)
    if named and int(named[1]) != manifest.step:
        raise CheckpointError(f"{file}: belongs to step {manifest.step}")
    return manifest


def read_meta(path: Path, manifest: Manifest) -> dict[str, Any]:
    """What meta.json holds, once its bytes matched."""
    file = path / META
    _require_size(file, manifest.files[META])
    data = file.read_bytes()
    _require_hash(file, hashlib.sha256(data).hexdigest(), manifest.files[META])
    return json.loads(data)


def read_tensors(path: Path, manifest: Manifest) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor), each a copy that matched its dtype, shape and hash, after the whole file matched."""
    file = path / STATE
    _require_size(file, manifest.files[STATE])
    _require_hash(file, files.sha256(file), manifest.files[STATE])
    try:
        with safe_open(file, framework="pt") as state:
            if set(state.keys()) != set(manifest.tensors):
                raise CheckpointError(f"{file}: does not hold the tensors that {MANIFEST} lists")
            for name, expected in manifest.tensors.items():
                tensor = state.get_tensor(name).clone()
                if _entry(tensor) != expected:
                    raise CheckpointError(f"{file}: tensor {name!r} differs from {MANIFEST}")
                yield name, tensor
    except (SafetensorError, RuntimeError) as error:  # torch maps the file, and reports storage faults as RuntimeError
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


def verify(path: Path) -> None:
    """Reads the whole checkpoint and compares it with its manifest, one tensor in memory at a time.

    Raises:
      CheckpointError: naming the file and the reason.
    """
    manifest = read_manifest(path)
    try:
        read_meta(path, manifest)
        for _ in read_tensors(path, manifest):
            pass
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def looks_whole(path: Path) -> bool:
    """The cheap check, which reads the manifest only: its seal holds and the files have their sizes."""
    try:
        for name, expected in read_manifest(path).files.items():
            _require_size(path / name, expected)
    except (CheckpointError, OSError):
        return False
    return True


def _require_regular(file: Path) -> None:
    """Looks before opening: a pipe would block, a link may lead anywhere."""
    try:
        mode = os.lstat(file).st_mode
    except FileNotFoundError:
        raise CheckpointError(f"{file}: is missing") from None
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}.get(stat.S_IFMT(mode), "a special file")
        raise CheckpointError(f"{file}: is {kind}, not a regular file")


def _require_size(file: Path, expected: FileEntry) -> None:
    _require_regular(file)
    if _size(file) != expected.size:
        raise CheckpointError(f"{file}: has {_size(file)} bytes, {expected.size} were written")


def _require_hash(file: Path, found: str, expected: FileEntry) -> None:
    if found != expected.sha256:
        raise CheckpointError(f"{file}: is damaged: SHA-256 {found[:12]}, {expected.sha256[:12]} was written")


def _seal(content: dict[str, Any]) -> bytes:
    """The manifest's bytes, its own hash in front. Each content has one spelling, so that any changed byte shows."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({"sha256": digest, **content}, indent=1).encode()


def _entry(tensor: Tensor) -> TensorEntry:
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    return TensorEntry(str(tensor.dtype).removeprefix("torch."), list(tensor.shape), hashlib.sha256(data).hexdigest())


def _size(file: Path) -> int:
    return os.lstat(file).st_size
