"""Running decoders where their crashes cost nothing: worker processes with a time and a memory limit per item.

A worker that dies, hangs or asks for too much memory costs exactly the item it was given, which comes back as an
`AudioError`; the worker is replaced. Workers are fresh interpreters that import only what the function needs (they
neither fork this process nor import its main module, so start-up stays a fraction of a second and no lock or
accelerator is inherited). They ignore SIGINT and SIGTERM: the parent decides; when it is gone, however it went, they
end by themselves. Chatter of C libraries on standard error is dropped there.

What a worker sends back is unpickled here: this isolates crashes, not an attacker who has taken the worker over. POSIX
only.
"""

import collections
import contextlib
import faulthandler
import json
import multiprocessing.connection
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from birdjepa.core.errors import AudioError, InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_BYTES = 512 << 20
START_S = 60.0
"""A worker that is not ready after this long means a broken installation, not a bad item."""


class IsolatedWorkers:
    """A pool of worker processes; use it in a `with` block.

    Args:
      n_workers: processes.
      timeout_s: wall clock per item.
      memory_bytes: what an item may allocate above the idle worker; None for no limit. Enforced on Linux.
    """

    def __init__(self, n_workers: int, *, timeout_s: float = 30.0, memory_bytes: int | None = MEMORY_BYTES) -> None:
        if n_workers < 1:
            raise ValueError(f"n_workers must be >= 1, got {n_workers}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be > 0 seconds, got {timeout_s}")
        self._n_workers = n_workers
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._workers: list[_Worker] = []
        self._mapping = False

    def __enter__(self) -> "IsolatedWorkers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, name: Callable[[Item], str] = str
    ) -> Iterator[tuple[Item, Result | InputError]]:
        """Yields (item, function(item)) in the order of items, which are drawn only a few ahead of what is yielded.

        An `InputError` that the function raises is the item's result, as are crash, time-out and memory limit, under
        `name(item)` as the path. The function must be importable (top level of a module that is not `__main__`); items
        and results must pickle.

        Raises:
          RuntimeError: where the function raises anything else (a bug: with the worker's traceback), or no worker can
            start.
        """
        if self._mapping:
            raise RuntimeError("this pool is already mapping: finish or close that iterator first")
        self._mapping = True
        pending = enumerate(items)
        open_items: collections.deque[tuple[int, Item]] = collections.deque()
        results: dict[int, Any] = {}
        exhausted = False
        try:
            while True:
                while not exhausted and len(open_items) < 4 * self._n_workers:
                    worker = self._idle_worker(function)
                    if worker is None:
                        break
                    following = next(pending, None)
                    if following is None:
                        exhausted = True
                    else:
                        open_items.append(following)
                        worker.give(following[0], following[1], name, self._timeout_s)
                while open_items and open_items[0][0] in results:
                    index, item = open_items.popleft()
                    yield item, results.pop(index)
                if exhausted and not open_items:
                    return
                if len(open_items) < 4 * self._n_workers and not exhausted and self._has_idle():
                    continue
                for index, result in self._collect():
                    results[index] = result
        finally:
            self._mapping = False
            for worker in self._workers:
                worker.forget()
            self._workers = [worker for worker in self._workers if worker.alive]

    def _has_idle(self) -> bool:
        return len(self._workers) < self._n_workers or any(worker.index is None for worker in self._workers)

    def _idle_worker(self, function: Callable[[Any], Any]) -> "_Worker | None":
        """A worker that is ready for this function, started if the pool is not full; None if all are busy."""
        for worker in [worker for worker in self._workers if worker.index is None]:
            if worker.prepare(function):
                return worker
            self._workers.remove(worker)  # died while idle
        if len(self._workers) == self._n_workers:
            return None
        worker = _Worker(self._memory_bytes)
        self._workers.append(worker)
        if not worker.prepare(function):
            raise RuntimeError(f"a decoder process cannot start ({worker.fate()}); see its message above")
        return worker

    def _collect(self) -> list[tuple[int, Any]]:
        """Waits for the next results; a worker that is late or dead gives an AudioError and leaves the pool."""
        busy = [worker for worker in self._workers if worker.index is not None]
        first_deadline = min(worker.deadline for worker in busy)
        multiprocessing.connection.wait(
            [worker.connection for worker in busy], timeout=max(0.0, first_deadline - time.monotonic())
        )
        collected = []
        for worker in busy:
            index = worker.index
            result = worker.take(self._timeout_s)
            if result is not _NOT_YET and index is not None:
                collected.append((index, result))
            if not worker.alive:
                self._workers.remove(worker)
        return collected


_NOT_YET = object()


class _Worker:
    """One process and what it is doing."""

    def __init__(self, memory_bytes: int | None) -> None:
        self._function: Callable[[Any], Any] | None = None
        self._memory_bytes = memory_bytes
        self._path = ""
        self.index: int | None = None
        self.deadline = 0.0
        self.alive = True
        self.connection, theirs = multiprocessing.connection.Pipe()
        boot = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
            "from birdjepa.audio.isolate import serve; serve(int(sys.argv[1]), int(sys.argv[3]))"
        )
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", boot, str(theirs.fileno()), json.dumps(sys.path), str(memory_bytes or 0)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **limits},
            )

    def prepare(self, function: Callable[[Any], Any]) -> bool:
        """Has the worker import the function; False if the worker is dead."""
        if self._function is function:
            return self._process.poll() is None
        try:
            self.connection.send_bytes(pickle.dumps(("function", function)))
            ready = self.connection.poll(START_S) and self.connection.recv() == "ready"
        except (OSError, EOFError):
            ready = False
        if ready:
            self._function = function
        else:
            self.kill()
        return bool(ready)

    def give(self, index: int, item: Any, name: Callable[[Any], str], timeout_s: float) -> None:
        """Sends an item; a worker that has died meanwhile is noticed by `take`."""
        self.index, self._path, self.deadline = index, name(item), time.monotonic() + timeout_s
        message = pickle.dumps(("item", item, self._path, timeout_s))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(message)

    def take(self, timeout_s: float) -> Any:
        """The item's result, the AudioError it has become, or _NOT_YET."""
        reason = None
        try:
            if self.connection.poll():
                kind, value = self.connection.recv()
                self.index = None
                if kind == "bug":
                    raise RuntimeError(f"the function failed on {self._path!r} in a worker process:\n{value}")
                return value
            if time.monotonic() >= self.deadline:
                reason = f"decoder timed out: more than {timeout_s:g} s"
        except (OSError, EOFError, pickle.UnpicklingError):
            reason = f"decoder crashed: {self.fate()}"
        if reason is None:
            return _NOT_YET
        self.kill()
        self.index = None
        return AudioError(self._path, 0.0, reason)

    def forget(self) -> None:
        """Ends a worker whose result nobody waits for any more."""
        if self.index is not None:
            self.kill()

    def fate(self) -> str:
        """How the process ended, waiting a moment for it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        code = self._process.returncode
        if code is None:
            return "it closed its connection"
        if code >= 0:
            return f"exit code {code}"
        hint = ", perhaps out of memory" if -code == signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{hint}"

    def kill(self) -> None:
        self.alive = False
        self.connection.close()
        self._process.kill()
        self._process.wait()


def serve(descriptor: int, memory_bytes: int) -> None:
    """The worker's life: told a function, then items, until the parent hangs up. For `_Worker` only."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.disable()
    hush()
    connection = multiprocessing.connection.Connection(descriptor)
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    function: Callable[[Any], Any] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has hung up
        while True:
            message = pickle.loads(connection.recv_bytes())
            if message[0] == "function":
                function = message[1]
                _limit_memory(memory_bytes)
                connection.send("ready")
            else:
                assert function is not None
                _, item, path, timeout_s = message
                connection.send_bytes(_answer(function, item, path, timeout_s, memory_bytes))


def hush() -> None:
    """Drops what C libraries write to standard error (mpg123 comments on every odd frame); Python's own messages still
    reach it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    sys.stderr = os.fdopen(kept, "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _answer(function: Callable[[Any], Any], item: Any, path: str, timeout_s: float, memory_bytes: int) -> bytes:
    """Runs the function on one item and pickles what became of it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + timeout_s) + 10  # for a spinning decoder that outlives the parent
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    try:
        return pickle.dumps(("done", function(item)))
    except InputError as error:
        return pickle.dumps(("done", error))
    except MemoryError:
        reason = f"memory: decoding needs more than {memory_bytes >> 20} MiB"
        return pickle.dumps(("done", AudioError(path, 0.0, reason)))
    except Exception:
        return pickle.dumps(("bug", traceback.format_exc()))


def _limit_memory(memory_bytes: int) -> None:
    """Limits private writable memory to what is in use now plus memory_bytes, where the system can."""
    if not memory_bytes or not sys.platform.startswith("linux"):
        return
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        used = next((int(line.split()[1]) << 10 for line in file if line.startswith("VmData:")), None)
    if used is not None:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = used + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _end_with_parent(descriptor: int) -> None:
    """Ends this process, whatever it is doing, once the other end of the connection is gone."""
    poller = select.poll()
    poller.register(descriptor, 0)
    while not any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poller.poll()):
        pass
    os._exit(0)
