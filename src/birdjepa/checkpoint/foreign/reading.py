"""Where a foreign checkpoint is, and its tensors: a folder in the Hub's layout, a safetensors file, or a model of the
Hub. Pickles are refused unread, for what is in them may run.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.data.hub_models import fetch_model

WEIGHTS = "model.safetensors"
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@(.+))?")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLE_BYTES = (b"PK\x03\x04", b"\x80")
"""What torch.save writes begins with one of these."""


class Found(NamedTuple):
    """A checkpoint on this machine."""

    weights: Path
    settings: Mapping[str, Mapping[str, Any]]
    """What the files of settings beside it hold, by their names; empty where there are none."""
    source: str
    """The Hub's name for it, or the last part of its path."""
    revision: str
    """Commit on the Hub; empty for files."""


def find(source: str, names: tuple[str, ...]) -> Found:
    """A checkpoint by path, or by OWNER/NAME[@REVISION] of the Hub; with the files of settings called `names`.

    Raises:
      UserError: if there is none that can be read.
    """
    path = Path(source)
    if path.is_dir():
        held = {each.name: each for each in path.iterdir()}
        _require_weights(source, list(held))
        return Found(held[WEIGHTS], _settings({name: held[name] for name in names if name in held}), path.name, "")
    if path.exists():
        return Found(path, {}, path.name, "")
    asked = _HUB_ID.fullmatch(source)
    if asked is None or ".." in asked[1]:
        raise UsageError(f"{source}: no such file or folder, nor OWNER/NAME[@REVISION] of the Hub")

    def choose(held: Sequence[str]) -> list[str]:
        _require_weights(f"{source} on the Hub", held)
        return [name for name in (*names, WEIGHTS) if name in held]

    fetched = fetch_model(f"hub:{asked[1]}#{asked[2] or 'main'}", choose)
    there = {name: fetched.path / name for name in names if (fetched.path / name).is_file()}
    return Found(fetched.path / WEIGHTS, _settings(there), asked[1], fetched.commit)


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
      UsageError: if it is none, or not whole.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(9)
        if begin.startswith(_PICKLE_BYTES) and begin[8:] != b"{":  # where the header of safetensors begins
            raise _pickled(str(path))
        return load_file(path)
    except SafetensorError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: not a safetensors file, or cut short ({reason}): fetch it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _require_weights(where: str, names: Sequence[str]) -> None:
    if WEIGHTS in names:
        return
    pickles = [name for name in sorted(names) if name.endswith(_PICKLED)]
    if pickles:
        raise _pickled(f"{where}: {pickles[0]}")
    raise UsageError(f"{where}: holds no {WEIGHTS}")


def _pickled(where: str) -> UsageError:
    return UsageError(
        f"{where} is a pickle, which can run code when it is opened: give a safetensors file (docs/foreign.md says how "
        "to make one)"
    )


def _settings(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    return {name: configs.read_file(path) for name, path in paths.items()}
