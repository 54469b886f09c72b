"""Forks: the parent up to the fork, then a decay of their own, exactly as if the whole run had been planned so."""

import dataclasses
import json
import shutil

import pytest
from tiny_run import differences, final_state, metrics, tiny, write_songs

from birdjepa import cli
from birdjepa.checkpoint.store import RetentionConfig
from birdjepa.core.errors import UsageError
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.curriculum import CurriculumConfig
from birdjepa.optim.schedules import ScheduleConfig
from birdjepa.recipes import pretrain, run_folder
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.fork import ForkArguments, fork

SCHEDULE = ScheduleConfig(warmup=0.2, decay=0.4, decay_shape="linear", final=0.1, final_weight_decay=3.0)
"""Over ten steps: warm-up over two, decay over the last four. Its weight decay grows with the run."""
KEEP = RetentionConfig(keep_last=1, keep_every=2)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8, damaged=1)


def planned(songs, folder, **changes) -> PretrainConfig:
    config = tiny(songs, folder, steps=10, accumulate=1, retention=KEEP)
    return dataclasses.replace(config, schedule=SCHEDULE, **changes)


@pytest.fixture(scope="module")
def parent(songs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "run"
    pretrain.start(planned(songs, folder), lambda _: None)
    return folder


def forked(parent, out, at_step, cooldown):
    folder = fork(ForkArguments(fork=parent, at_step=at_step, cooldown=cooldown, out=out), lambda _: None)
    return pretrain.resume(folder, lambda _: None)


def test_a_fork_where_the_parent_decayed_is_the_parent(parent, tmp_path):
    """Bit for bit: weights, moments, averages, probe, bank, logged rows, encoder."""
    forked(parent, tmp_path / "run", 6, 4)
    assert differences(parent, tmp_path / "run") == []


def test_a_fork_equals_the_run_that_was_planned_so_from_the_start(songs, parent, tmp_path):
    child = forked(parent, tmp_path / "run", 4, 3)
    lr = [row["lr"] / 1e-3 for row in metrics(child.folder)]
    assert lr == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 1.0, 0.7, 0.4])
    pretrain.start(dataclasses.replace(child.config, out=tmp_path / "whole"), lambda _: None)
    assert differences(tmp_path / "whole", child.folder) == []
    assert differences(parent, child.folder) != []


def test_a_fork_that_is_stopped_goes_on_exactly(parent, tmp_path):
    """Past the end of its parent, from a checkpoint between the fork and its own end."""
    one = forked(parent, tmp_path / "one", 6, 8)
    folder = fork(ForkArguments(fork=parent, at_step=6, cooldown=8, out=tmp_path / "other"), lambda _: None)
    shutil.copytree(one.folder / "checkpoints" / "step-00000010", folder / "checkpoints" / "step-00000010")
    said = []
    pretrain.resume(folder, said.append)
    assert "going on from step 10 of 14" in said
    assert [row["step"] for row in metrics(folder)] == [*range(1, 7), *range(11, 15)]
    assert final_state(folder) == final_state(one.folder)


def test_masks_and_teacher_go_on_by_the_parents_length(songs, tmp_path):
    """A-JEPA on a curriculum, whose masks and momentum follow the share of the run that is done."""
    objective = AjepaConfig(masks=CurriculumConfig(), momentum=(0.5, 1.0))
    pretrain.start(planned(songs, tmp_path / "parent", objective=objective), lambda _: None)
    child = forked(tmp_path / "parent", tmp_path / "same", 6, 4)
    assert differences(tmp_path / "parent", child.folder) == []
    longer = forked(tmp_path / "parent", tmp_path / "longer", 6, 6)
    assert longer.config.train.steps == 12
    before, after = metrics(tmp_path / "parent"), metrics(longer.folder)
    assert [row["context_share"] for row in after[6:8]] == [row["context_share"] for row in before[6:8]]
    assert [row["loss"] for row in after[6:8]] == [row["loss"] for row in before[6:8]], "masks, then momentum"


def test_the_new_run_says_where_it_comes_from(parent, tmp_path):
    folder = fork(ForkArguments(fork=parent, at_step=4, cooldown=2, out=tmp_path / "run"), lambda _: None)
    noted = json.loads((folder / "provenance.json").read_text())
    its = json.loads((parent / "config.json").read_text())
    assert noted["forked_from"] == {"run": str(parent), "hash": its["hash"], "step": 4}
    assert noted["data"] == json.loads((parent / "provenance.json").read_text())["data"]
    config = run_folder.read_config(PretrainConfig, folder)
    assert (config.train.steps, config.out) == (6, tmp_path / "run")
    assert [row["step"] for row in metrics(folder)] == [1, 2, 3, 4]
    parents, meta = final_state(folder)
    assert len(parents) > 50
    assert meta["n_refused"] == metrics(parent)[3]["n_refused"]


@pytest.mark.parametrize(
    ("at_step", "cooldown", "told"),
    [
        (5, 4, r"no checkpoint of step 5; there are 2, 4, 6, 8, 10. Multiples of train.retention.keep-every, 2,"),
        (6, 0, "--cooldown must be at least 1"),
        (11, 4, "--at-step must be one of the parent's steps, 1 to 10"),
        (0, 4, "--at-step must be one of the parent's steps"),
        (10, 4, "has fallen to schedule.final already; fork it where it is higher, best .* which began at 6"),
    ],
)
def test_what_cannot_be_forked_is_refused_and_leaves_nothing(parent, tmp_path, at_step, cooldown, told):
    with pytest.raises(UsageError, match=told):
        fork(ForkArguments(fork=parent, at_step=at_step, cooldown=cooldown, out=tmp_path / "run"), lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_of_a_fork(parent, tmp_path):
    first = forked(parent, tmp_path / "first", 6, 6)
    second = forked(first.folder, tmp_path / "second", 6, 4)
    assert differences(parent, second.folder) == []
    with pytest.raises(UsageError, match="is itself a fork that decays after step 6"):
        forked(first.folder, tmp_path / "third", 8, 4)


def test_the_command_forks_and_trains(parent, tmp_path, capsys):
    arguments = ["pretrain", "--fork", str(parent), "--at-step", "6", "--cooldown", "4"]
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 3
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'encoder'}\n"
    assert differences(parent, tmp_path / "run") == []
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert cli.main([*arguments, "--train.steps", "9"]) == 2
    assert "--train.steps" in capsys.readouterr().err
    assert cli.main(["pretrain", "--fork", str(tmp_path / "none"), "--at-step", "1", "--cooldown", "1"]) == 2
    assert "no run here" in capsys.readouterr().err


def test_changed_data_is_refused(songs, tmp_path):
    changed = write_songs(tmp_path / "songs", 8)
    pretrain.start(planned(changed, tmp_path / "parent"), lambda _: None)
    write_songs(tmp_path / "songs", 9)
    with pytest.raises(UsageError, match="the data has changed"):
        fork(ForkArguments(fork=tmp_path / "parent", at_step=4, cooldown=2), lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent", "songs"]


def test_several_processes_do_not_make_one_folder(parent, tmp_path, monkeypatch):
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="made by one process, not by 2"):
        fork(ForkArguments(fork=parent, at_step=4, cooldown=2, out=tmp_path / "run"), lambda _: None)
