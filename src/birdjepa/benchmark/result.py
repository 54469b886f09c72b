"""One finished experiment: what was asked, what came out, and where it came from.

What was asked is one JSON object. The hash of its canonical text is the result's key, so two runs are the same
experiment exactly where these objects are equal. Everything else here is read out of it, or came out of the run.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.core import config as configs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One finished experiment."""

    experiment: dict[str, Any]
    """JSON with everything that decides the numbers; its hash is the key."""
    task: str
    suite: str
    model: str
    classifier: str
    n_train: int | None
    """Training examples of each class that were asked for; None: all."""
    seed: int
    layer: int | None
    """Which layer's embeddings; None: the model's own choice."""
    metric: str
    """Name of the task's headline among metrics."""
    metrics: dict[str, Estimate]
    """NaN where a number is not defined."""
    per_class: dict[str, dict[str, float]]
    """Metric, then class."""
    counts: dict[str, int]
    notes: tuple[str, ...]
    scores: str | None
    """Name of the file of scores in the store's folder of them; None: it was larger than allowed."""
    seconds: float
    provenance: dict[str, Any]
    """JSON."""

    def __post_init__(self) -> None:
        key_of(self.experiment)
        if self.metric not in self.metrics:
            raise ValueError(f"metrics lack the headline {self.metric!r}, there are {', '.join(self.metrics)}")
        numbers = [number for each in self.metrics.values() for number in (each.value, each.low, each.high)]
        numbers += [number for values in self.per_class.values() for number in values.values()]
        if any(math.isinf(number) for number in numbers) or not math.isfinite(self.seconds):
            raise ValueError(f"a result of {self.task} is infinite; numbers are finite or NaN, and its seconds finite")

    @property
    def key(self) -> str:
        return key_of(self.experiment)

    def to_json(self) -> dict[str, Any]:
        """JSON object; NaN becomes null."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "metrics": {name: each.to_json() for name, each in self.metrics.items()},
            "per_class": {
                metric: {name: None if math.isnan(value) else float(value) for name, value in values.items()}
                for metric, values in self.per_class.items()
            },
            "counts": {name: int(count) for name, count in self.counts.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Result":
        """The result that to_json wrote.

        Raises:
          ValueError: if it is something else.
        """
        try:
            read = {
                **value,
                "metrics": {name: estimate(**each) for name, each in value["metrics"].items()},
                "per_class": {
                    metric: {name: number(each) for name, each in values.items()}
                    for metric, values in value["per_class"].items()
                },
                "notes": tuple(value["notes"]),
            }
            return cls(**read)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a result ({error})") from None


def key_of(experiment: Mapping[str, Any]) -> str:
    """SHA-256 of an experiment's canonical JSON, in hex. The order of names is irrelevant; 1 and 1.0 differ.

    Raises:
      ValueError: if it is not JSON or holds NaN or infinity, which JSON has not.
    """
    try:
        json.dumps(experiment, allow_nan=False)
        return configs.digest(experiment)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an experiment must be finite JSON: {error}") from None


def estimate(*, value: float | None, low: float | None, high: float | None) -> Estimate:
    """An estimate whose NaN were written as null."""
    return Estimate(number(value), number(low), number(high))


def number(value: float | None) -> float:
    return math.nan if value is None else float(value)
