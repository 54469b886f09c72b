"""Prediction scores of an experiment, in a file of their own: they are too many for a database.

A file is NumPy's .npz. Its name begins with the experiment's key and ends with something drawn, so that the scores a
result names are always those of the run that made it, even when two runs of one experiment ended at the same time.
"""

import secrets
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from birdjepa.core import files
from birdjepa.core.errors import StorageError, UsageError


def write(folder: Path, key: str, arrays: Mapping[str, np.ndarray], limit_bytes: int) -> str | None:
    """Name of the new file of arrays, each in the precision that it has; None, and no file, if it is over the limit.

    Numbers are stored as they are, for they hardly shrink; text and flags are compressed.

    Raises:
      ValueError: if an array holds Python objects.
      StorageError: if the disk is full or fails.
    """
    odd = [name for name, array in arrays.items() if array.dtype.hasobject]
    if odd:
        raise ValueError(f"scores {odd[0]!r} hold Python objects, which no file of arrays can hold safely")
    if sum(array.nbytes for array in arrays.values() if _is_stored(array)) > limit_bytes:
        return None
    path = folder / f"{key}.{secrets.token_hex(4)}.npz"
    try:
        with files.replacing(path) as temporary:
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, array in arrays.items():
                    entry = zipfile.ZipInfo(f"{name}.npy")
                    entry.compress_type = zipfile.ZIP_STORED if _is_stored(array) else zipfile.ZIP_DEFLATED
                    with archive.open(entry, "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
            if temporary.stat().st_size > limit_bytes:
                raise _TooLarge
    except _TooLarge:
        return None
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror}; {files.free_bytes(folder.parent)} bytes are free)"
        ) from None
    return path.name


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays that write was given.

    Raises:
      UsageError: if the file is missing or damaged.
    """
    path = folder / Path(name).name
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: scores cannot be read ({why}); remove the result to run it again") from None


def tidy(folder: Path, key: str, kept: str | None) -> None:
    """Removes files of an experiment that its result does not name: of runs that were killed, or came second."""
    for path in folder.glob(f"{key}.*.npz"):
        if path.name != kept:
            path.unlink(missing_ok=True)


def copy(name: str, source: Path, target: Path) -> None:
    """Copies one file to another folder, unless it is there or there is none."""
    if (source / name).is_file() and not (target / name).exists():
        with files.replacing(target / name) as temporary:
            shutil.copyfile(source / name, temporary)


class _TooLarge(Exception):
    pass


def _is_stored(array: np.ndarray) -> bool:
    return array.dtype.kind in "fc"
