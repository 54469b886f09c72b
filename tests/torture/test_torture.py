"""Torture in short: a few of the trials that `make torture` does by the hundred, on real processes of the command line.

Replay a chain of kills with the seed in its name. What a save survives by itself is in tests/checkpoint/test_crash.py.
"""

import dataclasses
from collections.abc import Iterator

import pytest
import trials
from attempts import Lane, can_trace
from trials import Bench, Case

RUN = Case(steps=10)
SAVES = Case(steps=6, keep=1)
"""Its second save deletes a checkpoint, and one more follows."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("torture")
    with Lane(folder / "lane") as lane:
        yield Bench(lane, folder / "shared")


@pytest.fixture
def traceable() -> None:
    if not can_trace():
        pytest.skip("strace is not installed or cannot attach")


def faulty(bench: Bench, fault: str) -> Bench:
    """The bench with a fault of the product planted in each attempt."""
    return Bench(bench.lane, bench.shared, fault=fault)


@pytest.mark.parametrize(("case", "seed", "n"), [(RUN, 0, 4), (Case("ajepa", workers=2, steps=6), 1, 3)])
def test_a_run_that_is_killed_again_and_again_ends_like_the_undisturbed_one(bench, case, seed, n):
    row = trials.kills(bench, case, seed, n)
    assert row.wrong == [], row
    assert len(row.landed) == n


@pytest.mark.parametrize("call", [("fsync", 3), ("unlinkat", 2)])
def test_a_kill_inside_a_save_of_a_run(bench, traceable, call):
    row = trials.crash_at(bench, SAVES, "save", 2, call)
    assert row.wrong == [], row
    assert row.landed == ["save"]


def test_a_storage_error_inside_a_save_of_a_run(bench, traceable):
    row = trials.error_at(bench, SAVES, ("fsync", 2), "ENOSPC")
    assert row.wrong == [], row


def test_a_disk_that_stays_full_ends_the_run_to_be_started_again(bench):
    row = trials.full_for_a_while(bench, RUN, "quota", stays=True)
    assert row.wrong == [], row


def test_a_worker_that_dies_with_torchs_lock_is_ended_by_the_watchdog(bench):
    """The main process waits for that lock for ever, and no error is raised."""
    row = trials.dying_worker(bench, dataclasses.replace(RUN, workers=2), "killed with torch's lock", watchdog_s=2.0)
    assert row.wrong == [], row
    assert row.landed == ["watchdog"]


def test_rows_that_are_written_twice_are_noticed_by_a_kill_in_a_save(bench, traceable):
    row = trials.crash_at(faulty(bench, "rows twice"), SAVES, "save", 2, ("mkdir", 1))
    assert row.wrong != []


def test_a_planted_restart_from_zero_is_noticed(bench):
    """Its numbers are those of the undisturbed run: only the work is done twice."""
    row = trials.signalled(faulty(bench, "starts again at step 0"), RUN, "SIGTERM", "step", 0)
    (wrong,) = row.wrong
    assert wrong.startswith("did not go on from step")
