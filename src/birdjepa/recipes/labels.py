"""Short names for configurations that stand side by side: what differs between them, and nothing else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from birdjepa.objectives import OBJECTIVES

LONGEST = 80
"""Letters of a label; the hash behind it tells long ones apart."""
_NAMES = {kind.__name__: name for name, kind in OBJECTIVES.items()}


def differing(described: Sequence[Mapping[str, Any]], *, leave_out: Sequence[str] = ()) -> list[str]:
    """Dotted names of the settings that tell JSON configurations apart, in their order.

    Where a part is of several kinds (an objective, an optimiser), its kind says what follows from it: settings inside
    it count only where they differ within one kind.
    """
    flat = [_flattened(each) for each in described]
    names = dict.fromkeys(name for each in flat for name in each)
    found = []
    for name in names:
        if name in leave_out:
            continue
        parts = name.split(".")
        above = [".".join([*parts[:i], "kind"]) for i in range(1, len(parts))]
        kinds = [kind for kind in above if kind != name and len({str(each.get(kind)) for each in flat}) > 1]
        groups: dict[tuple[str, ...], set[str]] = {}
        for each in flat:
            groups.setdefault(tuple(str(each.get(kind)) for kind in kinds), set()).add(repr(each.get(name)))
        if any(len(values) > 1 for values in groups.values()):
            found.append(name)
    return found


def values_of(described: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Settings by dotted name as short texts; those that a configuration does not have are left out."""
    flat = _flattened(described)
    return {name: _text(flat[name]) for name in names if name in flat}


def label(values: Mapping[str, str]) -> str:
    """A name for a folder: kinds by their name alone, other settings after the last part of theirs."""
    last = [name.rpartition(".")[2] for name in values]
    parts = []
    for name, value in values.items():
        short = name.rpartition(".")[2]
        if short == "kind":
            parts.append(value)
        else:
            parts.append(f"{short if last.count(short) == 1 else name}{value}")
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", "-".join(parts))[:LONGEST].strip("-_.") or "run"


def _flattened(value: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {where: value}
    flat = {}
    for name, inside in value.items():
        flat.update(_flattened(inside, f"{where}.{name}" if where else name))
    return flat


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "x".join(map(_text, value))
    text = str(value)
    return _NAMES.get(text, text.removesuffix("Config").lower() if text.endswith("Config") else text)
