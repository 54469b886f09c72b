"""The other side of `isolate`: what runs in a worker process.

A worker is told a function, then batches of items. Before each item it notes the time in a pipe of its own, so that the
parent knows which item a dead or late worker was at; answers wait a moment to travel together.
"""

import contextlib
import faulthandler
import multiprocessing.connection
import os
import pickle
import resource
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from birdjepa.core.errors import InputError

NOTE = struct.Struct("<d")
"""When an item was begun, by time.monotonic() (which all processes of a machine share)."""
COUNT = struct.Struct("<I")
"""How many answers follow, one message each."""
ANSWERS_S = 0.1
"""Answers wait for each other at most about this long, or one item longer."""
ANSWERS_BYTES = 1 << 20


def serve(descriptor: int, notes: int, memory_bytes: int) -> None:
    """The worker's life: told a function, then items, until the parent hangs up. For `isolate` only."""
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
                _, items, timeout_s = message
                _work(function, items, timeout_s, connection, notes)


def _work(
    function: Callable[[Any], Any],
    items: list[Any],
    timeout_s: float,
    connection: multiprocessing.connection.Connection,
    notes: int,
) -> None:
    answers: list[bytes] = []
    sent, last = time.monotonic(), len(items) - 1
    for number, item in enumerate(items):
        os.write(notes, NOTE.pack(time.monotonic()))
        answers.append(_answer(function, item, timeout_s))
        if number == last or time.monotonic() - sent > ANSWERS_S or len(answers[-1]) > ANSWERS_BYTES:
            connection.send_bytes(COUNT.pack(len(answers)))
            for answer in answers:
                connection.send_bytes(answer)
            answers.clear()
            sent = time.monotonic()


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


def _answer(function: Callable[[Any], Any], item: Any, timeout_s: float) -> bytes:
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
        return pickle.dumps(("memory", None))
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
