"""Whether the owner of a claim is still there."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from birdjepa.benchmark import claims
from birdjepa.benchmark.claims import this_process


def test_this_process_is_alive() -> None:
    owner = this_process("this")
    assert owner.is_alive()
    assert owner.token != this_process("this").token
    assert str(owner) == f"process {os.getpid()} on {owner.host} since {owner.since} (this)"


def test_a_process_that_has_ended_is_not() -> None:
    child = subprocess.Popen(["sleep", "60"])
    owner = dataclasses.replace(this_process("sleep"), pid=child.pid, started=claims._started(child.pid))
    assert owner.is_alive()
    assert dataclasses.replace(owner, started="12").is_alive() is False  # another one, of a number used again
    child.send_signal(signal.SIGSTOP)
    assert owner.is_alive()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_alive() is False  # not waited for yet, and still dead
    child.wait()
    assert owner.is_alive() is False


def test_elsewhere_it_cannot_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataclasses.replace(this_process("this"), place="another machine").is_alive() is None
    monkeypatch.setattr(claims, "Path", lambda _: Path("/nonexistent"))
    assert this_process("this").place == ""
    assert this_process("this").is_alive() is None
