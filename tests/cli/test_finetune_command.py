"""`birdjepa finetune`: names that scripts rely on, exit codes, one-line complaints, signals."""

import contextlib
import json
import os
import signal
import subprocess
import time

import pytest
from tiny_run import COMMAND, metrics, tiny_finetune, write_config, write_encoder, write_folds

from birdjepa import cli
from birdjepa.cli.finetune import configure
from birdjepa.recipes import finetune


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "encoder")


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_folds(tmp_path_factory.mktemp("songs"))


CONTRACT = [
    *("--data", "m.csv", "--out", "runs/x", "--seed", "7", "--folds", "fold", "--test", "a", "--blocks", "1"),
    *("--train.steps", "11", "--objective.head.form", "attentive", "--objective.loss", "asymmetric"),
    *("--optim.lr", "0.001", "--objective.mixup", "0.3", "--start", "random", "--patience", "2"),
]


def test_the_names_that_scripts_rely_on(encoder):
    config = configure([str(encoder), *CONTRACT])
    assert (config.encoder, config.data, str(config.out), config.seed) == (encoder, "m.csv", "runs/x", 7)
    assert (config.folds, config.test, config.blocks, config.start, config.patience) == ("fold", "a", 1, "random", 2)
    assert (config.train.steps, config.optim.lr, config.objective.mixup) == (11, 0.001, 0.3)
    assert (config.objective.head.form, config.objective.loss) == ("attentive", "asymmetric")


def test_clips_are_as_long_as_the_encoders(encoder):
    assert configure([str(encoder)]).loader.clip_s == 1.0
    assert configure([str(encoder), "--loader.clip-s", "0.5"]).loader.clip_s == 0.5


def test_a_saved_configuration_starts_the_same_run_again(encoder, songs, tmp_path):
    config = tiny_finetune(encoder, songs, tmp_path / "run")
    file = write_config(config, tmp_path / "c.json")
    assert configure(["--config", str(file)]) == config
    assert configure(["--config", str(file), "--train.steps", "9"]).train.steps == 9


PLAIN = ("--columns.labels", "none")
"""Leaves out the column in which a recording has two labels."""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name an encoder folder (runs/first/encoder), or give --config FILE or --resume RUN"),
        (["absent", "--data", "x"], "absent/config.json: missing; give an encoder folder"),
        (["ENCODER"], "--data is missing"),
        (["ENCODER", "--data", "absent.csv"], "absent.csv: not found"),
        (["ENCODER", "--data", "SONGS", "--folds", "nothing"], "no column 'nothing'"),
        (["ENCODER", "--data", "SONGS", *PLAIN, "--folds", "fold", "--test", "z"], "--test z: no such fold"),
        (["ENCODER", "--data", "SONGS", "--bloks", "1"], "did you mean --blocks?"),
        (["ENCODER", "--data", "SONGS", "--blocks", "7"], "--blocks 7: the encoder has 2"),
        (["ENCODER", "--data", "SONGS"], "001.wav has 2 labels: set --objective.loss binary"),
        (["--resume", "absent"], "no run here"),
        (["--resume", "absent", "--seed", "5"], "leave out --seed 5"),
    ],
)
def test_usage_errors_are_one_line_and_leave_nothing(arguments, told, encoder, songs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"ENCODER": str(encoder), "SONGS": str(songs)}
    assert cli.main(["finetune", *(given.get(argument, argument) for argument in arguments)]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_prints_its_score_and_its_model(encoder, songs, tmp_path, capsys):
    config = tiny_finetune(encoder, songs, tmp_path / "run", folds="fold", test="a", steps=2)
    file = write_config(config, tmp_path / "c.json")
    assert cli.main(["finetune", "--config", str(file)]) == 0
    shown = capsys.readouterr()
    assert "fine-tuned" in shown.out
    assert shown.out.splitlines()[-1] == str(tmp_path / "run" / "model")
    assert "2 steps of 4 clips of 0.9 s are" in shown.err
    assert cli.main(["finetune", "--config", str(file)]) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert cli.main(["finetune", "--resume", str(tmp_path / "run"), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert {"accuracy", "macro_f1", "balanced_accuracy", "best_step", "confusion"} <= score.keys()


def test_refused_recordings_exit_with_3(encoder, tmp_path, capsys):
    songs = write_folds(tmp_path / "songs", 12, damaged=1)
    config = tiny_finetune(encoder, songs, tmp_path / "run", steps=2)
    assert cli.main(["finetune", "--config", str(write_config(config, tmp_path / "c.json"))]) == 3
    assert "1 recordings were refused; see" in capsys.readouterr().err


def wait_for_rows(run, n_rows, child):
    end = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if (run / "metrics.jsonl").read_bytes().count(b"\n") >= n_rows:
                return
        time.sleep(0.002)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_or_a_kill_changes_nothing(encoder, songs, tmp_path, how):
    whole, cut = (tiny_finetune(encoder, songs, tmp_path / name, folds="fold", test="a", steps=30) for name in "ab")
    finetune.start(whole, lambda _: None)
    file = write_config(cut, tmp_path / "c.json")
    child = subprocess.Popen([*COMMAND, "finetune", "--config", str(file)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_rows(cut.out, 5, child)
        os.kill(child.pid, how)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == (75 if how == signal.SIGTERM else -signal.SIGKILL), said
    assert how == signal.SIGKILL or f"go on with: birdjepa finetune --resume {cut.out}" in said
    finetune.resume(cut.out, lambda _: None)
    assert metrics(whole.out) == metrics(cut.out)
    for name in ("model/head.safetensors", "last/model.safetensors", "predictions.csv"):
        assert (whole.out / name).read_bytes() == (cut.out / name).read_bytes(), name
