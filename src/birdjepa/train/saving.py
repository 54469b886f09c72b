"""When a save fails: what happens next, and how often.

One full disk or one hiccup of a file server must not end a run whose state is whole in memory; and no run may go on
for ever without a checkpoint. So a failed save is told and done again at the next checkpoint; where there is no next
one (the last step, a stop signal) it is done again after short pauses; and three failures in a row end the run, to be
started again from the checkpoint before them.
"""

import time
from collections.abc import Callable

from birdjepa.checkpoint.store import NotDeleted
from birdjepa.core.errors import EXIT_REQUEUE, StorageError, UserError

MOST_FAILURES = 3
"""In a row. Not a setting: how much work is at risk is what `train.checkpoint_every` decides."""
PAUSES_S = (1.0, 4.0)
"""Before the second and third try of a save that cannot wait; together well below the 30 s after which a cluster
kills."""


class NotSaved(UserError):
    """Storage fails again and again; the run goes on from an earlier checkpoint once it works."""

    exit_code = EXIT_REQUEUE
    everywhere = True


class Saves:
    """Does saves, and counts the failures in a row. A save may raise StorageError; nothing else is tried again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._n_failed = 0

    def soon(self, save: Callable[[], object]) -> None:
        """A save that may also happen at the next checkpoint.

        Raises:
          NotSaved: if it is one failure too many.
        """
        error = self._failure(save)
        if error is None:
            return
        if self._n_failed == MOST_FAILURES:
            raise NotSaved(f"{error}; {MOST_FAILURES} saves in a row have failed. Make room, then go on with --resume")
        self._say(f"{error}; the run goes on and saves again at its next checkpoint")

    def now(self, save: Callable[[], object]) -> None:
        """A save that nothing comes after.

        Raises:
          NotSaved: if it still fails after the pauses.
        """
        for pause_s in PAUSES_S:
            error = self._failure(save)
            if error is None:
                return
            self._say(f"{error}; trying again in {pause_s:g} s")
            time.sleep(pause_s)
        error = self._failure(save)
        if error is not None:
            raise NotSaved(
                f"{error}; given up after {1 + len(PAUSES_S)} tries. Make room, then go on with --resume "
                "from the checkpoint before"
            )

    def _failure(self, save: Callable[[], object]) -> StorageError | None:
        try:
            save()
        except NotDeleted as error:
            self._say(str(error))  # the state is safe, and the next save deletes
        except StorageError as error:
            self._n_failed += 1
            return error
        self._n_failed = 0
        return None
