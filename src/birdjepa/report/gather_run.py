"""A run folder's own files into report contents: metrics, provenance, refused recordings, probe results."""

import datetime
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.core import failures
from birdjepa.core.errors import UsageError
from birdjepa.core.failures import Failure
from birdjepa.report.contents import ProbeResult, ProbeScore
from birdjepa.train.sinks import METRICS, read_metrics

FLOOR_NAMES = {"logmel": "log-mel statistics", "random": "the untrained encoder"}
SETTINGS = (
    *("data", "encoder", "classifier", "pooling", "layer", "fold_column", "n_groups", "seed", "n_resamples"),
    *("confidence", "data_fingerprint"),
)
"""Keys of a probe's JSON that are shown as they are, where it has them."""


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; empty where there is no such file.

    Raises:
      UsageError: if the file is something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: holds a {type(value).__name__}, not an object")
    return value


def metrics_of(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Rows of metrics.jsonl by step; where a step was logged twice, the later line counts."""
    rows = {row["step"]: row for row in read_metrics(folder / METRICS) if isinstance(row.get("step"), int)}
    return tuple(rows[step] for step in sorted(rows))


def failures_of(folder: Path) -> list[Failure]:
    """Rows of failures.csv."""
    return failures.read(folder / failures.NAME)


def probes_of(folder: Path) -> tuple[ProbeResult, ...]:
    """probe.json and probes/*.json, by name.

    Raises:
      UsageError: naming the file that is not a probe's result.
    """
    paths = [path for path in (folder / "probe.json",) if path.is_file()] + sorted((folder / "probes").glob("*.json"))
    return tuple(parse_probe(read_json(path), str(path.relative_to(folder))) for path in paths)


def parse_probe(value: Mapping[str, Any], file: str) -> ProbeResult:
    """The object that `birdjepa probe --json` prints. Only `accuracy` must be there.

    A floor's `difference` (or the top-level `differences` entry of its name) holds the encoder's lead over it, as
    `benchmark.evaluate.Comparison` writes it.

    Raises:
      UsageError: if it has no accuracy.
    """
    if _estimate(value.get("accuracy")) is None:
        raise UsageError(f"{file}: not a probe's result, for it has no accuracy; write it by birdjepa probe --json")
    scores = [_score("encoder", value, None)]
    differences = _mapping(value.get("differences"))
    for name, floor in _mapping(value.get("floors")).items():
        floor = _mapping(floor)
        ahead = _mapping(floor.get("difference") or differences.get(name)).get("accuracy")
        scores.append(_score(FLOOR_NAMES.get(name, str(name)), floor, _estimate(ahead)))
    classes = tuple(map(str, value.get("classes") or ()))
    confusion = np.array(value.get("confusion") or np.zeros((0, 0)), dtype=np.int64)
    square = classes and confusion.shape == (len(classes), len(classes))
    n_classes = len(classes) or value.get("n_classes")
    settings = {key: _text(value[key]) for key in SETTINGS if value.get(key) not in (None, "")}
    origin = _mapping(value.get("provenance"))
    if origin.get("birdjepa"):
        settings["birdjepa"] = " at ".join(str(origin[key]) for key in ("birdjepa", "commit") if origin.get(key))
    folds = value.get("folds")
    if folds:
        settings["folds"] = f"{len(folds)}: {_folds(folds)}" if isinstance(folds, list) else _text(folds)
    return ProbeResult(
        file=file,
        settings=settings,
        scores=tuple(scores),
        n_examples=value.get("n_examples"),
        confidence=float(value.get("confidence") or 0.95),
        chance=1 / n_classes if n_classes else None,
        classes=classes if square else (),
        confusion=confusion if square else None,
        layers=tuple(layer for layer in map(_accuracy, value.get("layers") or ()) if layer is not None),
        notes=tuple(map(str, value.get("notes") or ())),
    )


def moments_of(folder: Path, provenance: Mapping[str, Any]) -> tuple[str, str]:
    """When the run started and when it wrote last: as it noted, else as the files' dates say; empty where unknown."""
    noted = str(provenance.get("started") or "")
    return noted or _modified(folder / "config.json"), _modified(folder / METRICS)


def _score(name: str, value: Mapping[str, Any], ahead: Estimate | None) -> ProbeScore:
    accuracy, macro_f1, balanced = (_estimate(value.get(key)) for key in ("accuracy", "macro_f1", "balanced_accuracy"))
    return ProbeScore(name, accuracy, macro_f1, balanced, ahead)


def _folds(folds: list[Any]) -> str:
    return ", ".join(
        f"{fold.get('name', i)} ({fold['accuracy']:.3f})"
        if isinstance(fold, Mapping) and "accuracy" in fold
        else _text(fold)
        for i, fold in enumerate(folds, start=1)
    )


def _estimate(value: Any) -> Estimate | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), int | float):
        return None
    low, high = (math.nan if value.get(key) is None else float(value[key]) for key in ("low", "high"))
    return Estimate(float(value["value"]), low, high)


def _accuracy(score: Any) -> Estimate | None:
    return _estimate(_mapping(score).get("accuracy"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _modified(path: Path) -> str:
    if not path.exists():
        return ""
    moment = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
