"""Running decoders where their crashes cost nothing: worker processes with a time and a memory limit per item.

A worker that dies, hangs or asks for too much memory costs exactly the item it was at, which comes back as an
`AudioError`; the worker is replaced, and what else it had been given goes to another. A crash counts only if the item,
given to a worker again by itself, crashes that one too: memory that an earlier item spoilt, or the system's killer of
greedy processes, can strike the wrong one. Workers are fresh interpreters that import only what the function needs
(they neither fork this process nor import its main module, so start-up stays a fraction of a second and no lock or
accelerator is inherited). They ignore SIGINT and SIGTERM: the parent decides; when it is gone, however it went, they
end by themselves. Chatter of C libraries on standard error is dropped there.

What a worker sends back is unpickled here: this isolates crashes, not an attacker who has taken the worker over. POSIX
only.
"""

import collections
import contextlib
import itertools
import json
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from birdjepa.audio.worker import COUNT, NOTE
from birdjepa.core.errors import AudioError, InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = tuple[int, Any]
"""An item's number, and the item."""

MEMORY_BYTES = 512 << 20
START_S = 60.0
"""A worker that is not ready after this long means a broken installation, not a bad item."""
BATCH_S = (0.05, 0.2)
"""Batches that take less than the first grow, those that take longer than the second shrink."""
MAX_BATCH = 1024
"""Notes about so many items fit into a pipe that nobody reads meanwhile."""
WAKE_S = 0.5
"""How often at least a map looks whether it should stop."""


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
        self._batch = 1

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
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        name: Callable[[Item], str] = str,
        batch: int = 1,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[Item, Result | InputError]]:
        """Yields (item, function(item)) in the order of items, which are drawn only a few batches ahead of what is
        yielded; ends early once stop() holds.

        At most `batch` items travel to a worker together, fewer while they take long: many are for items that take less
        than a millisecond. An `InputError` that the function raises is the item's result, as are crash, time-out and
        memory limit, under `name(item)` as the path. The function must be importable (top level of a module that is not
        `__main__`), and may be called twice for an item; items and results must pickle.

        Raises:
          RuntimeError: where the function raises anything else (a bug: with the worker's traceback), or no worker can
            start.
        """
        if not 1 <= batch <= MAX_BATCH:
            raise ValueError(f"batch must be 1 to {MAX_BATCH} items, got {batch}")
        if self._mapping:
            raise RuntimeError("this pool is already mapping: finish or close that iterator first")
        self._mapping, self._batch = True, min(self._batch, batch)
        queue = _Queue(items, ahead=4 * self._n_workers * batch)
        try:
            while not queue.done and not stop():
                while self._has_idle() and (tasks := queue.take(self._batch)):
                    self._idle_worker(function).give(tasks, self._timeout_s)
                moved = False
                while (pair := queue.pop()) is not None:
                    moved = True
                    yield pair
                if not moved and not queue.done:
                    self._collect(queue, name, batch)
        finally:
            self._mapping = False
            for worker in self._workers:
                worker.forget()
            self._workers = [worker for worker in self._workers if worker.alive]

    def _has_idle(self) -> bool:
        return len(self._workers) < self._n_workers or any(not worker.busy for worker in self._workers)

    def _idle_worker(self, function: Callable[[Any], Any]) -> "_Worker":
        """A worker that is ready for this function, started if there is none."""
        for worker in [worker for worker in self._workers if not worker.busy]:
            if worker.prepare(function):
                return worker
            worker.kill()  # died while idle
            self._workers.remove(worker)
        worker = _Worker(self._memory_bytes)
        self._workers.append(worker)
        if not worker.prepare(function):
            raise RuntimeError(f"a decoder process cannot start ({worker.fate()}); see its message above")
        return worker

    def _collect(self, queue: "_Queue", name: Callable[[Any], str], batch: int) -> None:
        """Waits for the next answers, for a deadline or for WAKE_S; late and dead workers leave the pool, and what they
        left goes back to the queue.
        """
        busy = [worker for worker in self._workers if worker.busy]
        wait_s = min(WAKE_S, max(0.0, min(worker.deadline for worker in busy) - time.monotonic()))
        answering = multiprocessing.connection.wait([worker.connection for worker in busy], timeout=wait_s)
        for worker in busy:
            fate = ""
            if worker.connection in answering:
                fate = self._take(worker, queue, name)
            elif worker.is_late(self._timeout_s):
                fate = f"decoder timed out: more than {self._timeout_s:g} s"
                worker.kill()
                fate = fate if worker.is_late(self._timeout_s) else ""  # it may have gone on just before
            if not worker.alive:
                self._bury(worker, fate, queue, name)
            elif not worker.busy:
                seconds = time.monotonic() - worker.given
                if seconds < BATCH_S[0]:
                    self._batch = min(batch, 2 * self._batch)
                elif seconds > BATCH_S[1]:
                    self._batch = max(1, self._batch // 2)

    def _take(self, worker: "_Worker", queue: "_Queue", name: Callable[[Any], str]) -> str:
        """Hands over a worker's answers; if it is dead, says how it died."""
        try:
            for index, item, (kind, value) in worker.answers():
                if kind == "bug":
                    raise RuntimeError(f"the function failed on {name(item)!r} in a worker process:\n{value}")
                if kind == "memory":
                    reason = f"memory: decoding needs more than {(self._memory_bytes or 0) >> 20} MiB"
                    value = AudioError(name(item), 0.0, reason)
                queue.answer(index, value)
        except (OSError, EOFError, pickle.UnpicklingError):
            fate = f"decoder crashed: {worker.fate()}"
            worker.kill()
            return fate
        return ""

    def _bury(self, worker: "_Worker", fate: str, queue: "_Queue", name: Callable[[Any], str]) -> None:
        """Blames the item that a dead worker was at, unless it has crashed for the first time; the others go back."""
        self._workers.remove(worker)
        done, culprit, rest = worker.left()
        if culprit is not None and fate and not (fate.startswith("decoder crashed") and queue.suspect(culprit)):
            queue.answer(culprit[0], AudioError(name(culprit[1]), 0.0, fate))
        elif culprit is not None:
            queue.give_back([culprit])
        queue.give_back(done)
        queue.give_back(rest)


class _Queue:
    """A map's items, from being drawn to being yielded."""

    def __init__(self, items: Iterable[Any], *, ahead: int) -> None:
        self._pending = enumerate(items)
        self._ahead = ahead
        self._open: collections.deque[Task] = collections.deque()
        self._left: collections.deque[list[Task]] = collections.deque()
        self._results: dict[int, Any] = {}
        self._suspects: set[int] = set()
        self._exhausted = False

    @property
    def done(self) -> bool:
        return self._exhausted and not self._open

    def take(self, n: int) -> list[Task]:
        """The next batch: what a dead worker left, or up to n new items; none while too many are open."""
        if self._left:
            return self._left.popleft()
        if self._exhausted or len(self._open) >= self._ahead:
            return []
        tasks = list(itertools.islice(self._pending, n))
        self._exhausted = not tasks
        self._open.extend(tasks)
        return tasks

    def give_back(self, tasks: list[Task]) -> None:
        """Tasks to be given to another worker, together."""
        if tasks:
            self._left.append(tasks)

    def suspect(self, task: Task) -> bool:
        """Whether a worker crashed at this task for the first time."""
        first = task[0] not in self._suspects
        self._suspects.add(task[0])
        return first

    def answer(self, index: int, result: Any) -> None:
        self._results[index] = result

    def pop(self) -> tuple[Any, Any] | None:
        """The next (item, result) in order, if it is there."""
        if not self._open or self._open[0][0] not in self._results:
            return None
        index, item = self._open.popleft()
        return item, self._results.pop(index)


class _Worker:
    """One process and what it is doing."""

    def __init__(self, memory_bytes: int | None) -> None:
        self._function: Callable[[Any], Any] | None = None
        self._tasks: collections.deque[Task] = collections.deque()
        self._n_given = self._n_begun = 0
        self.given = self._begun = self.deadline = 0.0
        self.alive = True
        self.connection, theirs = multiprocessing.connection.Pipe()
        self._notes, notes = os.pipe()
        os.set_blocking(self._notes, False)
        boot = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "from birdjepa.audio.worker import serve; serve(*map(int, sys.argv[2:]))"
        )
        numbers = (theirs.fileno(), notes, memory_bytes or 0)
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", boot, json.dumps(sys.path), *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), notes],
                start_new_session=True,
                env={**os.environ, **limits},
            )
        finally:
            theirs.close()
            os.close(notes)

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

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

    def give(self, tasks: list[Task], timeout_s: float) -> None:
        """Sends a batch; that the worker has died meanwhile shows when its answers are awaited."""
        self._read_notes()
        self._tasks.extend(tasks)
        self._n_given, self._n_begun = len(tasks), 0
        self.given = self._begun = time.monotonic()
        self.deadline = self.given + timeout_s
        message = pickle.dumps(("items", [item for _, item in tasks], timeout_s))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(message)

    def answers(self) -> Iterator[tuple[int, Any, tuple[str, Any]]]:
        """The answers that are on their way, as (index, item, (kind, value)).

        Raises:
          OSError, EOFError, UnpicklingError: if the worker is dead.
        """
        for _ in range(COUNT.unpack(self.connection.recv_bytes())[0]):
            answer = self.connection.recv()
            index, item = self._tasks.popleft()
            yield index, item, answer
        self._read_notes()

    def is_late(self, timeout_s: float) -> bool:
        """The item it is at has taken longer than that; moves the deadline if not."""
        if self.alive and time.monotonic() >= self.deadline:
            self._read_notes()
        self.deadline = self._begun + timeout_s
        return time.monotonic() >= self.deadline

    def left(self) -> tuple[list[Task], Task | None, list[Task]]:
        """After its death: tasks that were done but not answered, the one it was at, and the rest."""
        tasks, self._tasks = list(self._tasks), collections.deque()
        if not tasks:
            return [], None, []
        at = max(0, len(tasks) - self._n_given + self._n_begun - 1)
        return tasks[:at], tasks[at], tasks[at + 1 :]

    def _read_notes(self) -> None:
        """How many items of this batch were begun, and when the last one was."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._notes, 1 << 16):
                self._n_begun += len(data) // NOTE.size
                (self._begun,) = NOTE.unpack(data[-NOTE.size :])

    def forget(self) -> None:
        """Ends a worker whose answers nobody waits for any more."""
        if self.busy:
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
        if self.alive:
            self.alive = False
            self.connection.close()
            self._process.kill()
            self._process.wait()
            self._read_notes()
            os.close(self._notes)
