"""The watchdog: ends a process in which no step gets done any more, so that whoever runs it can start it again.

A loop can wait for ever: on a lock that a killed worker held, on a file server that has gone, on another process's
half of a sum. Nothing raises then, and a cluster's job would idle until its time is over. The last checkpoint is on the
disk, so ending costs one save interval.

Time is counted in the watchdog's own ticks: while the process is suspended (Ctrl-Z, a sleeping laptop) none pass.
"""

import contextlib
import datetime
import faulthandler
import multiprocessing
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from birdjepa.core.errors import EXIT_REQUEUE

STACKS = "stacks.txt"
LEAST_S = 120.0
"""No step counts as stuck before this, however quick the others were."""
MANY = 10
"""Median steps that a stuck one has lasted."""
PATIENT_S = 3600.0
"""For what is no step and may rightly take long: compiling in the first step, a judge, a save."""
TICK_S = 1.0
TELL_S = 10.0
"""For writing the stacks: the disk may be what hangs."""


class Watchdog:
    """Context manager around a loop that tells it of every step. A thread, which sleeps."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        *,
        least_s: float = LEAST_S,
        patient_s: float = PATIENT_S,
        tick_s: float = TICK_S,
    ) -> None:
        self._stacks = folder / STACKS
        self._say = say
        self._least_s, self._patient_s, self._tick_s = least_s, patient_s, tick_s
        self._limit_s = patient_s
        self._sign = 0
        """Changes whenever something was done."""
        self._seconds: deque[float] = deque(maxlen=64)
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def start(self) -> None:
        """Begins to watch, once: after the first batch, for workers are forked before there is a second thread."""
        if self._thread.ident is None:
            self._began = time.monotonic()
            self._thread.start()

    def step_done(self) -> None:
        """Tells that a step was finished."""
        now = time.monotonic()
        self._seconds.append(now - self._began)
        self._expect(max(self._least_s, MANY * statistics.median(self._seconds)), now)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Around what is no step: it has a limit of its own, and no step is thought longer for it."""
        limit_s = self._limit_s
        self._expect(self._patient_s, self._began)
        try:
            yield
        finally:
            self._expect(limit_s, time.monotonic())

    def _expect(self, limit_s: float, began: float) -> None:
        self._limit_s, self._began = limit_s, began
        self._sign += 1

    def _watch(self) -> None:
        sign, waited_s = self._sign, 0.0
        while not self._over.wait(self._tick_s):
            if sign != self._sign:
                sign, waited_s = self._sign, 0.0
            waited_s += self._tick_s
            if waited_s > self._limit_s:
                self._end(waited_s)

    def _end(self, waited_s: float) -> None:
        teller = threading.Thread(target=self._tell, args=(waited_s,), daemon=True)
        teller.start()
        teller.join(TELL_S)
        for child in multiprocessing.active_children():
            child.kill()  # a worker that is stopped or hangs would outlive its parent
        os._exit(EXIT_REQUEUE)

    def _tell(self, waited_s: float) -> None:
        said = (
            f"no step was finished for {waited_s:.0f} s (a step takes {self._usual()}): the process is stuck and ends"
        )
        self._say(f"{said}; go on with --resume. What every thread was doing is in {self._stacks}")
        with self._stacks.open("a", encoding="utf-8") as file:
            print(f"{datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')} {said}", file=file)
            for child in multiprocessing.active_children():
                print(f"process {child.pid}, {child.name}: {_doing(child.pid)}", file=file)
            file.flush()
            faulthandler.dump_traceback(file)

    def _usual(self) -> str:
        return f"{statistics.median(self._seconds):.3g} s" if self._seconds else "unknown: this is the first"


def _doing(pid: int | None) -> str:
    """What Linux says of a process: sleeping, stopped, waiting for a disk; elsewhere nothing."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("State:")), "unknown")
    return "unknown"
