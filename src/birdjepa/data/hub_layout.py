"""Which files of a Hub repository are which split of which configuration.

The card's `configs` decide where it has them; else names do, by the Hub's conventions, as in
data/train-00000-of-00005.parquet: a split's name in a folder's name, then in a file's name, and one split "train" where
there is none. Folders that hold splits of their own (as the Hub's Parquet copies have them) are configurations.
"""

import collections
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.core.errors import UsageError
from birdjepa.data.shards import SHARD_SUFFIXES

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What a split is called in names of files and folders."""
_NUMBERED = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_EDGE = r"[-._ 0-9]"
_PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".tgz", ".rar")


class Chosen(NamedTuple):
    """The shards that were asked for."""

    splits: dict[str, list[str]]
    """Paths by split."""
    left_out: tuple[str, ...]
    """Shards of the repository's configuration that no split takes, or that are of another kind than most."""


def choose(name: str, paths: Sequence[str], configs: Any, asked: Sequence[str]) -> Chosen:
    """The shards of a configuration and a split.

    Args:
      name: hub:OWNER/NAME, for messages.
      paths: all files of the repository.
      configs: what the card has under `configs`.
      asked: [], [a configuration, or a split of the default one], or [a configuration, a split].

    Raises:
      UsageError: if there is nothing of the kind, saying what there is.
    """
    if not _shards(paths):
        raise UsageError(f"{name}: {_instead(name, paths)}")
    config, split = _which(name, paths, configs, asked)
    splits, others = _of_config(name, paths, config)
    if split is not None:
        wanted = split if split in splits else next((key for key, words in SPLITS.items() if split in words), split)
        if wanted not in splits:
            other = f"; configurations: {', '.join(there)}" if len(there := _named(name, paths, configs)) > 1 else ""
            raise UsageError(f"{name}: has no split {split!r}; it has {', '.join(splits)}{other}")
        splits = {wanted: splits[wanted]}
    kinds = collections.Counter(_suffix(path) for found in splits.values() for path in found)
    kind = kinds.most_common(1)[0][0]
    others += [path for found in splits.values() for path in found if _suffix(path) != kind]
    kept = {key: [path for path in found if _suffix(path) == kind] for key, found in splits.items()}
    return Chosen({key: found for key, found in kept.items() if found}, tuple(sorted(set(others))))


def _which(name: str, paths: Sequence[str], configs: Any, asked: Sequence[str]) -> tuple[Mapping[str, Any], str | None]:
    """The configuration that is asked for, and the split, if one is."""
    named = _named(name, paths, configs)
    if len(asked) == 2:
        if asked[0] not in named:
            there = ", ".join(named) or "none"
            raise UsageError(f"{name}: has no configuration {asked[0]!r}; it has {there}")
        return named[asked[0]], asked[1]
    if asked and asked[0] in named:
        return named[asked[0]], None
    default = [key for key, each in named.items() if len(named) == 1 or key == "default" or each.get("default")]
    if not default and named:
        what = f"no configuration {asked[0]!r}" if asked else "several configurations"
        raise UsageError(f"{name}: has {what}; name one of {', '.join(named)}, as in {name}:{next(iter(named))}")
    return (named[default[0]] if default else {}), (asked[0] if asked else None)


def _named(name: str, paths: Sequence[str], configs: Any) -> dict[str, Mapping[str, Any]]:
    """Configurations by their names; none where all of the repository is one."""
    if configs:
        if not isinstance(configs, list) or not all(isinstance(c, dict) and "config_name" in c for c in configs):
            raise UsageError(f"{name}: its card's `configs` are no list with config_names: {configs!r:.200}")
        return {str(each["config_name"]): each for each in configs}
    folders: dict[str, list[str]] = {}
    for path in _shards(paths):
        folders.setdefault(path.split("/")[0] if "/" in path else "", []).append(path)
    if any(folder in ("", "data") or _split_in(folder, whole=True) for folder in folders):
        return {}
    inner = {folder: [path.partition("/")[2] for path in held] for folder, held in folders.items()}
    if not all(_by_name(held) for held in inner.values()):
        return {}
    return {folder: {"data_dir": folder} for folder in folders}


def _of_config(name: str, paths: Sequence[str], config: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """Shards by split, and those that no split takes."""
    folder = str(config.get("data_dir") or "").removeprefix("./").strip("/")
    inside = [path for path in paths if not folder or path.startswith(f"{folder}/")]
    start = len(folder) + 1 if folder else 0
    if config.get("data_files") is None:
        shards = _shards(inside)
        named = _by_name([path[start:] for path in shards]) or {"train": [path[start:] for path in shards]}
        before = f"{folder}/" if folder else ""
        splits = {split: [before + path for path in held] for split, held in named.items()}
        taken = {path for held in splits.values() for path in held}
        left = [path for path in shards if path not in taken]
    else:
        splits, left = {}, []
        for split, patterns in _patterns(name, config["data_files"]).items():
            matched = [path for pattern in patterns for path in _matching(inside, start, pattern)]
            splits[split] = list(dict.fromkeys(_shards(matched, explicit=True)))
            if not splits[split]:
                what = _instead(name, matched) if matched else "the repository has no such files"
                raise UsageError(f"{name}: nothing for split {split!r} ({', '.join(patterns)}): {what}")
    if not any(splits.values()):
        raise UsageError(f"{name}: no shards ({', '.join(SHARD_SUFFIXES)}) in {folder or 'it'}")
    return splits, left


def _patterns(name: str, files: Any) -> dict[str, list[str]]:
    """data_files of a card as patterns by split."""
    if isinstance(files, list) and files and all(isinstance(each, dict) for each in files):
        pairs = [(each.get("split"), each.get("path")) for each in files]
    elif isinstance(files, dict):
        pairs = list(files.items())
    else:
        pairs = [("train", files)]
    patterns = {str(split): [paths] if isinstance(paths, str) else paths for split, paths in pairs if split}
    for paths in patterns.values():
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise UsageError(f"{name}: its card's data_files make no sense here: {files!r:.200}")
        if any("://" in path for path in paths):
            raise UsageError(f"{name}: its card's data_files lie outside the repository: {', '.join(paths)}")
    if not patterns or len(patterns) < len(pairs):
        raise UsageError(f"{name}: its card's data_files name no split, or one twice: {files!r:.200}")
    return patterns


def _matching(paths: Sequence[str], start: int, pattern: str) -> list[str]:
    """Files that a pattern of the shell matches, ** any folders too; hidden ones only where it names them."""
    pattern = pattern.removeprefix("./")
    wanted = _glob(pattern)
    shown = pattern.startswith((".", "__")) or "/." in pattern or "/__" in pattern
    return sorted(p for p in paths if wanted.fullmatch(p[start:]) and (shown or not _hidden(p[start:])))


def _glob(pattern: str) -> re.Pattern[str]:
    made, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            made, at = f"{made}(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            made, at = f"{made}.*", at + 2
        elif pattern[at] in "*?":
            made, at = made + {"*": "[^/]*", "?": "[^/]"}[pattern[at]], at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", r"\\")
            made, at = f"{made}[{'^' + inner[1:] if inner[0] == '!' else inner}]", end + 1
        else:
            made, at = made + re.escape(pattern[at]), at + 1
    return re.compile(made)


def _by_name(shards: Sequence[str]) -> dict[str, list[str]]:
    """Shards by the split that their names tell; nothing where they tell none."""
    numbered: dict[str, list[str]] = {}
    for path in shards:
        if found := _NUMBERED.fullmatch(path):
            numbered.setdefault(found[1], []).append(path)
    if numbered:
        order = [*SPLITS, *sorted(numbered.keys() - SPLITS.keys())]
        return {split: numbered[split] for split in order if split in numbered}
    for told_by in (_folder_split, _file_split):
        found = {split: [path for path in shards if told_by(path) == split] for split in SPLITS}
        if any(found.values()):
            return {split: held for split, held in found.items() if held}
    return {}


def _folder_split(path: str) -> str | None:
    """The split that the innermost folder tells which tells one."""
    return next((split for part in reversed(path.split("/")[:-1]) if (split := _split_in(part, whole=True))), None)


def _file_split(path: str) -> str | None:
    return _split_in(path.rpartition("/")[2], whole=False)


def _split_in(text: str, *, whole: bool) -> str | None:
    """The split in a name; unless whole, something must follow it there."""
    for split, words in SPLITS.items():
        for word in words:
            if re.search(f"(?:^|{_EDGE}){word}(?:{_EDGE}{'|$' if whole else ''})", text):
                return split
    return None


def _shards(paths: Sequence[str], *, explicit: bool = False) -> list[str]:
    found = [path for path in paths if _suffix(path) in SHARD_SUFFIXES and (explicit or not _hidden(path))]
    return found if explicit else sorted(found)


def _hidden(path: str) -> bool:
    return any(part.startswith((".", "__")) for part in path.split("/"))


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _instead(name: str, paths: Sequence[str]) -> str:
    """What a repository without shards holds, and what can be done about it."""
    repository = name.removeprefix("hub:")
    by_hand = f"download it with `hf download {repository} --repo-type dataset --local-dir FOLDER` and give"
    kinds = collections.Counter(_suffix(path) for path in paths)
    scripts = [path for path in paths if path == f"{repository.rpartition('/')[2]}.py"]
    heard = sum(n for kind, n in kinds.items() if kind in AUDIO_SUFFIXES)
    packed = [kind for kind in kinds if kind in _PACKED]
    if heard:
        return f"holds {heard} recordings as files of their own, not shards: {by_hand} FOLDER or its metadata.csv"
    if scripts:
        return (
            f"is made by a script ({scripts[0]}), which is not run: give the Hub's own copy, if it has one, as "
            f"{name}#refs/convert/parquet"
        )
    if packed:
        return f"holds compressed archives ({', '.join(packed)}): {by_hand} FOLDER once they are unpacked"
    there = ", ".join(f"{n} {kind or 'without suffix'}" for kind, n in kinds.most_common(5))
    return f"no shards ({', '.join(SHARD_SUFFIXES)}) in it; it holds {there or 'nothing'}"
