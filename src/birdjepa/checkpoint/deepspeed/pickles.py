"""Reading what torch.save wrote for DeepSpeed, without DeepSpeed and without running anything.

torch's restricted unpickler builds tensors and plain containers. Honest files also name a few classes of DeepSpeed and
of the training script; in their places stand classes of ours that hold nothing and do nothing. Every other name is
refused. Storages are mapped from the file, not read.
"""

import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from birdjepa.checkpoint.deepspeed.layout import require_regular
from birdjepa.core.errors import UsageError


class Inert:
    """Stands where an object was: takes whatever it is made of, and keeps nothing."""

    __slots__ = ()

    def __init__(self, *parts: object) -> None:
        """Forgets its parts."""

    def __setstate__(self, state: object) -> None:
        """Forgets its state."""


STAND_INS: dict[str, Any] = {
    "deepspeed.runtime.zero.config.ZeroStageEnum": int,
    **dict.fromkeys(
        (
            "deepspeed.runtime.fp16.loss_scaler.LossScaler",
            "deepspeed.runtime.fp16.loss_scaler.LossScalerBase",
            "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
            "deepspeed.runtime.zero.offload_config.OffloadDeviceEnum",
            "deepspeed.utils.tensor_fragment.fragment_address",
            "argparse.Namespace",
            "types.SimpleNamespace",
            "pathlib.PosixPath",
            "pathlib.WindowsPath",
            "pathlib._local.PosixPath",
            "pathlib._local.WindowsPath",
            "numpy.dtype",
            "numpy.ndarray",
            "numpy.core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray.scalar",
            "numpy._core.multiarray._reconstruct",
        ),
        Inert,
    ),
}
"""Names in honest files -> what is built instead. The stage is a number; all the rest is of no use here: DeepSpeed's
own, and what scripts put into their client_state."""

_LARGEST_PICKLE = 1 << 28
"""Bytes of the structure that holds the tensors; one of a thousand processes takes some hundred thousand."""


def verify(path: Path) -> None:
    """The file is a zip as torch.save writes it, uncompressed and whole: every record matches its checksum.

    Raises:
      UsageError: naming the file and what is wrong.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as opened:
            for record in opened.infolist():
                if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 0x1:
                    raise UsageError(
                        f"{path}: {record.filename[:80]} is compressed or encrypted, which torch.save never does"
                    )
                if record.filename.endswith("/data.pkl") and record.file_size > _LARGEST_PICKLE:
                    raise UsageError(f"{path}: its structure has {record.file_size:,} bytes, which no checkpoint needs")
                _require_checksum(path, opened, record)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise UsageError(f"{path}: not a file of torch.save, or cut short ({_line(error)}): copy it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _require_checksum(path: Path, opened: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Reads a record to its end, where zipfile compares. torch writes 0 where it was told to leave checksums out."""
    if record.CRC == 0:
        return
    try:
        with opened.open(record) as content:
            while content.read(1 << 20):
                pass
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path}: is damaged ({_line(error)}): copy it again") from None


def read(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch.save, its tensors mapped from the file.

    Raises:
      UsageError: if the pickle names anything but what STAND_INS and torch allow, or cannot be read.
    """
    require_regular(path)
    allowed: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # of other protocols than torch's own, which fail or not
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a pickle that nobody of ours wrote may bring about
        if name := _refused(path, str(error)):
            raise UsageError(
                f"{path}: its pickle asks for {name}, which could run code and is not among what DeepSpeed writes: "
                "nothing of it was run. Where it is an object of your own in client_state, save without it"
            ) from None
        raise UsageError(f"{path}: cannot be read as a checkpoint ({_line(error)})") from None
    if not isinstance(state, dict):
        raise UsageError(f"{path}: holds no dictionary, so it is no checkpoint of DeepSpeed")
    return state


def _refused(path: Path, complaint: str) -> str:
    """The name that torch refused; empty if it complained of something else."""
    if told := re.search(r"GLOBAL (\S+) (?:was not|whose)", complaint):
        return told[1]
    if "Unsupported operand" not in complaint:
        return ""
    try:
        with zipfile.ZipFile(path) as opened:
            name = next(each for each in opened.namelist() if each.endswith("/data.pkl"))
            return next(_named(opened.read(name)), "")
    except (zipfile.BadZipFile, StopIteration, OSError, ValueError):
        return ""


def _named(pickled: bytes) -> Iterator[str]:
    """What a pickle imports by other means than torch.save does."""
    strings: list[str] = []
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif operation.name == "INST":
            yield str(argument).replace(" ", ".")
        elif isinstance(argument, str):
            strings.append(argument)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
