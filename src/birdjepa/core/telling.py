"""Telling how far a job is, in few lines."""

from collections.abc import Callable


def tenths(say: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """A progress callback (done, total) that says every tenth of the way: "120 of 600 recordings"."""
    spoken = 0

    def progress(done: int, total: int) -> None:
        nonlocal spoken
        if done * 10 // total > spoken:
            spoken = done * 10 // total
            say(f"{done} of {total} {what}")

    return progress
