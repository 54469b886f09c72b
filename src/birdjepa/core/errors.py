"""Errors that a user can mend, and the exit codes that scripts rely on.

Everything derived from `UserError` reaches the terminal as one line that says what to do, and so does an OSError whose
number is in STORAGE; anything else is a bug and keeps its traceback.
"""

import errno

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
"""Finished, but some inputs were refused; they are listed in failures.csv."""
EXIT_REQUEUE = 75
"""Stopped by a signal after a save, by saves that fail, or by the watchdog: start again with --resume."""

STORAGE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE})
"""Numbers of errors of a disk: full, over a quota or a limit, failing, read-only, closed to us, gone."""


class UserError(Exception):
    """Something outside the program is wrong; the message names it and says what to do."""

    exit_code = EXIT_FAILED
    everywhere = False
    """Whether all processes of a run raise it together, so that one of them is to tell."""


class UsageError(UserError):
    """The command line or the configuration cannot be used as given."""

    exit_code = EXIT_USAGE


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}, which is not installed: pip install 'birdjepa[{extra}]'")


class InputError(UserError):
    """One input is unusable: (path, offset_s, reason). Runs count and list these, and go on up to a stated share.

    Takes positional arguments only, so that it survives pickling between worker processes.
    """

    def __init__(self, path: str, offset_s: float, reason: str) -> None:
        super().__init__(path, offset_s, reason)
        self.path = path
        self.offset_s = offset_s
        self.reason = reason

    def __str__(self) -> str:
        where = f" at {self.offset_s:g} s" if self.offset_s else ""
        return f"{self.path}{where}: {self.reason}"


class AudioError(InputError):
    """A recording cannot be decoded where it was asked for."""


class LabelError(InputError):
    """A label or a manifest row cannot be read."""


class CodeError(InputError):
    """A file of codes cannot be read."""


class StorageError(UserError):
    """Something could not be written. The message says what, why, and how much room there is; it may work later."""


class Unreachable(UserError):
    """Another machine does not give what was asked for; starting the same command again later may help."""

    exit_code = EXIT_REQUEUE


class Interrupted(UserError):
    """A signal asked the run to stop; its state is saved."""

    exit_code = EXIT_REQUEUE
    everywhere = True
