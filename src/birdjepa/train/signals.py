"""Stop signals: the first one asks the loop to save and end, Ctrl-C after it ends at once.

Others that follow change nothing: a scheduler sends several (before the time limit, at it, to a job and to each of its
processes), and none of them must end a save under way. For the impatient there is SIGKILL.

Imports nothing heavy, so that the command line can listen before torch is there.
"""

import signal
import types
from collections.abc import Iterable

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopSignal:
    """Context manager; `stop()` tells whether a signal came. The handler only sets that flag. One inside another knows
    what the outer one was told.
    """

    def __init__(self, names: Iterable[signal.Signals] = STOPS) -> None:
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._names = tuple(name for name in names if not (nohup and name == signal.SIGHUP))
        self._before: dict[signal.Signals, object] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignal":
        for name in self._names:
            self._before[name] = signal.signal(name, self._handle)
            outer = getattr(self._before[name], "__self__", None)
            if isinstance(outer, StopSignal):
                self.received = self.received or outer.received
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)  # pyright: ignore[reportArgumentType]

    def stop(self) -> bool:
        return self.received is not None

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
