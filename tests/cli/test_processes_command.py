"""Two processes through the command line: one that gets a signal stops both, one that dies leaves none behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import metrics, tiny, write_config, write_songs

import birdjepa
from birdjepa import cli
from birdjepa.core import processes
from birdjepa.core.errors import UsageError
from birdjepa.core.processes import Processes
from birdjepa.recipes import run_folder
from birdjepa.recipes.finetune_config import FinetuneConfig
from birdjepa.train.loop import pick_device

STEPS = 24


def start_two(*arguments):
    """As torchrun starts them; without its own process, whose exit code hides theirs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = f"{Path(birdjepa.__file__).parents[1]}:{os.environ.get('PYTHONPATH', '')}"
    return [
        subprocess.Popen(
            [sys.executable, "-m", "birdjepa", "pretrain", *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def wait_for_step(run, step, started):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and any(row["step"] >= step for row in metrics(run)):
            return
        if any(process.poll() is not None for process in started):
            break
        time.sleep(0.02)
    for process in started:
        process.kill()
    raise AssertionError([process.communicate()[1] for process in started])


def ended(started):
    errors = [process.communicate(timeout=100)[1] for process in started]
    return [process.returncode for process in started], errors


def test_a_signal_to_one_stops_both_a_death_ends_both_and_one_process_finishes(tmp_path):
    songs = write_songs(tmp_path / "songs", 12, damaged=1)
    run, settings = tmp_path / "run", {"batch_size": 16, "accumulate": 1, "steps": STEPS, "checkpoint_every": 4}
    config = write_config(tiny(songs, run, engine="ddp", **settings), tmp_path / "config.json")

    started = start_two("--config", str(config))
    wait_for_step(run, 2, started)
    started[1].send_signal(signal.SIGTERM)
    codes, errors = ended(started)
    assert codes == [75, 75], errors
    assert sum("saved; go on with: birdjepa pretrain --resume" in text for text in errors) == 1
    assert "2 processes on cpu" in errors[0]
    last = metrics(run)[-1]["step"]
    assert (run / "checkpoints" / f"step-{last:08d}").is_dir()
    assert last < STEPS

    started = start_two("--resume", str(run), "--engine", "fsdp")
    wait_for_step(run, last + 1, started)
    started[1].kill()
    codes, errors = ended(started)
    assert codes == [1, -signal.SIGKILL], errors
    assert "process 0: another process of the run has ended" in errors[0]
    assert "Traceback" not in errors[0]

    command = [sys.executable, "-m", "birdjepa", "pretrain", "--resume", str(run), "--engine", "single"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 3, done.stderr  # one recording was refused
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["loss"] == pytest.approx((rows[0]["loss_rank0"] + rows[0]["loss_rank1"]) / 2)
    assert rows[0]["loss_rank0"] != rows[0]["loss_rank1"]
    assert "loss_rank0" not in rows[-1]
    assert (run / "encoder" / "config.json").is_file()
    assert (run / "failures.csv").is_file()


def test_what_does_not_fit_several_processes_is_refused_by_name(tmp_path):
    config = tiny(tmp_path / "songs", tmp_path / "run", batch_size=16, accumulate=1)
    config.require_shares(1)
    config.require_shares(2)
    with pytest.raises(UsageError, match=r"train\.batch-size=16 must be a multiple of train\.accumulate=1 times the 3"):
        config.require_shares(3)
    with pytest.raises(UsageError, match=r"mixes clips in groups of 8.*set train\.batch-size to a multiple of 32"):
        config.require_shares(4)


def test_devices_of_several_processes(monkeypatch):
    assert pick_device("cpu", Processes(1, 1, 2)).type == "cpu"
    with pytest.raises(UsageError, match=r"train\.device=cuda:0 is one device, and there are 2 processes"):
        pick_device("cuda:0", Processes(1, 1, 2))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UsageError, match="process 1 has no GPU of its own: this machine has 1"):
        pick_device("auto", Processes(1, 1, 2))


def launched(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_who_am_i_is_what_torchrun_says(monkeypatch):
    launched(monkeypatch, RANK="3", LOCAL_RANK="1", WORLD_SIZE="4")
    assert processes.asked() == Processes(3, 1, 4)
    assert processes.here() == Processes()  # not connected yet
    launched(monkeypatch, RANK="4")
    with pytest.raises(UsageError, match="RANK=4, LOCAL_RANK=1, WORLD_SIZE=4 in the environment make no sense"):
        processes.asked()
    monkeypatch.delenv("RANK")
    assert processes.asked() == Processes()


def test_only_pretraining_takes_several_processes(monkeypatch, capsys):
    launched(monkeypatch, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert cli.main(["probe", "runs/first/encoder"]) == 2
    assert "probe is one process: start it without torchrun" in capsys.readouterr().err
    with pytest.raises(UsageError, match="fine-tuning is one process"):
        FinetuneConfig(data="x").check()


def test_an_engine_that_is_none_is_refused_when_resuming(tmp_path, capsys):
    config = tiny(tmp_path / "songs", tmp_path / "run")
    (tmp_path / "run").mkdir()
    run_folder.begin(tmp_path / "run", config, {})
    assert cli.main(["pretrain", "--resume", str(tmp_path / "run"), "--engine", "nonsense"]) == 2
    assert "train.engine must be one of 'single', 'ddp', 'fsdp', 'deepspeed', got 'nonsense'" in capsys.readouterr().err
