"""`birdjepa pretrain` as scripts use it: names, exit codes, and real processes that are stopped, killed and resumed."""

import contextlib
import json
import os
import signal
import time

import pytest
from tiny_run import COMMAND, differences, running, tiny, write_config, write_songs

from birdjepa import cli
from birdjepa.cli.pretrain import configure
from birdjepa.cli.runs import take
from birdjepa.core.errors import UsageError
from birdjepa.optim.adversarial import AdversarialAdamWConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.muon import MuonConfig
from birdjepa.recipes import pretrain

STEPS = 40


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8, damaged=1)


@pytest.fixture(scope="module")
def whole(songs, tmp_path_factory):
    """The uninterrupted run that all stopped ones must equal."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    pretrain.start(tiny(songs, folder, steps=STEPS), lambda _: None)
    return folder


def process(*arguments):
    """`birdjepa pretrain ...` in its own process group."""
    return running([*COMMAND, "pretrain", *map(str, arguments)])


def wait_for(run, n_rows, child):
    """Returns when the run has logged so many rows (or is over)."""
    end = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if (run / "metrics.jsonl").read_bytes().count(b"\n") >= n_rows:
                return
        time.sleep(0.002)


@pytest.mark.parametrize(("name", "workers", "to_group"), [(signal.SIGTERM, 2, True), (signal.SIGINT, 0, False)])
def test_a_signal_saves_and_exits_with_75(songs, whole, tmp_path, capsys, name, workers, to_group):
    run = tmp_path / "run"
    file = write_config(tiny(songs, run, steps=STEPS, workers=workers, checkpoint_every=1000), tmp_path / "c.json")
    with process("lejepa", "--config", file) as child:
        wait_for(run, 3, child)
        assert cli.main(["pretrain", "--resume", str(run)]) == 2
        assert "another process is running this run" in capsys.readouterr().err
        (os.killpg if to_group else os.kill)(child.pid, name)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 75, said
    assert "Traceback" not in said
    assert f"go on with: birdjepa pretrain --resume {run}" in said.splitlines()[-1]
    (saved,) = (run / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step-")) >= 3
    assert cli.main(["pretrain", "--resume", str(run)]) == 3
    assert capsys.readouterr().out == f"{run / 'encoder'}\n"
    assert differences(whole, run) == []


CONTRACT = [
    *("--data", "a", "b@2", "--out", "runs/x", "--seed", "7", "--train.steps", "11", "--train.batch-size", "24"),
    *("--train.checkpoint-every", "5", "--encoder.size", "small"),
]


def test_the_names_that_scripts_rely_on():
    config = configure(["lejepa", *CONTRACT])
    assert (config.data, str(config.out), config.seed) == (("a", "b@2"), "runs/x", 7)
    assert (config.train.steps, config.train.batch_size, config.train.checkpoint_every) == (11, 24, 5)
    assert config.encoder.size == "small"
    assert take(["--resume", "runs/x"], "--resume") == ([], "runs/x")
    assert take(["a", "--resume=runs/x", "b"], "--resume") == (["a", "b"], "runs/x")


def test_a_file_is_laid_over_the_recipe_and_the_command_line_over_both(songs, tmp_path):
    saved = write_config(tiny(songs, tmp_path / "run"), tmp_path / "config.json")
    assert configure(["--config", str(saved)]) == tiny(songs, tmp_path / "run")
    assert configure(["lejepa", "--config", str(saved), "--train.steps", "9"]) == tiny(songs, tmp_path / "run", steps=9)
    (tmp_path / "c.toml").write_text('data = ["x"]\nseed = 4\n[train]\nsteps = 17\n[encoder]\nsize = "nano"\n')
    config = configure(["--config", str(tmp_path / "c.toml"), "--seed", "5"])
    assert (config.data, config.seed, config.train.steps, config.encoder.size) == (("x",), 5, 17, "nano")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a recipe (lejepa"),
        (["--data", "x"], "name a recipe (lejepa"),
        (["lejpa", "--data", "x"], "'lejpa' is not a recipe; there are lejepa"),
        (["lejepa"], "--data is missing"),
        (["lejepa", "--data", "absent"], "absent: not found"),
        (["lejepa", "--data", "x", "--train.steps", "0"], "must be at least 1"),
        (["lejepa", "--data", "x", "--train.stps", "1"], "did you mean --train.steps?"),
        (["--resume"], "--resume needs a path"),
        (["--resume", "absent"], "no run here"),
        (["--resume", "absent", "--train.steps", "5"], "leave out --train.steps 5"),
        (["--config", "absent.toml"], "cannot be read"),
        (["lejepa", "--data", "x", "--optim.lr", "-1"], "need lr > 0"),
        (["lejepa", "--data", "x", "--optim", "sgd"], "--optim sgd: there are adamw, muon"),
        (["lejepa", "--data", "x", "--optim"], "--optim needs a name (adamw, muon)"),
        (["daam", "--data", "x", "--optim", "muon"], "--optim muon: there are adamw"),
        (["lejepa", "--data", "x", "--optim.momentum", "0.9"], "--optim.momentum"),
        (["lejepa", "--data", "x", "--mup-base-width", "96"], "must be a positive multiple of 64"),
    ],
)
def test_usage_errors_are_one_line_and_leave_nothing(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["pretrain", *arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.startswith("birdjepa: ")
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_toml_with_an_unknown_setting_is_refused(tmp_path, capsys):
    (tmp_path / "c.toml").write_text("[train]\nsetps = 17\n")
    assert cli.main(["pretrain", "--config", str(tmp_path / "c.toml")]) == 2
    assert "c.toml.train has no setting 'setps'; did you mean 'steps'?" in capsys.readouterr().err


def test_exit_codes_0_and_1(tmp_path, capsys):
    good, bad = write_songs(tmp_path / "good", 4), write_songs(tmp_path / "bad", 0, damaged=2)
    file = write_config(tiny(good, tmp_path / "run"), tmp_path / "c.json")
    assert cli.main(["pretrain", "--config", str(file)]) == 0
    assert cli.main(["pretrain", "--config", str(file)]) == 2
    assert cli.main(["pretrain", "--config", str(file), "--data", str(bad), "--out", str(tmp_path / "other")]) == 1
    shown = capsys.readouterr().err.splitlines()
    assert "cannot be read, the last one" in shown[-1]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["seed"] == 3


def test_a_kind_of_setting_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match="invalid choice 'gleu'"):
        configure(["lejepa", "--encoder.mlp", "gleu"])


def test_an_optimiser_is_chosen_by_its_name(tmp_path):
    assert configure(["lejepa", "--optim", "muon", "--optim.lr", "2e-3"]).optim == MuonConfig(lr=2e-3)
    assert configure(["lejepa", "--optim=adamw"]).optim == AdamWConfig(lr=2e-3)  # the recipe's own
    file = tmp_path / "c.toml"
    file.write_text('[optim]\nkind = "MuonConfig"\nlr = 0.004\n')
    assert configure(["lejepa", "--config", str(file)]).optim == MuonConfig(lr=0.004)
    assert configure(
        ["lejepa", "--config", str(file), "--optim", "muon", "--optim.momentum", "0.9"]
    ).optim == MuonConfig(lr=0.004, momentum=0.9)
    assert configure(["lejepa", "--config", str(file), "--optim", "adamw"]).optim == AdamWConfig()
    assert isinstance(configure(["codec", "--optim", "adamw"]).optim, AdversarialAdamWConfig)
    assert configure(["codec", "--optim", "muon", "--optim.lr", "2e-3"]).optim.lr == 2e-3
