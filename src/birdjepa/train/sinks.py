"""Sinks: where metrics go. metrics.jsonl always; TensorBoard and W&B where they are asked for."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdjepa.core import files
from birdjepa.core.errors import MissingExtraError
from birdjepa.train.config import SinksConfig

METRICS = "metrics.jsonl"


class Sinks:
    """Writes one row per logged step to every sink. Context manager."""

    def __init__(self, folder: Path, config: SinksConfig, described: Mapping[str, Any], *, first_step: int) -> None:
        keep_rows_before(folder / METRICS, first_step)
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._tensorboard = _open_tensorboard(folder) if config.tensorboard else None
        self._wandb = _open_wandb(folder, config, described) if config.wandb_project else None

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def write(self, row: Mapping[str, Any]) -> None:
        """One row; `step` names its step. Numbers that are not finite become null."""
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        numbers = {name: value for name, value in finite.items() if isinstance(value, int | float) and name != "step"}
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, row["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=row["step"])


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


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))


def _open_wandb(folder: Path, config: SinksConfig, described: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        raise MissingExtraError("wandb", "wandb") from None
    name = config.wandb_run or folder.name
    return wandb.init(project=config.wandb_project, name=name, dir=str(folder), config=dict(described), resume="allow", id=name)
