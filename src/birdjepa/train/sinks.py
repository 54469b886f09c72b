"""Sinks: where metrics go. metrics.jsonl always; TensorBoard and W&B where they are asked for.

A row that cannot be written is kept and written later: a disk that is full for a while costs no row and ends no run.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import MissingExtraError, StorageError
from birdjepa.train.config import SinksConfig

METRICS = "metrics.jsonl"


class Sinks:
    """Writes one row per logged step to every sink. Context manager."""

    def __init__(self, folder: Path, config: SinksConfig, described: Mapping[str, Any], *, first_step: int) -> None:
        require_extras(config)
        self._tensorboard = _open_tensorboard(folder, first_step) if config.tensorboard else None
        self._wandb = _open_wandb(folder, config, described) if config.wandb_project else None
        keep_rows_before(folder / METRICS, first_step)
        self._rows = Rows(folder / METRICS)

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def sync(self) -> None:
        """Forces the rows to the disk: before a checkpoint, which a resumed run takes to follow them.

        Raises:
          StorageError: if that fails; the rows are kept.
        """
        self._rows.sync()

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; `step` names its step. Numbers that are not finite become null."""
        finite = {name: _finite(value) for name, value in row.items()}
        self._rows.write(json.dumps(finite) + "\n")
        numbers = {name: value for name, value in finite.items() if isinstance(value, int | float) and name != "step"}
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=row["step"])


class Rows:
    """A file of lines that is only added to. What is not known to be on the disk is also kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._synced = path.stat().st_size
        """Bytes of the file that are on the disk."""
        self._kept = bytearray()
        """What follows them."""
        self._n_written = 0
        """How much of that the file has."""

    def write(self, line: str) -> None:
        """Adds a line, now or at the next call that can."""
        self._kept += line.encode()
        with contextlib.suppress(OSError):
            self._write_kept()

    def sync(self) -> None:
        """Writes what is kept and forces it to the disk.

        Raises:
          StorageError: if that fails; nothing is lost as long as the process lives.
        """
        try:
            self._write_kept()
            try:
                os.fsync(self._file.fileno())
            except OSError:
                self._n_written = 0  # what was written may be gone, and a second sync would not say so
                raise
        except OSError as error:
            raise StorageError(
                f"{self._path}: rows not written: {error.strerror}; {files.free_bytes(self._path.parent)} bytes free"
            ) from error
        self._synced += len(self._kept)
        self._kept, self._n_written = bytearray(), 0

    def close(self) -> None:
        """Ends the writing; rows that still cannot be written are lost, and made again by a resumed run."""
        with self._file, contextlib.suppress(OSError):
            self._write_kept()

    def _write_kept(self) -> None:
        if self._n_written == 0:
            os.ftruncate(self._file.fileno(), self._synced)
        while self._n_written < len(self._kept):
            self._n_written += os.write(self._file.fileno(), self._kept[self._n_written :])


def require_extras(config: SinksConfig) -> None:
    """Refuses sinks that are not installed.

    Raises:
      MissingExtraError: naming what to install.
    """
    for wanted, module in ((config.tensorboard, "tensorboard"), (config.wandb_project, "wandb")):
        if wanted and find_spec(module) is None:
            raise MissingExtraError(module, module)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file; a half-written last line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def keep_rows_before(path: Path, step: int) -> None:
    """Drops what a killed run wrote after its last checkpoint, so that no step is there twice."""
    rows = [row for row in read_metrics(path) if row["step"] < step]
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _open_tensorboard(folder: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)


def _open_wandb(folder: Path, config: SinksConfig, described: Mapping[str, Any]) -> Any:
    import wandb  # pyright: ignore[reportMissingImports] - an extra

    return wandb.init(
        project=config.wandb_project,
        name=config.wandb_run or folder.name,
        dir=str(folder),
        config=dict(described),
        id=configs.fingerprint(dict(described)),
        resume="allow",
    )
