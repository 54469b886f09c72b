"""What tools call label files, and what recordings they belong to by that."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from birdjepa.audio.decode import AUDIO_SUFFIXES

_ENDINGS = re.compile(
    r"((\.Table\.\d+)?\.selections?\.txt"
    r"|\.BirdNET\.selection\.table\.txt|\.BirdNET\.results(\.r)?\.(csv|txt)"
    r"|\.not\.mat|\.TextGrid|\.txt|\.csv|\.tsv|\.xml)$",
    re.IGNORECASE,
)
_SOUND_SUFFIXES = AUDIO_SUFFIXES | {".cbin"}
"""evTAF's recordings too: labels outlive the conversion of the sound."""


def is_label_file(name: str) -> bool:
    """Whether a file's name ends as one of the label files that are read."""
    return _ENDINGS.search(name) is not None


def labelled_name(name: str) -> str:
    """The recording's name by its label file's: "x" of x.Table.1.selections.txt, "x.wav" of x.wav.not.mat."""
    return _ENDINGS.sub("", name)


def without_suffix(name: str) -> str:
    """A recording's name without the suffix of a sound format; other dots stay."""
    return name[: -len(suffix)] if (suffix := PurePath(name).suffix).lower() in _SOUND_SUFFIXES else name


def label_names(keys: Sequence[str]) -> dict[str, Path]:
    """Where each recording's label files go, without their suffixes: the recording's own path without its suffix, or
    with it where two recordings differ in nothing else. No path leads out of the folder.
    """
    unique = list(dict.fromkeys(keys))
    inside = {key: _inside(key) for key in unique}
    short = Counter(path.with_suffix("") for path in inside.values())
    names = {key: path if short[path.with_suffix("")] > 1 else path.with_suffix("") for key, path in inside.items()}
    taken: set[Path] = set()
    for key, path in names.items():
        number, free = 2, path
        while free in taken:
            free, number = path.with_name(f"{path.name}-{number}"), number + 1
        taken.add(free)
        names[key] = free
    return names


def _inside(key: str) -> Path:
    path = PurePath(key)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return Path(*parts) if parts else Path("recording")
