"""Models of the Hugging Face Hub: hub:OWNER/NAME[#REVISION], and single files hub:OWNER/NAME/PATH[#REVISION].

They come the way that data sets do (`hub`): the files of one commit, compared with the hashes that the Hub states, in
the cache below HF_HOME. Nothing in a repository is run.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from birdjepa.core.errors import UsageError
from birdjepa.data.hub import PREFIX, Asked, find

_MODEL = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:/([^#]+))?(?:#(.+))?")


class Fetched(NamedTuple):
    """Files of a model on this machine."""

    path: Path
    """Folder of the repository's files, or the one file."""
    commit: str
    """40 hex digits; empty for what did not come from the Hub."""


def is_hub(name: str) -> bool:
    """Whether a name is one of the Hub rather than a path."""
    return name.startswith(PREFIX)


def fetch_model(name: str, choose: Callable[[Sequence[str]], Sequence[str]]) -> Fetched:
    """The folder of a repository of models, with the files in it that `choose` takes from their list.

    Raises:
      UserError: if the name is none, the Hub does not give them, or none is chosen.
    """
    repository, path, revision = _parse(name)
    if path:
        raise UsageError(f"{name}: give a repository, hub:OWNER/NAME[#REVISION], without a file")
    commit = find(Asked(repository, (), revision, "models"))
    chosen = choose(list(commit.files))
    if not chosen:
        raise UsageError(f"{name}: holds none of the files that are needed; it has {', '.join(commit.files) or 'none'}")
    for each in chosen:
        commit.file(each).local()
    return Fetched(commit.folder / "files", commit.sha)


def fetch_file(name: str) -> Fetched:
    """A file: hub:OWNER/NAME/PATH[#REVISION], or a path on this machine.

    Raises:
      UserError: if there is no such file, or the Hub does not give it.
    """
    if not is_hub(name):
        if not Path(name).is_file():
            raise UsageError(f"{name}: no such file; give a path or hub:OWNER/NAME/PATH[#REVISION]")
        return Fetched(Path(name), "")
    repository, path, revision = _parse(name)
    if not path:
        raise UsageError(f"{name}: give a file of the repository, hub:OWNER/NAME/PATH[#REVISION]")
    commit = find(Asked(repository, (), revision, "models"))
    if path not in commit.files:
        raise UsageError(f"{name}: the repository has no {path}; it has {', '.join(commit.files) or 'no files'}")
    return Fetched(commit.file(path).local(), commit.sha)


def _parse(name: str) -> tuple[str, str, str]:
    """Repository, path of a file in it or "", revision."""
    found = _MODEL.fullmatch(name)
    if found is None or ".." in name:
        raise UsageError(f"{name}: is not hub:OWNER/NAME[/PATH][#REVISION]")
    return found[1], found[2] or "", found[3] or "main"
