"""Kills and storage faults inside a save: what is on the disk afterwards is a whole checkpoint, and the right one.

Moments are drawn at random (n is the test's id) and, where strace can attach, enumerated: a kill or an error at each
system call of a save. The same checks turn red when a fault is planted in the store.
"""

import errno
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
from collections.abc import Iterator
from pathlib import Path

import crash_writer
import pytest
import torch

from birdjepa.checkpoint import manifest, store
from birdjepa.core import random

CALLS = (
    "?mkdir,mkdirat,openat,write,?pwrite64,ftruncate,fsync,?rename,?renameat,renameat2,"
    "?unlink,unlinkat,?rmdir,?chmod,fchmodat"
)
Save = tuple[int, int]
"""(step, version) of one save."""


class Writers:
    """The forking child, one trial at a time."""

    def __init__(self, scratch: Path) -> None:
        self.board = scratch / "board"
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, crash_writer.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path, saves: list[Save], *, hold: bool = False, fault: str = "") -> int:
        """Begins a trial; returns the writer's pid."""
        self.board.write_bytes(bytes(crash_writer.BOARD_BYTES))
        trial = {"folder": str(folder), "board": str(self.board), "saves": saves, "hold": hold, "fault": fault}
        assert self.process.stdin
        print(json.dumps(trial), file=self.process.stdin, flush=True)
        return self._answer()

    def ended(self) -> tuple[int, int, str]:
        """Waits for the writer; returns (exit code, finished saves, message of the error)."""
        code = self._answer()
        with self.board.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            n_saved, n_text = struct.unpack("<qq", memory[:16])
            return code, n_saved, memory[16 : 16 + n_text].decode()

    def _answer(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def trace(self, folder: Path, saves: list[Save], options: list[str], fault: str = "") -> tuple[int, int, str]:
        """A trial under strace, attached before the first save; the log is at scratch/log."""
        pid = self.start(folder, saves, hold=True, fault=fault)
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: "State:\tT" in status.read_text())
        command = ["strace", "-f", "-qq", "-y", "-o", str(self.scratch / "log"), "-p", str(pid), *options]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        wait_until(lambda: "TracerPid:\t0" not in status.read_text() or tracer.poll() is not None)
        attached = tracer.poll() is None
        os.kill(pid, signal.SIGCONT)
        outcome = self.ended()
        _, complaint = tracer.communicate()
        if not attached:
            pytest.skip(f"strace cannot attach here: {complaint.decode().strip()}")
        return outcome


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writers]:
    made = Writers(tmp_path_factory.mktemp("writers"))
    assert made.process.stdin
    assert made.process.stdout
    yield made
    made.process.stdin.close()
    assert made.process.wait(timeout=30) == 0
    made.process.stdout.close()


@pytest.fixture
def traced(writers: Writers) -> Writers:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    return writers


def check(folder: Path, allowed: set[Save | None]) -> Save | None:
    """The newest checkpoint is one of allowed, bit for bit; nothing listed is damaged."""
    warnings: list[str] = []
    found = store.latest(folder, warn=warnings.append)
    assert warnings == []
    for path in store._newest_first(folder):
        manifest.verify(path)
    key = None if found is None else (found.step, found.meta["version"])
    assert key in allowed
    if found is not None and key is not None:
        expected = crash_writer.state(*key)
        assert list(found.tensors) == list(expected)
        assert all(torch.equal(found.tensors[name], expected[name]) for name in expected)
        assert found.meta == crash_writer.meta(*key)
    return key


def check_usable(folder: Path) -> None:
    """The next save works and leaves nothing but checkpoints."""
    crash_writer.save(folder, 10**6, 0)
    check(folder, {(10**6, 0)})
    assert [path.name for path in folder.iterdir() if not re.fullmatch(r"step-\d{8}", path.name)] == []


# ---- random moments


@pytest.mark.parametrize(
    ("n_chains", "n_kills"), [(4, 10), pytest.param(30, 20, marks=pytest.mark.slow)], ids=["40 kills", "600 kills"]
)
def test_kill_at_random_moments(writers: Writers, tmp_path: Path, n_chains: int, n_kills: int) -> None:
    # Each chain goes on in the folder that the kill left: first saves, later ones, replacements, resumes of resumes.
    for chain in range(n_chains):
        folder = tmp_path / str(chain)
        delays = random.generator(0, "kill", chain).uniform(0, 0.2, n_kills)
        newest: Save | None = None
        for delay in delays:
            first = 0 if newest is None else newest[0] + 1
            saves = [(step, version) for step in range(first, first + 50) for version in range(1 + step % 2)]
            pid = writers.start(folder, saves)
            time.sleep(float(delay))
            os.kill(pid, signal.SIGKILL)
            code, n_saved, _ = writers.ended()
            assert code == -signal.SIGKILL
            newest = check(folder, {saves[n_saved - 1] if n_saved else newest, saves[n_saved]})
        check_usable(folder)


# ---- every system call


def leave_nothing(folder: Path) -> None:
    """The first save of a run."""


def leave_two(folder: Path) -> None:
    crash_writer.save(folder, 1, 0)
    crash_writer.save(folder, 2, 0)


def leave_one(folder: Path) -> None:
    crash_writer.save(folder, 1, 0)


def leave_half_replaced(folder: Path) -> None:
    """Step 1, its replacement that was never finished, and what a killed writer and a killed deletion left."""
    crash_writer.save(folder, 1, 1)
    (folder / "step-00000001").rename(folder / "step-00000001.replacement")
    crash_writer.save(folder / "other", 1, 0)
    (folder / "other" / "step-00000001").rename(folder / "step-00000001")
    (folder / "other").rmdir()
    shutil.copytree(folder / "step-00000001", store._dot_name("writing", folder / "step-00000002"))
    shutil.copytree(folder / "step-00000001", store._dot_name("deleting", folder / "step-00000000"))


LAYOUTS = {
    "first": (leave_nothing, (1, 0), None),
    "next": (leave_two, (3, 0), (2, 0)),
    "replace": (leave_one, (1, 1), (1, 0)),
    "half replaced": (leave_half_replaced, (2, 0), (1, 1)),
}
"""How the folder is left before, what is saved, and the newest before that."""


Call = tuple[str, int]
"""(name, n): the n-th system call of that name, which is how strace counts."""


def calls_of_a_save(writers: Writers, scratch: Path, layout: str, fault: str = "") -> list[Call]:
    """Leaves the layout in scratch/template and lists what an undisturbed save there calls, in order."""
    leave, saved, _ = LAYOUTS[layout]
    template, folder = scratch / "template", scratch / "undisturbed"
    template.mkdir()
    leave(template)
    shutil.copytree(template, folder)
    code, _, _ = writers.trace(folder, [saved], ["-e", f"trace={CALLS}"], fault)
    assert code == 0
    check(folder, {saved})
    names = re.findall(r"^\d+ +(\w+)\(", (writers.scratch / "log").read_text(), re.MULTILINE)
    return [(name, names[: index + 1].count(name)) for index, name in enumerate(names)]


def kill_at_calls(writers: Writers, scratch: Path, layout: str, calls: list[Call], fault: str = "") -> None:
    """Kills a save at each of calls, and checks after each."""
    _, saved, before = LAYOUTS[layout]
    for name, n in calls:
        folder = scratch / f"{name}-{n}"
        shutil.copytree(scratch / "template", folder)
        kill = ["-e", f"inject={name}:signal=KILL:when={n}"]
        code, n_saved, _ = writers.trace(folder, [saved], kill, fault)
        assert code == -signal.SIGKILL
        check(folder, {saved} if n_saved else {before, saved})
        check_usable(folder)


@pytest.mark.parametrize("layout", ["next", "replace"])
def test_kill_at_every_fourth_call(traced: Writers, tmp_path: Path, layout: str) -> None:
    calls = calls_of_a_save(traced, tmp_path, layout)[::4]
    assert len(calls) >= 10
    kill_at_calls(traced, tmp_path, layout, calls)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kill_at_every_call(traced: Writers, tmp_path: Path, layout: str) -> None:
    kill_at_calls(traced, tmp_path, layout, calls_of_a_save(traced, tmp_path, layout))


@pytest.mark.parametrize(
    ("fault", "layout"), [("write in place", "next"), ("swap", "replace"), ("delete first", "next")]
)
def test_planted_faults_are_caught_by_the_kills(traced: Writers, tmp_path: Path, fault: str, layout: str) -> None:
    calls = calls_of_a_save(traced, tmp_path, layout, fault)[::2]  # the faulty store works as long as nobody kills it
    with pytest.raises(AssertionError):
        kill_at_calls(traced, tmp_path, layout, calls, fault)


# ---- storage faults


def fail_at_calls(
    writers: Writers, scratch: Path, layout: str, calls: list[Call], error: str, onwards: str = ""
) -> None:
    """Fails each of calls of a save with error, and all later ones of its name if onwards is "+"."""
    _, saved, before = LAYOUTS[layout]
    files_before = contents(scratch / "template")
    text = os.strerror(getattr(errno, error))
    for name, n in calls:
        folder = scratch / f"{name}-{n}"
        shutil.copytree(scratch / "template", folder)
        fail = ["-e", f"inject={name}:error={error}:when={n}{onwards}"]
        code, _, message = writers.trace(folder, [saved], fail)
        assert code in (0, crash_writer.REFUSED), "neither saved nor refused"
        newest = check(folder, {before, saved})
        if code == crash_writer.REFUSED:
            # safetensors reports any failure to open as a missing file
            assert text in message or "cannot be read" in message
            assert str(folder) in message
        if newest == before:
            assert code == crash_writer.REFUSED
            assert "bytes free" in message
            files_after = contents(folder)
            assert {path: files_after[path] for path in files_before} == files_before
            assert onwards or files_after == files_before, "something was left behind"
        check_usable(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_full_disk_at_every_fourth_call(traced: Writers, tmp_path: Path) -> None:
    fail_at_calls(traced, tmp_path, "next", calls_of_a_save(traced, tmp_path, "next")[::4], "ENOSPC")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["next", "replace"])
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "ESTALE", "EROFS", "EACCES", "EMFILE"])
def test_fault_at_every_call(traced: Writers, tmp_path: Path, error: str, layout: str) -> None:
    fail_at_calls(traced, tmp_path, layout, calls_of_a_save(traced, tmp_path, layout), error)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_fault_from_every_call_onwards(traced: Writers, tmp_path: Path, error: str) -> None:
    fail_at_calls(traced, tmp_path, "next", calls_of_a_save(traced, tmp_path, "next"), error, onwards="+")


# ---- order of syncs, seen by the kernel


def test_order_of_system_calls(traced: Writers, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    leave_one(folder)
    code, _, _ = traced.trace(folder, [(2, 0)], ["-e", f"trace={CALLS}"])
    assert code == 0
    lines = (traced.scratch / "log").read_text().splitlines()

    def line_of(pattern: str) -> int:
        (found,) = [number for number, line in enumerate(lines) if re.search(pattern, line)]
        return found

    beside = r"\.writing-step-00000002[^/\"<>]*"
    created = line_of(rf"openat.*{beside}/manifest\.json\", O_WRONLY")
    renamed = line_of(rf"rename.*{beside}\", .*/step-00000002\"")
    order = [
        max(line_of(rf"fsync.*{beside}/meta\.json>"), line_of(rf"fsync.*{beside}/state\.safetensors>")),
        created,
        line_of(rf"fsync.*{beside}/manifest\.json>"),
        line_of(rf"fsync.*{beside}>"),
        renamed,
        line_of(r"fsync.*/checkpoints>"),
    ]
    assert order == sorted(order)
