"""Which files of a DeepSpeed checkpoint folder belong to a tag, and whether they are all there.

    D/latest                                              name of the newest tag
    D/TAG/mp_rank_00_model_states.pt                      ZeRO-0, 1, 2: the module, once
    D/TAG/zero_pp_rank_R_mp_rank_00_model_states.pt       ZeRO-3: one of each process
    D/TAG/[bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt  ZeRO-1, 2, 3: the float32 weights of each process

Nothing is guessed: a tag is a plain name of a folder in D, and nothing outside it is looked at. Links are not followed,
and scripts that DeepSpeed lays beside its tags are not run.
"""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from birdjepa.core.errors import UsageError

LATEST = "latest"
_SUFFIX = "_states.pt"
_MODULE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_MODULE_PART = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt")
_SHARD = re.compile(r"((?:bf16_|fp16_)?)zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_LONGEST_NAME = 255


class Layout(NamedTuple):
    """The files of one tag."""

    tag: str
    modules: tuple[Path, ...]
    """One, or with ZeRO-3 one of each process, in their order."""
    partitioned: bool
    """Whether they are ZeRO-3's."""
    shards: tuple[Path, ...]
    """Of each process, in their order; none with ZeRO-0."""


def find(ds_dir: Path, tag: str | None) -> Layout:
    """The files of a tag; of the one that `latest` names if none is given.

    Raises:
      UsageError: if there is no such tag, a file is missing between others, or files of several checkpoints are mixed.
    """
    if not ds_dir.is_dir():
        raise UsageError(f"{ds_dir}: no such folder")
    if tag is None:
        tag = _latest(ds_dir)
    elif not _plain(tag):
        raise UsageError(f"{tag!r} is no tag: a tag is the name of a folder in {ds_dir}; {_told(ds_dir)}")
    folder = ds_dir / tag
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link, which is not followed: give the folder that it leads to")
    if not folder.is_dir():
        raise UsageError(f"{ds_dir} has no tag {tag!r}; {_told(ds_dir)}")
    return _of_folder(folder)


def require_regular(file: Path) -> None:
    """Looks before opening: a pipe would block, a link may lead anywhere.

    Raises:
      UsageError: if file is anything but a regular file.
    """
    try:
        mode = os.lstat(file).st_mode
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder"}.get(stat.S_IFMT(mode), "a special file")
        raise UsageError(f"{file}: is {kind}, not a regular file: put the file itself there")


def _latest(ds_dir: Path) -> str:
    file = ds_dir / LATEST
    if not os.path.lexists(file):
        raise UsageError(f"{file} is missing, so no tag is the newest: give one by --tag; {_told(ds_dir)}")
    require_regular(file)
    with file.open("rb") as opened:
        text = opened.read(2 * _LONGEST_NAME)
    tag = text.decode("utf-8", "replace").strip()
    if not _plain(tag):
        raise UsageError(f"{file} says {tag[:80]!r}, which is no name of a folder: give --tag; {_told(ds_dir)}")
    if not (ds_dir / tag).is_dir():
        raise UsageError(f"{file} says {tag!r}, and there is no such folder: give --tag; {_told(ds_dir)}")
    return tag


def _plain(tag: str) -> bool:
    return (
        tag.isprintable() and 0 < len(tag) <= _LONGEST_NAME and tag not in (".", "..") and not re.search(r"[/\\]", tag)
    )


def _told(ds_dir: Path) -> str:
    """What tags there are, for a message."""
    if any(path.name.endswith(_SUFFIX) for path in ds_dir.iterdir()):
        whole = ds_dir.absolute()
        return f"it is itself the folder of a tag: give --ds-dir {whole.parent} --tag {whole.name}"
    there = sorted(path.name for path in ds_dir.iterdir() if path.is_dir() and any(path.glob(f"*{_SUFFIX}")))
    return f"there are {', '.join(there)}" if there else "it holds no checkpoint of DeepSpeed"


def _of_folder(folder: Path) -> Layout:
    modules: dict[int, Path] = {}
    parts: dict[int, Path] = {}
    shards: dict[int, Path] = {}
    prefixes: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(_SUFFIX):
            continue
        require_regular(path)
        if found := _MODULE.fullmatch(path.name):
            held, rank, parallel = modules, 0, found[1]
        elif found := _MODULE_PART.fullmatch(path.name):
            held, rank, parallel = parts, int(found[1]), found[2]
        elif found := _SHARD.fullmatch(path.name):
            held, rank, parallel = shards, int(found[2]), found[3]
            prefixes[found[1]] = path
        else:
            raise UsageError(
                f"{path}: of experts, of a pipeline or of somebody's own; only checkpoints of plain data-parallel "
                "training (ZeRO-0, 1, 2, 3) can be converted"
            )
        if int(parallel) != 0:
            raise UsageError(f"{path}: of model-parallel training (mp_rank_{parallel}), which cannot be converted")
        if rank in held:
            raise UsageError(f"{path}: stands beside {held[rank].name}, so two checkpoints are mixed here")
        held[rank] = path
    if not modules and not parts:
        raise UsageError(f"{folder}: mp_rank_00_model_states.pt is missing, and so is ZeRO-3's")
    if modules and parts:
        raise UsageError(
            f"{modules[0]}: stands beside {parts[min(parts)].name}, so ZeRO-3 and another stage are mixed here"
        )
    if len(prefixes) > 1:
        one, other, *_ = prefixes.values()
        raise UsageError(f"{one}: stands beside {other.name}, so two checkpoints are mixed here")
    for held in (parts, shards):
        _require_each(folder, held)
    return Layout(folder.name, _in_order(modules or parts), bool(parts), _in_order(shards))


def _require_each(folder: Path, held: dict[int, Path]) -> None:
    """No process's file is missing between others. How many there should be, only the files themselves know."""
    for rank in range(max(held, default=-1) + 1):
        if rank not in held:
            missing = re.sub(r"pp_rank_\d+", f"pp_rank_{rank}", held[max(held)].name)
            raise UsageError(f"{folder / missing} is missing")


def _in_order(held: dict[int, Path]) -> tuple[Path, ...]:
    return tuple(held[rank] for rank in sorted(held))
