"""Who works on an experiment, and whether they still do.

On the owner's own machine the system is asked whether the process is there: a claim ends when its owner does, and never
before. Elsewhere nothing can be asked, so a claim is a lease: its owner renews it, and it ends when that has not
happened for a while. All times that are compared come from one clock, see the two kinds of `Rows`.
"""

import dataclasses
import datetime
import os
import secrets
import socket
from pathlib import Path

LEASE_S = 600.0
"""After this long without a renewal, in seconds, a claim of another machine has ended."""
RENEWALS = 5
"""Renewals in the time of a lease: this many in a row must fail before a live owner loses its claim."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that claims an experiment."""

    what: str
    """What it does, for people."""
    host: str
    place: str
    """Same for processes that can see each other; empty: the system does not tell."""
    pid: int
    started: str
    """When the system started the process; tells it from a later one of the same number."""
    since: str
    """Date and time of the claim, UTC."""
    token: str
    """No other claim has it."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.what})"

    def is_alive(self) -> bool | None:
        """None where it cannot be known from here."""
        if not self.place or self.place != _place():
            return None
        return _started(self.pid) == self.started


@dataclasses.dataclass(frozen=True)
class Claim:
    """An experiment that is its owner's alone until it is released."""

    key: str
    owner: Owner
    number: int
    """How many owners before this one ended without a result."""


def this_process(what: str) -> Owner:
    """A new claim's owner."""
    return Owner(
        what=what,
        host=socket.gethostname(),
        place=_place(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        since=datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds"),
        token=secrets.token_hex(16),
    )


def _place() -> str:
    """The start of the system, the name space of its process numbers, and the user, for others' may be hidden."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks from the system's start to the process's; empty if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
