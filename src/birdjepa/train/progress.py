"""Progress of a run: a live bar on a terminal, one plain line now and then in a log; both with rate and time left."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Context manager over the steps first to last of a run."""

    def __init__(self, first: int, last: int, say: Callable[[str], None], verb: str) -> None:
        self._first, self._last, self._say = first, last, say
        self._began = self._spoke = time.monotonic()
        columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
        console = Console(stderr=True)
        self._bar = (
            Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) if sys.stderr.isatty() else None
        )
        self._task = self._bar.add_task(verb, total=last, completed=first, loss="") if self._bar else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int, loss: float) -> None:
        """Tells that a step is done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, loss=f"loss {loss:.3f}")
            return
        now = time.monotonic()
        if step == self._last or now - self._spoke >= SECONDS_BETWEEN_LINES:
            rate = (step - self._first) / (now - self._began)
            left = (self._last - step) / rate
            self._say(f"step {step}/{self._last}  loss {loss:.3f}  {rate:.2f} steps/s  {left:.0f} s left")
            self._spoke = now
