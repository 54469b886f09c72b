"""Attempts at a run, and how they are disturbed: kills, injected errors, signals. What each trial must show is in
trials.py.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

PHASES = ("start-up", "restore", "step", "save", "export")
BOARD = struct.Struct("<" + "q" * (1 + len(PHASES) + 1))
"""Phase; how often each was entered; the last step of which a save was finished."""
MARK = "/nonexistent-end-of-the-phase"
"""A path that is looked for when a phase ends, to be seen in a trace."""
CALLS = (
    "?mkdir,mkdirat,openat,write,?pwrite64,ftruncate,fsync,?rename,?renameat,renameat2,"
    "?unlink,unlinkat,?rmdir,?chmod,fchmodat,?stat,newfstatat,?access,?faccessat,?faccessat2"
)
"""System calls that change what is on the disk, and those that show the mark."""
_CHANGES = "write|pwrite64|ftruncate|fsync|rename|mkdir|unlink|rmdir|chmod|fchmod"
CHANGES = re.compile(rf"^(?:openat\(.*O_(?:WRONLY|RDWR|CREAT)|(?:{_CHANGES})\w*\()")


class Stuck(AssertionError):
    """An attempt that neither ends nor gets where it should."""


@dataclasses.dataclass
class Attempt:
    """One process of the command line."""

    pid: int
    files: Path
    _end: Callable[[], int]
    _code: int | None = None

    def board(self) -> tuple[int, ...]:
        """Phase, entries of each phase, last step saved."""
        with (self.files / "board").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return BOARD.unpack(memory[: BOARD.size])

    def phase(self) -> str:
        return PHASES[self.board()[0]]

    def entered(self, phase: str) -> int:
        return self.board()[1 + PHASES.index(phase)]

    def saved(self) -> int:
        return self.board()[-1]

    def said(self) -> str:
        return (self.files / "said").read_text(errors="replace")

    def state(self) -> str:
        """The letter that Linux shows: T stopped, Z ended."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0]
        return "Z"

    def is_over(self) -> bool:
        return self.state() in "ZX"

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Returns at the condition, or when the attempt is over; whether the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.is_over():
                return condition()
            if time.monotonic() > deadline:
                raise Stuck(f"waited {seconds:g} s: {self.said()[-300:]}")
            time.sleep(0.001)
        return True

    def send(self, name: signal.Signals, *, to_group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_group else os.kill)(self.pid, name)

    def ended(self, seconds: float = 240.0) -> int:
        """Exit code, negative for a signal.

        Raises:
          Stuck: after so many seconds; the attempt is killed.
        """
        deadline = time.monotonic() + seconds
        while not self.is_over():
            if time.monotonic() > deadline:
                self.put_down()
                raise Stuck(f"not over after {seconds:g} s: {self.said()[-300:]}")
            time.sleep(0.002)
        if self._code is None:
            self._code = self._end()
        return self._code

    def put_down(self) -> None:
        """Ends it and its workers, whatever they do, if it was not seen to end."""
        if self._code is None:
            self.send(signal.SIGKILL, to_group=True)
            self._code = self._end()

    def group(self) -> list[int]:
        """Processes of the attempt that are still there, workers included."""
        alive = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                    if int(fields[2]) == self.pid and fields[0] not in "ZX":
                        alive.append(int(entry.name))
        return alive


class Lane:
    """A server of attempts, one at a time, and its scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self._attempt: Attempt | None = None
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("attempt_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "Lane":
        return self

    def __exit__(self, *_: object) -> None:
        if self._attempt:
            self._attempt.put_down()
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def begin(
        self, argv: list[str], *plants: list, fault: str = "", env: Mapping[str, str] = MappingProxyType({})
    ) -> Attempt:
        """Starts an attempt; one that a trial left behind is put down first."""
        if self._attempt:
            self._attempt.put_down()
        (self.scratch / "said").unlink(missing_ok=True)
        (self.scratch / "said").touch()
        (self.scratch / "board").write_bytes(bytes(BOARD.size))
        asked = {
            "argv": argv,
            "said": str(self.scratch / "said"),
            "board": str(self.scratch / "board"),
            "plants": list(plants),
            "fault": fault,
            "env": dict(env),
        }
        assert self._server.stdin
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        self._attempt = Attempt(self._answer(), self.scratch, self._answer)
        return self._attempt

    def do(self, argv: list[str], *plants: list, fault: str = "") -> tuple[int, str]:
        """An attempt that nobody disturbs: exit code, and what it said."""
        attempt = self.begin(argv, *plants, fault=fault)
        return attempt.ended(), attempt.said()

    def _answer(self) -> int:
        assert self._server.stdout
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the server of attempts has died")
        return int(line)


@contextlib.contextmanager
def traced(attempt: Attempt, *options: str) -> Iterator[Path]:
    """strace on the main thread of an attempt that has stopped itself (see plants.hold); it goes on once it is traced.
    Yields the log.
    """
    log = attempt.files / "trace"
    if not attempt.wait_for(lambda: attempt.state() == "T"):
        raise Stuck(f"ended before it was to be traced: {attempt.said()[-300:]}")
    command = ["strace", "-qq", "-y", "-s", "0", "-o", str(log), "-p", str(attempt.pid), *options]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{attempt.pid}/status")
    attempt.wait_for(lambda: "TracerPid:\t0" not in status.read_text() or tracer.poll() is not None)
    attempt.send(signal.SIGCONT)
    try:
        yield log
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(timeout=20)
        tracer.kill()
        tracer.wait()


def can_trace() -> bool:
    """Whether strace is there and may attach."""
    if shutil.which("strace") is None:
        return False
    sleeper = subprocess.Popen(["sleep", "5"])
    try:
        tracer = subprocess.Popen(["strace", "-qq", "-p", str(sleeper.pid)], stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        attached = tracer.poll() is None
        tracer.kill()
        tracer.wait()
        return attached
    finally:
        sleeper.kill()
        sleeper.wait()


Call = tuple[str, int]
"""(name, n): the n-th system call of that name since the tracing began, which is how strace counts."""


def changes(log: Path, folder: Path, until: str = "") -> list[Call]:
    """Calls of a trace that change something under folder, up to the end of a phase if one is named."""
    counts: dict[str, int] = {}
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if until and f"{MARK}-{until}" in line:
            break
        match = re.match(r"(\w+)\(", line)
        if match is None:
            continue
        counts[match[1]] = counts.get(match[1], 0) + 1
        if str(folder) in line and CHANGES.match(line):
            found.append((match[1], counts[match[1]]))
    return found
