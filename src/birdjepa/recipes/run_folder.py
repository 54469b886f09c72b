"""A run's folder: one process at a time, its configuration and where it came from, what it refused.

Shared by every job that trains: pretraining and fine-tuning differ in their configuration, not in this.
"""

import contextlib
import datetime
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from birdjepa.checkpoint import store
from birdjepa.checkpoint.store import Checkpoint
from birdjepa.core import config as configs
from birdjepa.core import failures, files, processes
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.core.failures import Failure
from birdjepa.core.provenance import provenance
from birdjepa.data.loader import Batches, batches, worker_errors
from birdjepa.data.manifest import Manifest
from birdjepa.train.loop import Judge, NonFinite, Trainer
from birdjepa.train.signals import StopSignal

T = TypeVar("T")
Say = Callable[[str], None]
LOCK = ".lock"
JOBS = "slurm"
"""What a cluster's jobs for this run leave, from before it began."""
_HALF_WRITTEN = re.compile(r"\..+\.(json|jsonl|csv|md|safetensors)\.[0-9a-f]{8}\.tmp")
"""What a killed process was writing (see core/files.py). The report's are left out: it is written without the lock."""


def begin(folder: Path, config: Any, found: dict[str, Any]) -> None:
    """Notes the configuration and the origin of a new run."""
    files.write_json(folder / "provenance.json", found)
    files.write_json(folder / "config.json", {"hash": configs.fingerprint(config), "config": configs.to_json(config)})


def read_config(kind: type[T] | tuple[type[T], ...], folder: Path) -> T:
    """Configuration of a run folder, of a kind or of one of several.

    Raises:
      UsageError: if the folder holds no run, or its configuration was edited.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no run here (no config.json); start one with --data DATA --out {folder}")
    parse = configs.one_of_json if isinstance(kind, tuple) else configs.from_json
    config: T = parse(kind, configs.read_file(path), where=str(path))  # pyright: ignore[reportArgumentType]
    if json.loads(path.read_text(encoding="utf-8")).get("hash") != configs.fingerprint(config):
        raise UsageError(f"{path}: was edited, so the run cannot go on; start a new one with --config {path} --out NEW")
    return config


def origin(n_threads: int, sources: Sequence[Manifest]) -> dict[str, Any]:
    """What a run's numbers depend on besides its configuration. Sets the threads that the run is to have, if any.

    Raises:
      UserError: if processes that train together find different data.
    """
    if n_threads:
        torch.set_num_threads(n_threads)
    data = {source.name: source.fingerprint() for source in sources}
    processes.here().require_equal("their data", data)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**provenance(), "started": started, "n_threads": torch.get_num_threads(), "data": data}


def compare_origin(folder: Path, now: dict[str, Any], say: Say) -> None:
    """Holds what a run began from against what is there now.

    Other data is refused; another machine or version is told, for the run will not be the same to the last bit.

    Raises:
      UsageError: naming the data that has changed.
    """
    before = configs.read_file(folder / "provenance.json")
    if before.get("data") != now["data"]:
        changed = configs.difference(before.get("data"), now["data"])
        raise UsageError(
            f"{folder}: cannot go on exactly, for the data has changed since the run began: {'; '.join(changed)}"
        )
    for name in ("packages", "cpu", "n_threads", "commit"):
        for line in configs.difference(before.get(name), now[name], where=name):
            say(f"not the same to the last bit any more: {line}")


def stop_early(signal: StopSignal, folder: Path, verb: str) -> None:
    """Ends a run that was asked to stop while it began, before it builds anything.

    Raises:
      Interrupted: the folder's state is as it was.
    """
    if processes.here().any(signal.received is not None):
        raise Interrupted(f"stopped before its first step; go on with: birdjepa {verb} --resume {folder}")


def train(
    trainer: Trainer, clips: Batches, config: Any, signal: StopSignal, say: Say, judge: Judge | None = None
) -> None:
    """Runs a trainer to its end; a step that is not finite is told with the recordings that it heard.

    Raises:
      Interrupted, UserError: as `Trainer.run`.
    """
    try:
        with worker_errors():
            feed = functools.partial(batches, clips)
            described = configs.to_json(config)
            trainer.run(feed, described, stop=signal.stop, say=say, judge=judge, fetches=clips.fetches)
    except NonFinite as error:
        heard = ", ".join(clips.path(number) for number in error.recordings[:4])
        text = f"{error}, or look at its {len(error.recordings)} recordings: {heard} ..."
        raise processes.everywhere(UserError(text)) from error


def write_refused(folder: Path, refused: dict[str, Failure]) -> None:
    """failures.csv, where there is anything to list."""
    if refused:
        failures.write(folder / failures.NAME, sorted(refused.values()))


@contextlib.contextmanager
def listing_refused(folder: Path, refused: dict[str, Failure]) -> Iterator[None]:
    """Writes failures.csv when the block ends, however it does. Where it ends badly and the list cannot be written
    either, the first error is the one to tell: the list is in the checkpoint too.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if processes.here().is_first:
                write_refused(folder, refused)
        raise
    if processes.here().is_first:
        write_refused(folder, refused)


def read_refused(folder: Path) -> dict[str, Failure]:
    """What `write_refused` listed, by path; nothing where there is no list."""
    return {each.path: each for each in failures.read(folder / failures.NAME)}


def require_free(folder: Path, config: Any) -> None:
    """Refuses a folder that holds anything but what a start leaves that was killed before it had noted its
    configuration, and a cluster's jobs; where it holds a run, says how that one differs.
    """
    if not folder.exists() or (folder.is_dir() and all(map(_is_beginning, folder.iterdir()))):
        return
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: exists already; choose another --out")
    saved = configs.read_file(folder / "config.json")
    differs = configs.difference(saved, configs.to_json(config))
    how = f"; what you ask for differs: {', '.join(differs[:3])}" if differs else ""
    raise UsageError(f"{folder}: holds a run already; go on with --resume {folder}, or choose another --out{how}")


def _is_beginning(path: Path) -> bool:
    return path.name in (LOCK, JOBS, "provenance.json") or _HALF_WRITTEN.fullmatch(path.name) is not None


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Refuses a second run on the same folder, and clears away what a killed one was writing; of several processes the
    first holds the lock.
    """
    with contextlib.ExitStack() as held:
        processes.here().first(lambda: _lock(folder, held))
        yield


def _lock(folder: Path, held: contextlib.ExitStack) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.try_lock(folder / LOCK)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made or written to ({error.strerror}); choose another --out") from None
    if lock is None:
        raise UsageError(f"{folder}: another process is running this run")
    held.enter_context(lock)
    for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink(missing_ok=True)
    if (folder / "checkpoints").is_dir():
        store.clear_leftovers(folder / "checkpoints")  # of a kill inside the last save, after which none comes


def newest(folder: Path, say: Say) -> Checkpoint | None:
    """The run's newest intact checkpoint; of several processes the first reads it and hands it out.

    Raises:
      CheckpointError: if there are some and none is intact.
    """
    own = processes.here()
    kept: list[Checkpoint | None] = []

    def read() -> Checkpoint | None:
        kept.append(store.latest(folder / "checkpoints", warn=say))
        return kept[0] and kept[0]._replace(tensors={})

    bare = own.first(read)
    if bare is None:
        return None
    return bare._replace(tensors=own.hand_out(kept[0].tensors if kept and kept[0] else None))
