"""For the files that `birdjepa sweep` reads: short ways to say many configurations."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def log_spaced(low: float, high: float, n: int) -> list[float]:
    """n numbers from low to high at equal ratios, rounded to three digits so that they read well in names.

    Raises:
      ValueError: unless 0 < low < high and n >= 2.
    """
    if not 0 < low < high or n < 2:
        raise ValueError(f"need 0 < low < high and n >= 2, got {low}, {high}, {n}")
    logs = (math.log(low) + i / (n - 1) * math.log(high / low) for i in range(n))
    return [float(f"{math.exp(value):.3g}") for value in logs]


def grid(base: T, axes: Mapping[str, Sequence[Any]]) -> list[T]:
    """The configuration with every combination of settings, named by dots: {"optim.lr": [1e-3, 3e-3], "seed": [0, 1]}.
    The last axis varies fastest.

    Raises:
      ValueError: if a name is no setting of the configuration, or an axis is empty.
    """
    empty = [name for name, values in axes.items() if not values]
    if empty:
        raise ValueError(f"no values for {', '.join(empty)}")
    made = []
    for values in itertools.product(*axes.values()):
        config = base
        for name, value in zip(axes, values, strict=True):
            config = replaced(config, name, value)
        made.append(config)
    return made


def replaced(config: T, name: str, value: Any) -> T:
    """The configuration with one setting, named by dots, replaced.

    Raises:
      ValueError: if there is no such setting, or a value is outside its limits.
    """
    first, _, rest = name.partition(".")
    if not dataclasses.is_dataclass(config) or first not in {field.name for field in dataclasses.fields(config)}:
        raise ValueError(f"{type(config).__name__} has no setting {first!r}")
    changed = replaced(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: changed})  # pyright: ignore[reportArgumentType]
