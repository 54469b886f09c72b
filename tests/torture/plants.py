"""What is planted in an attempt before it runs: signs of where it is, faults around it, faults of the product.

Each replaces a function of birdjepa in the forked child alone. Faults around it (a full disk, a dying worker, a number
that is none) must be survived; faults of the product must be noticed by the trials.
"""

import ctypes
import errno
import mmap
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from attempts import BOARD, MARK, PHASES
from torch.utils.data import get_worker_info

from birdjepa.checkpoint import manifest, store
from birdjepa.core.errors import UserError
from birdjepa.data.loader import Clips
from birdjepa.objectives.base import Objective
from birdjepa.optim.ema import Ema
from birdjepa.recipes import pretrain
from birdjepa.train import loop, sinks
from birdjepa.train.saving import Saves
from birdjepa.train.signals import StopSignal
from birdjepa.train.state import TrainState
from birdjepa.train.watchdog import Watchdog

_entered: dict[str, int] = dict.fromkeys(PHASES, 0)
_on_entry: list[Callable[[str, int], None]] = []


def show_phases(path: str) -> None:
    """Shows on a board in shared memory what the attempt is at, which outlives its death."""
    with open(path, "r+b") as file:
        board = mmap.mmap(file.fileno(), BOARD.size)

    def show(place: int, value: int) -> None:
        board[8 * place : 8 * place + 8] = struct.pack("<q", value)

    def wrap(owner: Any, name: str, phase: str, after: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            _entered[phase] += 1
            show(1 + PHASES.index(phase), _entered[phase])
            show(0, PHASES.index(phase))
            for call in _on_entry:
                call(phase, _entered[phase])
            try:
                value = inner(*args, **kwargs)
                if phase == "save":
                    show(1 + len(PHASES), args[1])
                return value
            finally:
                os.path.exists(f"{MARK}-{phase}")  # to be seen in a trace
                show(0, PHASES.index(after))

        setattr(owner, name, wrapped)

    wrap(store, "latest", "restore", "start-up")
    wrap(loop.Trainer, "update", "step", "step")
    wrap(store, "save", "save", "step")
    wrap(pretrain, "export", "export", "export")


def hold(phase: str, n: int) -> None:
    """Stops the attempt where it enters the phase for the n-th time, until it is told to go on."""

    def stop(entered: str, number: int) -> None:
        if (entered, number) == (phase, n):
            os.kill(os.getpid(), signal.SIGSTOP)

    if phase == "start-up":
        os.kill(os.getpid(), signal.SIGSTOP)
    _on_entry.append(stop)


def slow(seconds: float) -> None:
    """Makes each step last."""
    _on_entry.append(lambda phase, _: time.sleep(seconds) if phase == "step" else None)


def quick_watchdog(seconds: float) -> None:
    defaults = Watchdog.__init__.__kwdefaults__
    assert defaults is not None
    defaults.update(least_s=seconds, tick_s=0.1)


# ---- storage


def small_files(first: int, last: int, n_bytes: int) -> None:
    """From the first to the last entry of a save no file may grow beyond n_bytes: what a quota does."""

    def limit(phase: str, n: int) -> None:
        if phase == "save":
            soft = n_bytes if first <= n <= last else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    _on_entry.append(limit)


def no_rows(first: int, last: int) -> None:
    """From the first to the last step the disk takes no bytes that are written to open files."""
    write, full = os.write, [False]

    def limit(phase: str, n: int) -> None:
        if phase == "step":
            full[0] = first <= n <= last

    def maybe(file: int, data: bytes) -> int:
        if full[0] and file > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    _on_entry.append(limit)
    os.write = maybe


# ---- workers


def _in_worker(number: int, fail: Callable[[], object]) -> None:
    """Fails where a worker process makes the batch of that number."""
    inner = Clips.__getitem__

    def get(self: Clips, index: int) -> Any:
        if index == number and get_worker_info() is not None:
            return fail()
        return inner(self, index)

    Clips.__getitem__ = get


def _kill_holding_the_lock() -> None:
    """Dies with the lock of torch's event that ends the workers: the moment of microseconds that no kill hits twice."""
    frame = sys._getframe()
    while frame is not None and "done_event" not in frame.f_locals:
        frame = frame.f_back
    assert frame is not None
    frame.f_locals["done_event"]._cond.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


class _Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot be sent")


def _raise_unpicklable() -> None:
    raise _Unpicklable("of a library in the worker")


def _segfault() -> None:
    ctypes.string_at(0)


WORKER_FAULTS: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": _segfault,
    "os._exit(0)": lambda: os._exit(0),
    "os._exit(3)": lambda: os._exit(3),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "endless loop": lambda: [None for _ in iter(int, 1)],
    "exception that does not pickle": _raise_unpicklable,
    "item that does not pickle": lambda: lambda: None,
    "killed with torch's lock": _kill_holding_the_lock,
}


def worker(fault: str, number: int) -> None:
    _in_worker(number, WORKER_FAULTS[fault])


# ---- numbers


def poison(where: str, step: int, value: float) -> None:
    """A number that is none, or absurd, in the loss, one gradient or the averaged weights of a step (from 0)."""
    now = [-1]
    update = loop.Trainer.update

    def noted(self: loop.Trainer, batches: Any) -> Any:
        now[0] = self.state.step
        return update(self, batches)

    loop.Trainer.update = noted
    if where == "averaged weights":
        average = Ema.update

        def bad(self: Ema, encoder: Any) -> None:
            average(self, encoder)
            if now[0] == step:
                with torch.no_grad():
                    next(iter(self.state_dict().values())).view(-1)[0] = value

        Ema.update = bad
        return
    call = Objective.__call__

    def poisoned(self: Objective, *args: Any, **kwargs: Any) -> Any:
        output = call(self, *args, **kwargs)
        if now[0] != step:
            return output
        if where == "loss":
            return output._replace(loss=output.loss * value)
        weight = self.encoder.vit.embed.weight
        handle = weight.register_hook(lambda gradient: (handle.remove(), gradient * value)[1])
        return output

    Objective.__call__ = poisoned


# ---- faults of the product, each of which some check must notice


def _write_in_place(temporary: Any, target: Any) -> None:
    target.mkdir(exist_ok=True)
    for file in sorted(temporary.iterdir()):
        (target / file.name).write_bytes(file.read_bytes())


def _delete_first(folder: Any) -> None:
    for path in store._newest_first(folder):
        store._discard(path)


def _forget(prefix: str) -> Callable[[], None]:
    def plant() -> None:
        restore = TrainState.restore

        def faulty(self: TrainState, checkpoint: Any) -> None:
            new = {name: tensor.clone() for name, tensor in self.tensors().items()}
            restore(self, checkpoint)
            with torch.no_grad():
                for name, tensor in self.tensors().items():
                    if name.startswith(prefix):
                        tensor.copy_(new[name])

        TrainState.restore = faulty

    return plant


def _step_late() -> None:
    restore = TrainState.restore

    def faulty(self: TrainState, checkpoint: Any) -> None:
        restore(self, checkpoint)
        self.step -= 1

    TrainState.restore = faulty


def _from_zero(folder: Any, *, warn: Any) -> None:
    return None


def _put(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _swallow(self: Saves, save: Callable[[], object]) -> None:
    try:
        save()
    except UserError:
        return


def _several(*plants: Callable[[], None]) -> Callable[[], None]:
    return lambda: [plant() for plant in plants] and None


def _go_on(self: loop.Trainer, loss: float, norm: float, batches: Any) -> None:
    return None


def _hashes_of_what_is_there(file: Any, found: str, expected: Any) -> None:
    return None


FAULTS: dict[str, Callable[[], None]] = {
    "saved in place": _put(store, "_publish", _write_in_place),
    "old checkpoints deleted first": _put(store, "clear_leftovers", _delete_first),
    "no fsync": _put(store.files, "sync", lambda path: None),
    "averaged weights forgotten": _forget("ema."),
    "optimiser forgotten": _forget("optimiser."),
    "one step late after a resume": _step_late,
    "starts again at step 0": _put(store, "latest", _from_zero),
    "rows twice": _put(sinks, "keep_rows_before", lambda path, step: None),
    "hashes dropped": _several(
        _put(manifest, "_require_hash", _hashes_of_what_is_there),
        _put(manifest, "_entry", lambda tensor: manifest.TensorEntry("", [], "")),
    ),
    "failed saves swallowed": _several(_put(Saves, "soon", _swallow), _put(Saves, "now", _swallow)),
    "guard against NaN dropped": _put(loop.Trainer, "stop_non_finite", _go_on),
    "checkpoints may hold NaN": _put(store, "_refuse_non_finite", lambda folder, step, tensors: None),
    "signals not heard": _put(StopSignal, "stop", lambda self: False),
    "no watchdog": _put(Watchdog, "start", lambda self: None),
}


PLANTS: dict[str, Callable[..., None]] = {
    "hold": hold,
    "slow": slow,
    "quick watchdog": quick_watchdog,
    "small files": small_files,
    "no rows": no_rows,
    "worker": worker,
    "poison": poison,
}
