"""Folders that a job fills file by file: whose they are, who is at work in them, and what a file in them is called.

`key.json` says what decided every file: codec and settings. A folder with another key, or with files of somebody else,
is refused, so that nobody finds codes of two codecs side by side.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError

KEY = "key.json"
_LONGEST = 200
"""Bytes of a file's name, so that there is room for suffixes and names of temporary files."""


@contextlib.contextmanager
def filling(folder: Path, identity: dict[str, Any], doing: str) -> Iterator[None]:
    """Makes a folder, or goes on with one of the same identity; clears away what a killed process was writing.

    Raises:
      UsageError: if it holds something else, or another process is at work in it.
    """
    _check(folder, identity)
    with files.alone_in(folder, doing):
        _check(folder, identity)
        for left in folder.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        files.write_json(folder / KEY, identity)
        yield


def read_key(folder: Path) -> dict[str, Any]:
    """The identity of a folder; empty where there is none, or none that can be read."""
    try:
        found = json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def place_of(key: str) -> Path:
    """Where a recording's file goes in a folder, without its new suffix: the recording's own path.

    One that leads out of the folder, or is too long, is brought inside, and a hash keeps it apart from all others. A
    function of the one key, so that a folder to which recordings are added keeps its names.
    """
    path = PurePath(key)
    parts = [part for part in path.parts if part not in (path.anchor, "..")] or ["recording"]
    is_short = max(len(_bytes(part)) for part in parts) <= _LONGEST
    if is_short and str(Path(*parts)) == key:
        return Path(*parts)
    name = _bytes(parts[-1])[: _LONGEST - 13].decode("utf-8", "ignore")
    return Path(*parts[: -1 if is_short else 0], f"{name}-{hashlib.sha256(_bytes(key)).hexdigest()[:12]}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check(folder: Path, identity: dict[str, Any]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a folder with --out")
    if not (folder / KEY).exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UsageError(
                f"{folder} holds files already, and no {KEY} that says whose: name a new folder with --out"
            )
    elif (found := read_key(folder)) != identity:
        differing = configs.difference(found, identity) or [f"{KEY} cannot be read"]
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise UsageError(f"{folder}: belongs to something else ({shown}); choose another --out or delete it")
