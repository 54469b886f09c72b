"""Copies of BirdSet that `datasets` saved again: found by their file names, read without `datasets`.

Three layouts, all with whole recordings as bytes in a column `audio` (a struct of bytes and path):

    TASK/SPLIT-00000-of-00185.parquet          what push_to_hub writes: the mirror samuelstevens/BirdSet
    .../TASK/.../SET-SPLIT-00000-of-00185.arrow   the local cache after load_dataset of such a mirror
    TASK/SPLIT/data-00000-of-00185.arrow       save_to_disk

Classes are numbers there. Their names stand in the file's own schema; where they do not, the official list's order says
them.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog import shards

_SHARD = re.compile(r"(?:.+-)?(?P<split>train|test_5s|test|data)(?:-(?P<number>\d{5})-of-(?P<total>\d{5}))?")


class Found(NamedTuple):
    """The shards of a split."""

    shards: list[Path]
    missing: list[str]
    """Names of those whose numbers are not there."""


def find(folder: Path, task: str) -> dict[str, Found]:
    """Splits of a task below a folder that has them in one of the layouts; empty where there are none.

    Raises:
      UsageError: if there are two copies of a split.
    """
    parts: dict[str, list[tuple[Path, int, int]]] = {}
    for path in sorted(_tables(folder)):
        named = _SHARD.fullmatch(path.stem)
        above = (folder.resolve().name, *path.relative_to(folder).parts[:-1])
        if named is None or task not in above:
            continue
        split = path.parent.name if named["split"] == "data" else named["split"]
        parts.setdefault(split, []).append((path, int(named["number"] or 0), int(named["total"] or 1)))
    return {split: _complete(split, found) for split, found in parts.items()}


def cells(shard: Path, columns: Sequence[str], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Metadata of a shard's rows, with the names of their classes instead of numbers.

    Raises:
      LabelError: if the shard cannot be read, or a number has no name.
    """
    try:
        names = _class_names(shards.read_schema(shard)) or list(classes)
        for batch in shards.read_batches(shard, columns):
            for row in batch:
                for column in ("ebird_code", "ebird_code_multilabel"):
                    row[column] = _named(row.get(column), names, shard)
                yield row
    except shards.Damaged as damage:
        raise LabelError(str(shard), 0.0, f"cannot be read: {damage}; get it again") from None


def _tables(folder: Path) -> Iterator[Path]:
    """Parquet and Arrow files below a folder, past hidden folders and those of unpacked recordings."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "audio" and not name.startswith(".")]
        yield from (Path(where) / name for name in names if name.endswith((".parquet", ".arrow")))


def _complete(split: str, found: list[tuple[Path, int, int]]) -> Found:
    folders, totals = {path.parent for path, _, _ in found}, {total for _, _, total in found}
    if len(folders) > 1 or len(totals) > 1:
        where = " and ".join(sorted(str(path) for path in folders))
        raise UsageError(f"{where}: two copies of split {split}; keep one")
    (folder,), (total,) = folders, totals
    there = {number for _, number, _ in found}
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", found[0][0].stem)
    suffix = found[0][0].suffix
    absent = [
        f"{folder.name}/{stem}-{number:05d}-of-{total:05d}{suffix}" for number in range(total) if number not in there
    ]
    return Found([path for path, _, _ in found], absent)


def _class_names(schema: Any) -> list[str]:
    """Names of `ebird_code`'s classes as `datasets` keeps them in the schema."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        feature = json.loads(text)["info"]["features"]["ebird_code"]
        return [str(name) for name in feature.get("names", ())]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _named(value: Any, names: Sequence[str], shard: Path) -> Any:
    if isinstance(value, list):
        return [_named(each, names, shard) for each in value]
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(names):
        raise LabelError(str(shard), 0.0, f"class {value} has no name: neither the shard nor the official list says it")
    return names[value]
