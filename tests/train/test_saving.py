"""A save that fails costs nothing once, ends the run at the third time, and never loses a row of the metrics."""

import errno
import os

import pytest
from tiny_run import metrics

from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.checkpoint.store import NotDeleted, NotWritten
from birdjepa.core.errors import StorageError
from birdjepa.train import saving
from birdjepa.train.config import SinksConfig
from birdjepa.train.saving import NotSaved, Saves
from birdjepa.train.sinks import Sinks


def failing(*errors):
    """A save that raises each error in turn, or works where it is None."""
    left = list(errors)

    def save():
        error = left.pop(0)
        if error is not None:
            raise error

    return save


FULL = NotWritten("disk full")


def test_failures_are_told_and_three_in_a_row_end_the_run():
    said = []
    saves = Saves(said.append)
    save = failing(FULL, FULL, None, FULL, StorageError("rows"), FULL)
    for _ in range(5):
        saves.soon(save)
    assert len(said) == 4
    assert all("the run goes on and saves again at its next checkpoint" in line for line in said)
    with pytest.raises(NotSaved, match=r"disk full; 3 saves in a row .*--resume") as error:
        saves.soon(save)
    assert error.value.exit_code == 75


def test_what_cannot_wait_is_tried_again_after_pauses(monkeypatch):
    said, slept = [], []
    monkeypatch.setattr(saving.time, "sleep", slept.append)
    Saves(said.append).now(failing(FULL, FULL, None))
    assert slept == list(saving.PAUSES_S)
    assert len(said) == 2
    with pytest.raises(NotSaved, match="given up after 3 tries"):
        Saves(said.append).now(failing(FULL, FULL, FULL))


def test_an_old_checkpoint_that_stays_is_no_failure():
    said = []
    saves = Saves(said.append)
    for _ in range(5):
        saves.soon(failing(NotDeleted("step 1 cannot be deleted")))
    assert said == ["step 1 cannot be deleted"] * 5


def test_a_state_that_holds_nan_is_not_tried_again():
    with pytest.raises(CheckpointError, match="holds NaN"):
        Saves(print).now(failing(CheckpointError("holds NaN")))


def rows_through(folder, monkeypatch, fail):
    """Steps 1 to 5, a sync after each second, while os.write or os.fsync fails as told. Returns what failed."""
    failed = []
    with Sinks(folder, SinksConfig(), {}, first_step=0) as sinks:
        fail(monkeypatch)
        for step in range(1, 6):
            if step == 4:
                monkeypatch.undo()
            sinks.write({"step": step, "loss": 0.1 * step})
            if step % 2 == 0:
                try:
                    sinks.sync()
                except StorageError as error:
                    failed.append(str(error))
    return failed


def full(monkeypatch):
    """Takes ten bytes, then none."""
    write, room = os.write, [10]

    def short(file, data):
        n = min(room[0], len(data))
        if n == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= n
        return write(file, data[:n])

    monkeypatch.setattr(os, "write", short)


def lost(monkeypatch):
    """A sync fails, and what was written is gone."""

    def sync(file):
        os.ftruncate(file, 0)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.parametrize(("fail", "reason"), [(full, "No space left on device"), (lost, "Input/output error")])
def test_rows_outlive_a_disk_that_fails_for_a_while(tmp_path, monkeypatch, fail, reason):
    (failed,) = rows_through(tmp_path, monkeypatch, fail)
    assert failed.startswith(f"{tmp_path / 'metrics.jsonl'}: rows not written: {reason}; ")
    assert failed.endswith(" bytes free")
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_disk_that_stays_full_loses_rows_that_no_checkpoint_follows(tmp_path, monkeypatch):
    with Sinks(tmp_path, SinksConfig(), {}, first_step=0) as sinks:
        sinks.write({"step": 1})
        sinks.sync()
        full(monkeypatch)
        sinks.write({"step": 2, "loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[0] == '{"step": 1}'
