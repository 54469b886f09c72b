"""Many processes on one store, killed, stopped, forked, without rights, out of room (tests/store_trials.py and
store_crowd.py do it; the large form is benchmarks/results_store.py)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from store_crowd import quick_folder

TESTS = Path(__file__).parents[1]
KINDS = {"database": False, "spool": True}


@pytest.fixture(scope="module")
def crowds() -> dict[str, Any]:
    """All crowds in one process, for it imports once."""
    with quick_folder() as folder:
        jobs = {}
        for kind, spool in KINDS.items():
            path = {"spool": spool, "path": str(folder / kind / "results.sqlite")}
            jobs[f"{kind} crowd"] = {"what": "crowd", **path, "n_writers": 8, "n_rows": 100, "killed": 0.25, "seed": 1}
            for dead in (False, True):
                path = {"spool": spool, "path": str(folder / f"{kind}{dead}" / "results.sqlite")}
                jobs[f"{kind} races {dead}"] = {"what": "races", **path, "n_racers": 16, "n_jobs": 10, "dead": dead}
        answers = run("store_crowd.py", json.dumps(list(jobs.values())))
    return dict(zip(jobs, answers, strict=True))


@pytest.fixture(scope="module")
def trials() -> dict[str, Any]:
    names = ("merges", "adds", "migrations", "stopped", "inherited", "without_rights", "no_room")
    with quick_folder() as folder:
        return run("store_trials.py", str(folder), "3", *names)


def run(script: str, *arguments: str) -> Any:
    done = subprocess.run([sys.executable, TESTS / script, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost_or_doubled(crowds: dict[str, Any], kind: str) -> None:
    found = crowds[f"{kind} crowd"]
    assert (found["n_killed"], found["n_errors"]) == (2, 0)
    assert (found["n_lost"], found["n_double"]) == (0, 0)
    assert found["integrity"] == {"database": "ok", "spool": "files"}[kind]
    assert 6 * 80 + 20 <= found["n_acknowledged"] <= found["n_rows"] <= found["n_acknowledged"] + 2 <= 660 + 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", [False, True], ids=["fresh", "after a dead winner"])
def test_every_job_has_one_winner(crowds: dict[str, Any], kind: str, dead: bool) -> None:
    assert crowds[f"{kind} races {dead}"] == [1] * 10


def test_a_merge_may_be_killed_anywhere(trials: dict[str, Any]) -> None:
    assert trials["merges"]["wrong"] == []
    assert trials["merges"]["n_events"] > 40
    assert trials["merges"]["last"] == 3


def test_an_add_may_be_killed_anywhere(trials: dict[str, Any]) -> None:
    assert trials["adds"]["wrong"] == []
    assert trials["adds"]["n_events"]["False"] > 50
    assert trials["adds"]["n_events"]["True"] > 10


def test_one_opener_migrates_and_the_others_wait(trials: dict[str, Any]) -> None:
    found = trials["migrations"]
    assert found["codes"] == [0] * 8
    assert (found["version"], found["added"]) == (2, "before")
    assert "was made by a newer birdjepa (its version is 2, this one knows 1)" in found["older"]


def test_a_stopped_writer_is_named_and_awaited(trials: dict[str, Any]) -> None:
    found = trials["stopped"]
    assert found["during"].startswith("StorageError: ")
    assert f"has been locked for 0.3 s by process {found['pid']}: let it go on or end it" in found["during"]
    assert found["reading"] == 0
    assert found["after"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_may_be_forked(trials: dict[str, Any], kind: str) -> None:
    assert trials["inherited"][str(KINDS[kind])] == [[True] * 4, 4, [True, False, False, False, False]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_only_be_read_is_read(trials: dict[str, Any], kind: str) -> None:
    found = trials["without_rights"][str(KINDS[kind])]
    assert found["read"] == 1
    for refused in (found["add"], found["new"]):
        assert refused.startswith(("UsageError", "StorageError"))
        assert "cannot be written to" in refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_quota_loses_nothing(trials: dict[str, Any], kind: str) -> None:
    found = trials["no_room"][str(KINDS[kind])]
    assert found["add"].startswith("StorageError: ")
    assert "bytes are free" in found["add"]
    assert "File too large" in found["scores"]
    assert (found["left"], found["rows"], found["after"]) == ([], 1, True)
