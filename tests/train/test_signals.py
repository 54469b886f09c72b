"""Stop signals: the first asks, Ctrl-C after it ends."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from birdjepa.train.signals import STOPS, StopSignal


@pytest.mark.parametrize("name", STOPS)
def test_the_first_signal_sets_the_flag_and_handlers_come_back(name):
    before = signal.getsignal(name)
    with StopSignal() as stop:
        assert not stop.stop()
        os.kill(os.getpid(), name)
        assert stop.stop()
        assert stop.received == name
    assert signal.getsignal(name) == before


def test_what_a_scheduler_sends_after_the_first_changes_nothing():
    with StopSignal() as stop:
        for name in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), name)
        assert stop.received == signal.SIGUSR2


def test_ctrl_c_after_a_signal_ends_the_process():
    code = """
        import os, signal, sys
        sys.path.insert(0, {path!r})
        from birdjepa.train.signals import StopSignal
        with StopSignal():
            os.kill(os.getpid(), signal.SIGTERM)
            print("still here", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print("never")
    """
    import birdjepa

    path = os.path.dirname(os.path.dirname(birdjepa.__file__))
    code = textwrap.dedent(code).format(path=path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "still here\n")


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_inside_another_knows_what_came_before():
    """The command line listens while it imports torch; the job listens inside of it."""
    with StopSignal() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        with StopSignal() as inner:
            assert inner.received == signal.SIGTERM
        assert outer.stop()
    with StopSignal() as outer, StopSignal() as inner:
        os.kill(os.getpid(), signal.SIGHUP)
        assert inner.stop()
        assert not outer.stop()
