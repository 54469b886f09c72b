"""Sinks: where metrics go. metrics.jsonl always; TensorBoard and W&B where they are asked for."""

import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import MissingExtraError
from birdjepa.train.config import SinksConfig

METRICS = "metrics.jsonl"


class Sinks:
    """Writes one row per logged step to every sink. Context manager."""

    def __init__(self, folder: Path, config: SinksConfig, described: Mapping[str, Any], *, first_step: int) -> None:
        require_extras(config)
        self._tensorboard = _open_tensorboard(folder, first_step) if config.tensorboard else None
        self._wandb = _open_wandb(folder, config, described) if config.wandb_project else None
        keep_rows_before(folder / METRICS, first_step)
        self._file = (folder / METRICS).open("a", encoding="utf-8")

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def sync(self) -> None:
        """Forces the rows to the disk: before a checkpoint, which a resumed run takes to follow them."""
        os.fsync(self._file.fileno())

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; `step` names its step. Numbers that are not finite become null."""
        finite = {name: _finite(value) for name, value in row.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        numbers = {name: value for name, value in finite.items() if isinstance(value, int | float) and name != "step"}
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=row["step"])


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
