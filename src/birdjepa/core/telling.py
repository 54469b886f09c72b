"""Telling what a job is at and how far it is, in few lines."""

import os
import sys
from collections.abc import Callable

from birdjepa.core.errors import STORAGE


def tell(text: str) -> None:
    """One line to the terminal's error stream, where progress goes too; results go to standard output. A log on a full
    disk loses the line and not the run.
    """
    rank = os.environ.get("RANK", "0")
    process = "" if rank == "0" else f"process {rank}: "
    try:
        print(f"birdjepa: {process}{text}", file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in STORAGE:
            raise


def tenths(say: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """A progress callback (done, total) that says every tenth of the way: "120 of 600 recordings"."""
    spoken = 0

    def progress(done: int, total: int) -> None:
        nonlocal spoken
        if done * 10 // total > spoken:
            spoken = done * 10 // total
            say(f"{done} of {total} {what}")

    return progress
