"""The checkpoint store: a folder of training states that survives kills, full disks and damaged files.

Four rules carry the promises of docs/checkpoints.md, and each has a test that turns red without it:

* A name `step-NNNNNNNN` is given to a finished folder only: files, manifest and folder are written and synced under a
  name with a leading dot, read back in full, then renamed, then the parent is synced.
* It is taken away by a rename to a dot name only, so what is half deleted is never listed.
* A step that exists is replaced through `step-NNNNNNNN.replacement`, which is listed too: no moment is without an
  intact checkpoint.
* Nothing is believed that does not match its hash. The newest is the highest step number that does.

One process writes to a folder at a time; any number may read.
"""

import dataclasses
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from birdjepa.checkpoint import manifest
from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.core import files
from birdjepa.core.errors import StorageError

_LEFTOVER = re.compile(r"\.(?:writing|deleting)-.+\.([0-9]{1,9})\.[0-9a-f]{8}\.(.+)")
_LEFTOVER_AGE_S = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """Which checkpoints stay when a new one is saved. The new one always does."""

    keep_last: int = 3
    """Newest checkpoints kept; damaged ones are not counted."""
    keep_every: int = 0
    """Steps that are a multiple of this are kept for ever; 0 keeps none so."""

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1 checkpoint, got {self.keep_last}")
        if self.keep_every < 0:
            raise ValueError(f"keep_every must be 0 (off) or a number of steps, got {self.keep_every}")

    def keeps_for_ever(self, step: int) -> bool:
        """True for the milestones that no later save deletes."""
        return self.keep_every > 0 and step % self.keep_every == 0


class NotWritten(CheckpointError, StorageError):
    """Storage failed before the checkpoint had its name."""


class NotDeleted(CheckpointError, StorageError):
    """The checkpoint is saved; an older one that should go is still there."""


class Checkpoint(NamedTuple):
    """A verified training state, in memory of its own: the files may vanish once it is loaded."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, retention: RetentionConfig
) -> Path:
    """Writes folder/step-NNNNNNNN and returns it; then deletes what retention does not keep.

    Values, dtypes and shapes come back bit for bit; strides and shared storage do not. meta is JSON: string keys,
    lists rather than tuples, finite numbers. A step that exists already is replaced. Nothing is tried twice: after a
    failed sync the data may be gone, so that step has failed.

    Raises:
      CheckpointError: if a tensor holds NaN or infinity; NotWritten if storage fails: earlier checkpoints are
        untouched. NotDeleted if only the deletion of an older one failed.
      ValueError: if meta would not come back from JSON as it is, or a tensor is sparse.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    state = _independent(tensors)
    meta_json = _exact_json(meta)
    _refuse_non_finite(folder, step, state)
    target = folder / f"step-{step:08d}"
    temporary = _dot_name("writing", target)
    try:
        _make_folder(folder)
        clear_leftovers(folder)
        _write(temporary, step, state, meta_json)
        manifest.verify(temporary)
        _publish(temporary, target)
    except (OSError, SafetensorError, CheckpointError) as error:
        raise NotWritten(
            f"{folder}: checkpoint of step {step} not written: {error}; {files.free_bytes(folder)} bytes free; "
            "earlier checkpoints are untouched"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _retire(folder, target, retention)
    return target


def latest(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """Newest intact checkpoint: the highest step number that verifies. Each damaged one passed over is one warning.

    None only where there is no checkpoint at all, so that nothing ever starts again from zero in silence.

    Raises:
      CheckpointError: if there are checkpoints and none is intact, or if the folder cannot be listed.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            return load(path)
        except CheckpointError as error:
            warn(f"damaged checkpoint passed over: {error}")
    if paths:
        raise CheckpointError(
            f"{folder}: none of the {len(paths)} checkpoints is intact; put one back from a copy, "
            "or start a new run in another folder"
        )
    return None


def steps(folder: Path) -> list[int]:
    """Steps that a folder claims to have checkpoints of, ascending; nothing is verified.

    Raises:
      CheckpointError: if the folder cannot be listed.
    """
    return sorted({_step_of(path) for path in _newest_first(folder)})


def of_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of one step.

    Raises:
      CheckpointError: if there is none, or as `load`.
    """
    path = next((path for path in _newest_first(folder) if _step_of(path) == step), None)
    if path is None:
        there = ", ".join(map(str, steps(folder))) or "none"
        raise CheckpointError(f"{folder}: no checkpoint of step {step}; there are {there}")
    return load(path)


def load(path: Path) -> Checkpoint:
    """The checkpoint in the folder path, wherever it was moved and whatever it is called; every byte is verified.

    Files that do not belong to it are ignored. Links, folders and pipes in the place of its files are refused unopened.

    Raises:
      CheckpointError: naming the file and the reason, if anything is missing, altered or unreadable.
    """
    content = manifest.read_manifest(path)
    try:
        meta = manifest.read_meta(path, content)
        return Checkpoint(content.step, dict(manifest.read_tensors(path, content)), meta, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _write(folder: Path, step: int, tensors: dict[str, Tensor], meta_json: bytes) -> None:
    """Makes and fills folder, the manifest last; on the disk when it returns."""
    folder.mkdir()
    meta, state = folder / manifest.META, folder / manifest.STATE
    meta.write_bytes(meta_json)
    save_file(tensors, state)
    shutil.copymode(meta, state)  # safetensors lets nobody but the owner read its files
    files.sync(meta)
    files.sync(state)
    manifest.write_manifest(folder, step, tensors)
    files.sync(folder / manifest.MANIFEST)
    files.sync(folder)


def _publish(temporary: Path, target: Path) -> None:
    """Gives the finished folder its name, without a moment in which its step is not to be found."""
    if os.path.lexists(target):
        replacement = target.with_name(f"{target.name}.replacement")
        _move(temporary, replacement)
        _discard(target)
        _move(replacement, target)
    else:
        _move(temporary, target)


def _finish_replacement(replacement: Path) -> None:
    """Ends a replacement that was killed half-way. Where the new folder has been damaged since, the old one stays."""
    target = replacement.with_suffix("")
    if os.path.lexists(target):
        try:
            manifest.verify(replacement)
        except CheckpointError:
            _discard(replacement)
            return
        _discard(target)
    _move(replacement, target)


def _move(source: Path, target: Path) -> None:
    source.rename(target)
    files.sync(target.parent)


def _retire(folder: Path, saved: Path, retention: RetentionConfig) -> None:
    """Deletes what is older than the newest keep_last, except milestones and the checkpoint just saved.

    That one was read back in full, so one intact checkpoint is certain; the others are counted by the cheap check.
    """
    n_kept = 0
    try:
        for path in _newest_first(folder):
            if n_kept < retention.keep_last:
                n_kept += manifest.looks_whole(path)
            elif path != saved and not retention.keeps_for_ever(_step_of(path)):
                _discard(path)
    except OSError as error:
        raise NotDeleted(f"{saved}: saved, but an older checkpoint cannot be deleted: {error}") from error


def _discard(path: Path) -> None:
    """Unlists path for good, then deletes it. What cannot be deleted now (open on NFS) is tried at the next save."""
    doomed = _dot_name("deleting", path)
    _move(path, doomed)
    if doomed.is_dir() and not doomed.is_symlink():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink()


def clear_leftovers(folder: Path) -> None:
    """Ends what a killed save left: replacements are finished, dot folders of dead processes deleted.

    A process of another host cannot be asked whether it lives: its folders go when they are a day old.
    """
    for path in folder.iterdir():
        leftover = _LEFTOVER.fullmatch(path.name)
        if leftover and (_is_dead(int(leftover[1]), host=leftover[2]) or _age_s(path) > _LEFTOVER_AGE_S):
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".replacement" and manifest.LISTED.fullmatch(path.name):
            _finish_replacement(path)


def _is_dead(pid: int, *, host: str) -> bool:
    """True if the process surely has no save under way: it is gone, or it is this one, which saves one at a time."""
    if host != socket.gethostname():
        return False
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _dot_name(purpose: str, path: Path) -> Path:
    """A sibling of path that is never taken for a checkpoint and says which process made it."""
    return path.with_name(f".{purpose}-{path.name}.{os.getpid()}.{secrets.token_hex(4)}.{socket.gethostname()}")


def _newest_first(folder: Path) -> list[Path]:
    """Everything that claims to be a checkpoint, by step number; a replacement before what it replaces."""
    if not os.path.lexists(folder):
        return []
    try:
        paths = [path for path in folder.iterdir() if manifest.LISTED.fullmatch(path.name)]
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be listed: {error}") from error
    return sorted(paths, key=lambda path: (_step_of(path), path.suffix), reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-").removesuffix(".replacement"))


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        files.sync(folder.parent)


def _age_s(path: Path) -> float:
    return time.time() - os.lstat(path).st_mtime


def _independent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, no two on one storage, as safetensors wants them; copied only where they must be."""
    independent = {}
    storages = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise ValueError(f"tensor {name!r} must be dense, got {tensor.layout}")
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        storage = plain.untyped_storage().data_ptr()
        if storage in storages or plain.numel() == 1:  # a single element counts as contiguous at any stride
            plain = plain.clone(memory_format=torch.contiguous_format)
        independent[name] = plain
        storages.add(storage)
    return independent


def _refuse_non_finite(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        wide = tensor.float() if tensor.itemsize == 1 else tensor  # float8 has no isfinite
        if not bool(torch.isfinite(wide).all()):
            raise CheckpointError(
                f"{folder}: checkpoint of step {step} refused: tensor {name!r} holds NaN or infinity; "
                "earlier checkpoints are untouched"
            )


def _exact_json(meta: Mapping[str, Any]) -> bytes:
    """The JSON of meta, which reads back equal."""
    try:
        text = json.dumps(dict(meta), indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta must be JSON with finite numbers: {error}") from error
    if json.loads(text) != dict(meta):
        raise ValueError("meta must come back from JSON as it is: lists rather than tuples, strings as keys")
    return text.encode()
