"""Frozen features, computed once for each (model, examples, layer) and kept: classifiers, shots and seeds share them.

Each item (a layer's pooled embeddings, tokens, logits) is an array of its own in the cache, a memory map with a row for
each example, found by the hash of what is heard and by whom. One pass over the recordings computes all items that are
missing; it can be killed at any moment and goes on from the last rows that were written and synced. Jobs that want
the same item at the same time wait for the one that began.

Axes: n examples | e pooled embedding | t tokens | d width of a token | c classes of the model
"""

import collections
import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.format import open_memmap

from birdjepa.audio.decode import probe, read_clip
from birdjepa.benchmark.backbones.base import Backbone, Heard, Want
from birdjepa.benchmark.classifiers.base import Features
from birdjepa.benchmark.tasks.base import Examples
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import AudioError, InputError, Interrupted, StorageError, UserError
from birdjepa.core.failures import Failure

LONGEST_S = 60.0
"""Of an example that is a whole recording, so much is heard at most."""
SYNC_S = 20.0
FORMAT = 1
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How features are computed. Changes speed, never a number."""

    batch_size: int = 16
    """Examples that a model hears together."""
    n_readers: int = 2
    """Threads that decode ahead."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.n_readers < 1:
            raise ValueError(f"batch_size and n_readers must be positive, got {self.batch_size}, {self.n_readers}")


@dataclasses.dataclass(frozen=True, eq=False)
class Extracted:
    """Features of all examples of a task."""

    pooled: dict[int, Float[np.ndarray, "n e"]]
    """By layer, 1 to n_layers."""
    tokens: Float[np.ndarray, "n t d"] | None
    """float16, of the last layer asked for."""
    real: Bool[np.ndarray, "n t"] | None
    logits: Float[np.ndarray, "n c"] | None
    heard: Bool[np.ndarray, " n"]
    """False for examples whose recording could not be read: their rows are zeros."""
    refused: tuple[Failure, ...]

    def features(self, layer: int, *, tokens: bool) -> Features:
        """What a classifier learns from."""
        if tokens:
            return Features(tokens=self.tokens, real=self.real)
        return Features(pooled=self.pooled[layer])


class _Item(NamedTuple):
    """One array of the cache."""

    folder: Path
    kind: str
    """pooled, tokens or logits."""
    layer: int

    @property
    def progress(self) -> dict[str, Any]:
        path = self.folder / "progress.json"
        return json.loads(path.read_text()) if path.exists() else {"done": 0, "refused": []}


def extract(
    backbone: Backbone,
    examples: Examples,
    *,
    layers: Sequence[int],
    tokens: bool,
    logits: bool,
    cache: Path,
    config: ExtractConfig,
    say: Say,
    stop: Callable[[], bool] = lambda: False,
) -> Extracted:
    """Features from the cache; what is not there is computed and kept. Tokens are those of the highest layer.

    Raises:
      StorageError: if the cache's disk has no room for it.
      Interrupted: `stop` said so; what was computed is kept.
      UserError: if no recording can be read.
    """
    heard_by = {"heard": examples.heard(), "model": backbone.identity, "format": FORMAT}
    top = max(layers)

    def item(kind: str, layer: int) -> _Item:
        name = configs.fingerprint({**heard_by, "kind": kind, "layer": layer})
        return _Item(cache / name[:2] / name, kind, layer)

    items = [item("pooled", layer) for layer in layers]
    items += [item("tokens", top)] * tokens + [item("logits", 0)] * logits
    with contextlib.ExitStack() as stack:
        for each in sorted(items):
            stack.enter_context(_only_one(each.folder, say))
        missing = [each for each in items if each.progress["done"] < len(examples)]
        if missing:
            _compute(backbone, examples, missing, heard_by, config, say, stop)
    return _open(items, len(examples))


def _compute(
    backbone: Backbone,
    examples: Examples,
    items: list[_Item],
    heard_by: dict[str, Any],
    config: ExtractConfig,
    say: Say,
    stop: Callable[[], bool],
) -> None:
    behind = min((each.progress for each in items), key=lambda each: each["done"])
    begin, refused = behind["done"], behind["refused"]
    want = Want(
        layers=tuple(sorted({each.layer for each in items if each.kind != "logits"})),
        tokens=any(each.kind == "tokens" for each in items),
        logits=any(each.kind == "logits" for each in items),
    )
    n, what, rate = len(examples), f"examples heard by {backbone.card.name}", backbone.card.sampling_rate
    say(f"{n - begin} of {n} {what} are not kept yet: computing")
    n_tokens = _most_tokens(backbone, examples, want) if want.tokens else 0
    arrays: dict[_Item, np.memmap] = {}
    flags: dict[_Item, np.memmap] = {}
    """Which tokens are real, of the items that hold tokens."""
    began = spoken = synced = time.monotonic()
    with contextlib.closing(read_ahead(rate, examples, config, np.arange(begin, n))) as batches:
        for places, waves, errors in batches:
            rows, errors = [begin + each for each in places], [(begin + each, error) for each, error in errors]
            refused += [[row, error.path, error.offset_s, error.reason] for row, error in errors]
            if waves:
                names = [examples.ids[row] for row in rows]
                found = backbone.embed(waves, want, sampling_rate=rate, names=names, batch_size=config.batch_size)
                for each in items:
                    values = _values(found, each, want, n_tokens)
                    if each not in arrays:
                        arrays[each] = _array(each, (n, *values.shape[1:]), values.dtype, heard_by)
                    arrays[each][rows] = values
                    if each.kind == "tokens":
                        assert found.real is not None
                        if each not in flags:
                            flags[each] = _opened(each, "real.npy", (n, n_tokens), np.dtype(bool))
                        flags[each][rows] = _padded(found.real.numpy(), n_tokens)
            done = 1 + max([*rows, *(row for row, _ in errors)])
            now = time.monotonic()
            if now - spoken > SYNC_S:
                a_second = (done - begin) / (now - began)
                minutes = (n - done) / max(a_second, 1e-9) / 60
                say(f"{done} of {n} {what}, {a_second:.1f} a second, {minutes:.0f} minutes left")
                spoken = now
            stopped = stop()
            if now - synced > SYNC_S or done == n or stopped:
                _sync(items, arrays, flags, done, refused)
                synced = now
            if stopped and done < n:
                raise Interrupted(f"stopped with {done} of {n} {what} kept; the same command goes on")
    if not arrays and begin == 0:
        raise UserError(f"none of {n} recordings could be read; the first: {refused[0][1]}: {refused[0][3]}")


def _values(found: Heard, item: _Item, want: Want, n_tokens: int) -> np.ndarray:
    """Rows of an item's array."""
    if item.kind == "pooled":
        return found.pooled[want.layers.index(item.layer)].numpy()
    if item.kind == "logits":
        assert found.logits is not None
        return found.logits.numpy()
    assert found.tokens is not None
    return _padded(found.tokens.numpy().astype(np.float16), n_tokens)


def _padded(values: np.ndarray, n_tokens: int) -> np.ndarray:
    """Filled up to n_tokens along axis 1 with zeros (False)."""
    missing = n_tokens - values.shape[1]
    return np.pad(values, [(0, 0), (0, missing), *([(0, 0)] * (values.ndim - 2))])


def _most_tokens(backbone: Backbone, examples: Examples, want: Want) -> int:
    """Tokens of the longest example."""
    longest = float(np.nanmax(examples.length_s)) if not np.isnan(examples.length_s).all() else 0.0
    for index in np.flatnonzero(np.isnan(examples.length_s)):
        row = int(examples.row[index])
        with contextlib.suppress(AudioError):
            longest = max(longest, probe(examples.manifest.source(row)).duration_s - examples.onset_s[index])
    silence = np.zeros(round(min(longest, LONGEST_S) * backbone.card.sampling_rate), dtype=np.float32)
    rate = backbone.card.sampling_rate
    tokens = backbone.embed([silence], want._replace(logits=False), sampling_rate=rate).tokens
    assert tokens is not None
    return tokens.shape[1]


def _array(item: _Item, shape: tuple[int, ...], dtype: np.dtype, heard_by: dict[str, Any]) -> np.memmap:
    """The item's values to write to.

    Raises:
      StorageError: if the disk has no room for them.
    """
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    if not item.progress["done"]:
        if n_bytes > 0.95 * shutil.disk_usage(item.folder).free:
            room = files.free_bytes(item.folder)
            raise StorageError(
                f"{item.folder}: {item.kind} of {shape[0]} examples need {n_bytes:,} bytes, and {room} are free; "
                "name another --cache"
            )
        files.write_json(item.folder / "of.json", {**heard_by, "kind": item.kind, "layer": item.layer})
    return _opened(item, "values.npy", shape, dtype)


def _opened(item: _Item, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    """An array of the item: the one that is there if rows of it are done, else a new one."""
    path = item.folder / name
    if item.progress["done"] and path.exists():
        return open_memmap(path, mode="r+")
    return open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _sync(
    items: Sequence[_Item],
    arrays: dict[_Item, np.memmap],
    flags: dict[_Item, np.memmap],
    done: int,
    refused: list[list[Any]],
) -> None:
    """Rows reach the disk before anything says that they are there."""
    for array in (*arrays.values(), *flags.values()):
        array.flush()
    for each in items:
        if each in arrays or each.progress["done"]:
            files.write_json(each.folder / "progress.json", {"done": done, "refused": refused})


def _open(items: Sequence[_Item], n: int) -> Extracted:
    pooled: dict[int, np.ndarray] = {}
    tokens = real = logits = None
    refused: list[list[Any]] = []
    for each in items:
        values = np.load(each.folder / "values.npy", mmap_mode="r")
        refused = each.progress["refused"]
        if each.kind == "pooled":
            pooled[each.layer] = values
        elif each.kind == "logits":
            logits = values
        else:
            tokens, real = values, np.load(each.folder / "real.npy", mmap_mode="r")
    heard = np.ones(n, dtype=bool)
    heard[[row for row, *_ in refused]] = False
    failed = tuple(Failure(path, "decode", offset_s, reason) for _, path, offset_s, reason in refused)
    return Extracted(pooled, tokens, real, logits, heard, failed)


ReadBatch = tuple[list[int], list[Float[np.ndarray, " _"]], list[tuple[int, InputError]]]


def read_ahead(
    sampling_rate: int, examples: Examples, config: ExtractConfig, wanted: Int[np.ndarray, " k"]
) -> Generator[ReadBatch, None, None]:
    """Batches of the wanted examples in order: places among the wanted of those that could be read, their samples, and
    places and errors of the others.
    """

    def read(index: int) -> Float[np.ndarray, " _"] | InputError:
        length = float(examples.length_s[index])
        try:
            source = examples.manifest.fetched_source(int(examples.row[index]))
            wanted_s = LONGEST_S if np.isnan(length) else min(length, LONGEST_S)
            onset_s = float(examples.onset_s[index])
            samples = read_clip(source, sampling_rate, offset_s=onset_s, duration_s=wanted_s)
            return samples if len(samples) else AudioError(str(source), onset_s, "too short: nothing to hear")
        except InputError as error:
            return error

    pending = iter(enumerate(wanted.tolist()))
    waiting: collections.deque[tuple[int, Future[Any]]] = collections.deque()
    with ThreadPoolExecutor(config.n_readers, thread_name_prefix="birdjepa-read") as pool:
        try:
            batch: ReadBatch = ([], [], [])
            while True:
                while len(waiting) < 2 * config.batch_size and (following := next(pending, None)) is not None:
                    waiting.append((following[0], pool.submit(read, following[1])))
                if not waiting:
                    break
                place, future = waiting.popleft()
                result = future.result()
                if isinstance(result, InputError):
                    batch[2].append((place, result))
                else:
                    batch[0].append(place)
                    batch[1].append(result)
                if len(batch[0]) + len(batch[2]) == config.batch_size:
                    yield batch
                    batch = ([], [], [])
            if batch[0] or batch[2]:
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _only_one(folder: Path, say: Say) -> Iterator[None]:
    """Waits until no other process works on this item."""
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while (lock := files.try_lock(folder / ".lock")) is None:
        if not told:
            say(f"waiting: another process computes the same features ({folder})")
        told = True
        time.sleep(0.5)
    with lock:
        yield
