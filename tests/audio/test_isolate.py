"""Workers die, hang and misbehave; the parent and all other items do not notice."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehave import act, double

from birdjepa.audio.isolate import IsolatedWorkers
from birdjepa.core.errors import AudioError


@pytest.fixture(scope="module")
def workers() -> Iterator[IsolatedWorkers]:
    with IsolatedWorkers(2, timeout_s=1.5, memory_bytes=256 << 20) as pool:
        yield pool


BAD = {
    "segfault": "decoder crashed: SIGSEGV",
    "exit": "decoder crashed: exit code 3",
    "kill": "decoder crashed: SIGKILL",
    "hang": "decoder timed out: more than 1.5 s",
    "spin": "decoder timed out: more than 1.5 s",
    "memory": "memory: decoding needs more than 256 MiB",
}


def test_bad_items_cost_only_themselves(workers: IsolatedWorkers) -> None:
    items = list(itertools.chain.from_iterable(("fine", bad, "good") for bad in BAD))
    results = list(workers.map(act, items, name=lambda item: f"/data/{item}.wav"))
    assert [item for item, _ in results] == items
    for item, result in results:
        if item in BAD:
            assert isinstance(result, AudioError)
            assert result.path == f"/data/{item}.wav"
            assert result.reason.startswith(BAD[item])
        else:
            assert result == item.upper()


def test_bad_items_in_batches_cost_only_themselves(workers: IsolatedWorkers) -> None:
    """The workers' batches have grown long before the first bad item comes."""
    few = (bad for bad in BAD if bad != "spin")
    items = [f"item {i}" for i in range(300)]
    for number, bad in enumerate(few):
        items[200 + 7 * number] = bad
    results = list(workers.map(act, items, batch=64))
    assert [item for item, _ in results] == items
    for item, result in results:
        if item in BAD:
            assert isinstance(result, AudioError)
            assert result.reason.startswith(BAD[item])
        else:
            assert result == item.upper()


def test_a_crash_that_does_not_repeat_costs_nothing(workers: IsolatedWorkers, tmp_path: Path) -> None:
    items = [*map(str, range(50)), f"once {tmp_path / 'crashed'}", *map(str, range(50))]
    assert [result for _, result in workers.map(act, items, batch=16)] == [item.upper() for item in items]
    assert (tmp_path / "crashed").exists()


def test_an_item_has_its_own_time_whatever_is_in_its_batch() -> None:
    """12 items of 0.1 s travel together after many quick ones, and none is late at 0.6 s."""
    with IsolatedWorkers(1, timeout_s=0.6) as pool:
        items = ["x"] * 200 + ["nap"] * 12
        assert [result for _, result in pool.map(act, items, batch=256)] == [item.upper() for item in items]


def test_a_map_that_is_told_to_stop_does_not_wait(workers: IsolatedWorkers) -> None:
    started = time.monotonic()
    stop = lambda: time.monotonic() > started + 0.3  # noqa: E731
    assert list(workers.map(act, ["hang", "x"], stop=stop)) == []
    assert time.monotonic() < started + 1.3
    assert list(workers.map(act, ["x"])) == [("x", "X")]


def test_errors_of_input_are_results(workers: IsolatedWorkers) -> None:
    results = dict(workers.map(act, ["audio error", "x"]))
    assert isinstance(results["audio error"], AudioError)
    assert results["audio error"].args == ("a.wav", 1.5, "truncated: here")
    assert results["x"] == "X"


@pytest.mark.parametrize(("item", "trace"), [("bug", "KeyError: 'surprise'"), ("unpicklable", "Can't pickle|pickle")])
def test_bugs_keep_their_traceback(workers: IsolatedWorkers, item: str, trace: str) -> None:
    with pytest.raises(RuntimeError, match=trace):
        list(workers.map(act, ["a", item, "b"]))
    assert [result for _, result in workers.map(act, ["a", "b"])] == ["A", "B"]


def test_items_are_drawn_as_needed(workers: IsolatedWorkers) -> None:
    drawn = itertools.count()
    results = workers.map(act, (f"item {next(drawn)}" for _ in itertools.repeat(None)))
    assert [next(results) for _ in range(3)] == [(f"item {i}", f"ITEM {i}") for i in range(3)]
    assert next(drawn) <= 3 + 4 * 2
    with pytest.raises(RuntimeError, match="already mapping"):
        next(workers.map(act, ["x"]))
    results.close()
    assert [result for _, result in workers.map(act, ["again"])] == ["AGAIN"]


def test_workers_are_kept_light_and_deaf_to_signals(workers: IsolatedWorkers) -> None:
    assert [result for _, result in workers.map(act, ["torch", "signals"])] == ["False", "SIGNALS"]
    pids = {result for _, result in workers.map(act, ["pid"] * 20)}
    assert pids == {result for _, result in workers.map(act, ["pid"] * 20)}
    assert len(pids) <= 2


def test_large_results_pass(workers: IsolatedWorkers) -> None:
    data = os.urandom(3 << 20)
    assert all(result == data + data for _, result in workers.map(double, [data] * 3, name=lambda _: "data"))


def test_no_items_start_no_process() -> None:
    with IsolatedWorkers(2) as pool:
        assert list(pool.map(act, [])) == []


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="n_workers must be >= 1"):
        IsolatedWorkers(0)
    with pytest.raises(ValueError, match="timeout_s must be > 0"):
        IsolatedWorkers(1, timeout_s=0.0)
    with pytest.raises(ValueError, match="batch must be 1 to"), IsolatedWorkers(1) as pool:
        next(pool.map(act, ["x"], batch=0))


ORPHAN = """
import sys
sys.path[:] = {path!r}
from misbehave import act
from birdjepa.audio.isolate import IsolatedWorkers
with IsolatedWorkers(1, timeout_s=500) as pool:
    results = pool.map(act, ["pid", {last!r}, "noise"])
    print(next(results)[1], flush=True)
    print(next(results)[1], flush=True)
"""


def test_workers_end_with_their_parent() -> None:
    script = ORPHAN.format(path=sys.path, last="hang")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        os.kill(worker, 0)  # it is there
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(worker):
        time.sleep(0.02)
    assert not alive(worker)


def alive(pid: int) -> bool:
    """Runs, and is not a zombie that nobody has collected yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = f"/proc/{pid}/stat"
    if not os.path.exists(stat):
        return sys.platform != "linux"
    with open(stat) as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_noise_of_libraries_is_dropped() -> None:
    script = ORPHAN.format(path=sys.path, last="noise")
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr in ("python message\n", "python message\n" * 2)
