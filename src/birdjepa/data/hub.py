"""Data sets of the Hugging Face Hub as DATA: hub:OWNER/NAME[:CONFIG][:SPLIT][#REVISION].

A data set is the list of its shards at one commit, whose hashes the Hub states: what is trained on cannot change under
a run. A branch or a tag becomes its commit when it is opened (`pinned` makes that last). Only huggingface_hub is used;
sound is decoded here, as bytes of encoded files, so that nothing else needs to be told to leave it alone.

What a shard holds is read without its sound where that can be done (Parquet: its footer and the columns of text), and
kept, one file for each shard; tars and Arrow files are fetched once for it.
"""

import functools
import io
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from birdjepa.core import files
from birdjepa.core.config import read_file
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.core.telling import tell, tenths
from birdjepa.data import hub_http, hub_layout, index
from birdjepa.data.hub_cache import HubFile, cache_folder
from birdjepa.data.index import ShardIndex
from birdjepa.data.manifest import ColumnConfig, Manifest

PREFIX = "hub:"
_FORM = "hub:OWNER/NAME[:CONFIG][:SPLIT][#REVISION]"
_DATA = re.compile(r"hub:([\w.-]+/[\w.-]+)((?::[^:#]+){0,2})(?:#(.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_READERS = 8
"""Shards whose tables of contents are read side by side."""


class Asked(NamedTuple):
    """DATA, taken apart, or a model."""

    repository: str
    parts: tuple[str, ...]
    """Configuration and split, as far as they are given."""
    revision: str
    kind: Literal["datasets", "models"] = "datasets"

    @property
    def name(self) -> str:
        return PREFIX + self.repository

    @property
    def folder(self) -> Path:
        """What the cache has of it."""
        models = "models--" if self.kind == "models" else ""
        return cache_folder() / f"{models}{self.repository.replace('/', '--')}"

    @property
    def address(self) -> str:
        """Where its files are."""
        return f"{hub_http.endpoint()}/{'' if self.kind == 'models' else 'datasets/'}{self.repository}"


class Commit(NamedTuple):
    """A repository as one commit has it."""

    asked: Asked
    sha: str
    files: Mapping[str, tuple[int, str]]
    """Size and hash of each file."""
    configs: Any
    """What the card has under `configs`."""

    @property
    def folder(self) -> Path:
        """What the cache has of it."""
        return self.asked.folder / self.sha

    def file(self, path: str) -> HubFile:
        n_bytes, digest = self.files[path]
        return HubFile(
            name=f"{self.asked.name}/{path}",
            url=f"{self.asked.address}/resolve/{self.sha}/{quote(path)}",
            cache=cache_folder(),
            place=(self.folder / "files" / path).relative_to(cache_folder()).as_posix(),
            n_bytes=n_bytes,
            digest=digest,
        )


def parse(data: str) -> Asked:
    """Takes DATA apart.

    Raises:
      UsageError: if it is none of the Hub.
    """
    found = _DATA.fullmatch(data)
    if found is None or ".." in found[1]:
        raise UsageError(f"{data}: is not {_FORM}")
    return Asked(found[1], tuple(found[2].split(":")[1:]), found[3] or "main")


def open_hub(data: str, columns: ColumnConfig) -> Manifest:
    """The manifest of a data set of the Hub.

    Raises:
      UserError: if it cannot be had, or holds nothing that can be read.
    """
    asked = parse(data)
    commit = find(asked)
    chosen = hub_layout.choose(asked.name, list(commit.files), commit.configs, asked.parts)
    if chosen.left_out:
        _tell(f"{data}: {len(chosen.left_out)} shards belong to no split or are of another kind: left out")
    pairs = [(path, split) for split, paths in chosen.splits.items() for path in paths]
    shards = [commit.file(path) for path, _ in pairs]
    keys, splits = [path for path, _ in pairs], [split for _, split in pairs]
    indexes = _indexes(data, commit, keys, shards, columns.audio)
    return index.manifest_of_shards(data, Path(asked.name), keys, shards, indexes, columns, splits=splits)


def pinned(data: str) -> str:
    """DATA with its revision as a commit.

    Raises:
      UserError: if the Hub does not tell it.
    """
    asked = parse(data)
    return f"{data.partition('#')[0]}#{find(asked).sha}"


def find(asked: Asked) -> Commit:
    """The commit of a revision: from the Hub, or as it was seen last where the network is forbidden.

    Raises:
      UserError: if it cannot be had.
    """
    folder = asked.folder
    seen = folder / "refs" / quote(asked.revision, safe="")
    if _COMMIT.fullmatch(asked.revision):
        sha = asked.revision
    elif hub_http.is_offline() and seen.is_file():
        sha = seen.read_text(encoding="utf-8").strip()
    else:
        sha = ""
    place = folder / sha / "commit.json"
    if sha and place.is_file():
        held = read_file(place)
        return Commit(asked, sha, {path: (each[0], each[1]) for path, each in held["files"].items()}, held["configs"])
    api = f"{hub_http.endpoint()}/api/{asked.kind}/{asked.repository}"
    url = f"{api}/revision/{quote(asked.revision, safe='')}?blobs=true"
    told = hub_http.read_json(url, f"{asked.name}#{asked.revision}")
    commit = _commit(asked, told)
    held = {"files": commit.files, "configs": commit.configs}
    files.write_json(commit.folder / "commit.json", held)
    if commit.sha != asked.revision:
        files.write_text(seen, commit.sha)
    return commit


def _commit(asked: Asked, told: Mapping[str, Any]) -> Commit:
    """What the Hub says of a repository."""
    found = {}
    try:
        for each in told["siblings"]:
            large = each.get("lfs")
            digest = f"sha256:{large['sha256']}" if large else f"git:{each['blobId']}"
            found[_plain(each["rfilename"])] = (int(each["size"]), digest)
        sha = told["sha"]
        if not _COMMIT.fullmatch(sha):
            raise ValueError(f"commit {sha!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{asked.name}: the Hub's description of it cannot be read ({error!r:.100})") from None
    return Commit(asked, sha, found, (told.get("cardData") or {}).get("configs"))


def _plain(path: str) -> str:
    """A file's path, which becomes one in the cache."""
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
        raise ValueError(f"path {path!r}")
    return path


def _indexes(data: str, commit: Commit, keys: list[str], shards: list[HubFile], audio: str) -> list[ShardIndex]:
    """What each shard holds. Processes that train together begin at different shards, and share what they find."""
    places = [commit.folder / "index" / f"{quote(key, safe='')}@{quote(audio, safe='')}.parquet" for key in keys]
    missing = [number for number, place in enumerate(places) if not place.is_file()]
    found: dict[int, ShardIndex] = {}
    say = tenths(_tell, f"shards of {data} looked into") if len(missing) >= 20 else None
    if missing:
        n_bytes = sum(shards[number].n_bytes for number in missing)
        is_parquet = all(keys[number].lower().endswith(".parquet") for number in missing)
        how = "without its sound" if is_parquet else "for which they are fetched, once"
        _tell(f"{data}: looking what is in {len(missing)} shards of {n_bytes / 1e9:.3g} GB, {how}")
        rank, world = int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))
        first = rank * len(missing) // world
        order = missing[first:] + missing[:first]
        with ThreadPoolExecutor(_READERS if is_parquet else 2) as pool:
            made = pool.map(lambda n: index.kept(places[n], functools.partial(_look, shards[n], audio)), order)
            for done, (number, each) in enumerate(zip(order, made, strict=True), start=1):
                found[number] = each
                if say:
                    say(done, len(order))
    return [
        found.get(number) or index.kept(places[number], functools.partial(_look, shard, audio))
        for number, shard in enumerate(shards)
    ]


def _look(shard: HubFile, audio: str) -> ShardIndex:
    """What a shard holds."""
    if shard.path.suffix.lower() != ".parquet" or shard.path.exists():
        return index.read_shard(shard.local(), audio)
    try:
        with _Ranges(shard) as source:
            return index.read_table(source, shard.name, audio)
    except LabelError as error:
        raise LabelError(shard.name, 0.0, error.reason) from None


class _Ranges(io.RawIOBase):
    """A file of the Hub as one that is open here: what is read of it is fetched."""

    def __init__(self, file: HubFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.n_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        n_bytes = min(len(buffer), self._file.n_bytes - self._at)
        if n_bytes <= 0:
            return 0
        buffer[:n_bytes] = hub_http.read(self._file.url, self._file.name, self._at, self._at + n_bytes - 1)
        self._at += n_bytes
        return n_bytes


def _tell(text: str) -> None:
    """For all processes of a run the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        tell(text)
