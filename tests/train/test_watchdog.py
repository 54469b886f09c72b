"""The watchdog: it ends what is stuck, with the stacks on the disk, and leaves alone what is only slow."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from birdjepa.core.errors import EXIT_REQUEUE
from birdjepa.train import watchdog
from birdjepa.train.watchdog import Watchdog

SRC = str(Path(watchdog.__file__).parents[2])


def process(folder: Path, body: str, least_s: float = 0.3) -> subprocess.Popen[str]:
    """A process with `dog`, a watchdog of quick habits, in which body runs. It imports no torch."""
    code = f"""
        import multiprocessing, pathlib, sys, threading, time
        sys.path.insert(0, {SRC!r})
        from birdjepa.train.watchdog import Watchdog
        lock = threading.Lock()
        lock.acquire()
        def waits_for_ever():
            lock.acquire()
        with Watchdog(pathlib.Path({str(folder)!r}), print, least_s={least_s}, patient_s=1.2, tick_s=0.05) as dog:
    """
    lines = textwrap.dedent(code) + textwrap.indent(textwrap.dedent(body), "    ")
    return subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True)


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = child.communicate(timeout=30)
    return child.returncode, said


def test_a_loop_that_waits_for_ever_is_ended_with_its_stacks(tmp_path):
    began = time.monotonic()
    body = """
        dog.start()
        dog.step_done()
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), name="decoder")
        worker.start()
        print(worker.pid)
        waits_for_ever()
    """
    code, said = ended(process(tmp_path, body))
    assert code == EXIT_REQUEUE == 75
    pid, told = said.splitlines()
    assert "no step was finished for " in told
    assert str(tmp_path / "stacks.txt") in told
    assert "--resume" in told
    stacks = (tmp_path / "stacks.txt").read_text()
    assert "in waits_for_ever" in stacks
    assert f"process {pid}, decoder: S (sleeping)" in stacks
    dead = ("unknown", "Z (zombie)")  # gone, or not yet collected by init
    while watchdog._doing(int(pid)) not in dead and time.monotonic() - began < 10:
        time.sleep(0.01)  # killed, and not yet scheduled to die
    assert watchdog._doing(int(pid)) in dead
    assert time.monotonic() - began < 10


def test_the_first_step_and_what_is_no_step_have_a_limit_of_their_own(tmp_path):
    body = """
        dog.start()
        time.sleep(0.6)  # twice what a step may last: the first one compiles
        dog.step_done()
        with dog.patient():
            time.sleep(0.6)
        dog.step_done()
        with dog.patient():
            waits_for_ever()
    """
    began = time.monotonic()
    assert ended(process(tmp_path, body))[0] == EXIT_REQUEUE
    assert time.monotonic() - began > 2.35  # 0.6 and 0.6 and 1.2, of which the first tick may be cut short


def test_slow_steps_are_given_ten_times_their_usual_time(tmp_path):
    body = """
        dog.start()
        for _ in range(5):
            time.sleep(0.2)
            dog.step_done()
        time.sleep(1)  # more than least_s, less than ten steps
        dog.step_done()
    """
    assert ended(process(tmp_path, body)) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_suspended_process_is_not_stuck(tmp_path):
    body = """
        dog.start()
        dog.step_done()
        print("ready", flush=True)
        for _ in range(10):
            time.sleep(0.1)
            dog.step_done()
    """
    child = process(tmp_path, body, least_s=1.0)  # a busy machine may take long over 0.1 s
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGSTOP)
    time.sleep(2)
    child.send_signal(signal.SIGCONT)
    assert ended(child) == (0, "")


def test_a_disk_that_hangs_does_not_keep_it_from_ending(tmp_path):
    os.mkfifo(tmp_path / "stacks.txt")  # opening a pipe that nobody reads waits for ever
    body = """
        import birdjepa.train.watchdog
        birdjepa.train.watchdog.TELL_S = 0.2
        dog.start()
        dog.step_done()
        waits_for_ever()
    """
    assert ended(process(tmp_path, body))[0] == EXIT_REQUEUE


def test_it_is_gone_with_the_loop_and_costs_nothing(tmp_path):
    with Watchdog(tmp_path, print) as dog:
        dog.start()
        dog.start()
        (thread,) = [each for each in watchdog.threading.enumerate() if each.name == "watchdog"]
        began = time.perf_counter()
        for _ in range(1000):
            dog.step_done()
        assert time.perf_counter() - began < 1.0  # well below a thousandth of any step
    assert not thread.is_alive()
    assert multiprocessing.active_children() == []


def test_a_loop_without_a_step_starts_no_thread(tmp_path):
    with pytest.raises(ValueError, match="no batch"), Watchdog(tmp_path, print):
        raise ValueError("no batch")
