"""A pretraining run's folder, and what is refused before and during it."""

import csv
import dataclasses
import json
import os
import re
import signal

import pytest
import torch
from tiny_run import metrics, tiny, write_songs

import birdjepa
from birdjepa.checkpoint import store
from birdjepa.core import config as configs
from birdjepa.core.errors import Interrupted, MissingExtraError, UsageError, UserError
from birdjepa.core.failures import Failure
from birdjepa.data.loader import LoaderConfig
from birdjepa.objectives.lejepa import Lejepa
from birdjepa.recipes import pretrain, run_folder
from birdjepa.recipes.any_run import RUNS
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.run_folder import read_config
from birdjepa.train import sinks
from birdjepa.train.config import SinksConfig
from birdjepa.train.signals import StopSignal


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8, damaged=1)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def run(songs, said, tmp_path_factory):
    """A finished run."""
    return pretrain.start(tiny(songs, tmp_path_factory.mktemp("runs") / "run"), said.append).folder


def test_the_folder_holds_what_it_should(run, songs):
    names = {path.name for path in run.iterdir()} - {run_folder.LOCK}
    assert names == {"config.json", "provenance.json", "metrics.jsonl", "checkpoints", "encoder", "failures.csv"}
    assert {path.name for path in (run / "encoder").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert all(re.fullmatch(r"step-\d{8}", path.name) for path in (run / "checkpoints").iterdir())
    config = json.loads((run / "config.json").read_text())
    assert config["hash"] == configs.fingerprint(read_config(PretrainConfig, run))
    provenance = json.loads((run / "provenance.json").read_text())
    assert re.fullmatch("[0-9a-f]{16}", provenance["data"][str(songs)])
    assert provenance["n_threads"] == 1
    assert all("step" in row and "loss" in row for row in metrics(run))


def test_refused_recordings_are_listed_like_a_scans(run):
    with (run / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"].endswith("008.wav")
    assert (row["stage"], row["offset_s"]) == ("decode", "0")
    assert row["reason"].startswith("not audio")


def test_the_encoder_loads_and_says_where_it_comes_from(run, songs):
    encoder = birdjepa.load(run / "encoder")
    out = encoder.embed(torch.randn(2, 20_000).numpy(), sampling_rate=10_000)
    assert out.embedding.shape == (2, encoder.config.embedding_width)
    described = json.loads((run / "encoder" / "config.json").read_text())
    assert described["provenance"]["run_hash"] == configs.fingerprint(read_config(PretrainConfig, run))
    assert described["provenance"]["steps"] == 4
    card = (run / "encoder" / "README.md").read_text()
    assert "`metadata.csv`" in card
    assert str(songs.parent) not in card
    assert max(map(len, card.splitlines())) <= 130


def test_the_averaged_weights_are_exported(run):
    found = store.latest(run / "checkpoints", warn=print)
    assert found is not None
    weights = birdjepa.load(run / "encoder").state_dict()
    assert all(torch.equal(weights[name], found.tensors[f"ema.{name}"]) for name in weights)
    assert not all(torch.equal(weights[name], found.tensors[f"objective.encoder.{name}"]) for name in weights)


def test_the_run_introduces_itself(run, said):
    text = "\n".join(said)
    assert "data: 9 recordings" in text
    assert re.search(r"optimiser: AdamW decay +\d+ tensors", text)
    assert re.search(r"optimiser: AdamW no_decay +\d+ tensors .* weight decay 0$", text, re.M)
    assert f"run {configs.fingerprint(read_config(PretrainConfig, run))}: 4 steps of 4 clips, seed 3" in text


def test_an_existing_run_is_not_overwritten(run, songs, tmp_path):
    config = tiny(songs, run, steps=9)
    with pytest.raises(UsageError, match=r"go on with --resume .*; what you ask for differs: train.steps: 4 -> 9"):
        pretrain.start(config, print)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UsageError, match="exists already; choose another --out"):
        pretrain.start(tiny(songs, tmp_path / "notes"), print)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="exists already"):
        pretrain.start(tiny(songs, tmp_path / "notes" / "mine.txt"), print)
    with pytest.raises(UsageError, match="cannot be made"):
        pretrain.start(tiny(songs, tmp_path / "notes" / "mine.txt" / "run"), print)


def test_what_a_killed_start_leaves_is_no_run_and_is_cleared_away(songs, tmp_path):
    """Killed between provenance.json and config.json, or within either: there is nothing to go on from yet."""
    folder = tmp_path / "run"
    (folder / "encoder").mkdir(parents=True)
    with pytest.raises(UsageError, match="exists already"):
        run_folder.require_free(folder, None)
    (folder / "encoder").rmdir()
    for name in (".lock", "provenance.json", ".config.json.0123abcd.tmp"):
        (folder / name).write_text("{")
    run_folder.require_free(folder, None)
    (folder / "checkpoints").mkdir()
    for name in ("checkpoints/.metrics.jsonl.0123abcd.tmp", ".report.html.0123abcd.tmp", ".mine.tmp"):
        (folder / name).touch()
    with run_folder.only_one(folder):
        left = sorted(path.name for path in folder.rglob(".*.tmp"))
    assert left == [".mine.tmp", ".report.html.0123abcd.tmp"]  # a report is written without the lock


def test_the_first_error_is_told_where_the_refused_cannot_be_listed_either(tmp_path):
    refused = {"a.wav": Failure("a.wav", "decode", 0.0, "truncated")}
    absent = tmp_path / "file"
    absent.touch()
    with pytest.raises(UserError, match="first"), run_folder.listing_refused(absent, refused):
        raise UserError("first")
    with pytest.raises(UserError, match="second"), run_folder.listing_refused(tmp_path, refused):
        raise UserError("second")
    assert run_folder.read_refused(tmp_path) == refused
    with pytest.raises(OSError, match="file"), run_folder.listing_refused(absent, refused):
        pass


def test_a_signal_during_the_start_ends_it_before_anything_is_built(songs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(PretrainConfig, "make_objective", lambda *_: pytest.fail("built"))
    with StopSignal() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.stop()
        with pytest.raises(Interrupted, match=r"stopped before its first step; go on with: birdjepa pretrain --resume"):
            pretrain.start(tiny(songs, folder), print)
    monkeypatch.undo()
    assert pretrain.resume(folder, print).config.train.steps == 4


def test_what_cannot_be_resumed_is_refused(run, songs, tmp_path):
    with pytest.raises(UsageError, match="no run here"):
        pretrain.resume(tmp_path / "absent", print)
    assert not (tmp_path / "absent").exists()
    copy = tmp_path / "copy"
    copy.mkdir()
    described = json.loads((run / "config.json").read_text())
    described["config"]["train"]["steps"] = 5
    (copy / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match=r"was edited, so the run cannot go on; start a new one with --config"):
        pretrain.resume(copy, print)


def test_changed_data_is_refused_and_another_machine_is_told(tmp_path):
    songs = write_songs(tmp_path / "songs", 4)
    pretrain.start(tiny(songs, tmp_path / "run"), print)
    origin = json.loads((tmp_path / "run" / "provenance.json").read_text())
    origin["packages"]["torch"], origin["n_threads"] = "1.0", 64
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(origin))
    said = []
    pretrain.resume(tmp_path / "run", said.append)
    told = [line for line in said if "not the same to the last bit" in line]
    assert len(told) == 2
    assert "packages.torch" in told[0]
    assert "n_threads: 64 -> 1" in told[1]
    with (tmp_path / "songs" / "000.wav").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UsageError, match=r"the data has changed since the run began: .*metadata.csv: "):
        pretrain.resume(tmp_path / "run", print)


def test_a_first_try_that_failed_leaves_the_folder_free(tmp_path):
    songs = write_songs(tmp_path / "songs", 0, damaged=3)
    with pytest.raises(UserError, match="20 recordings in a row cannot be read"):
        pretrain.start(tiny(songs, tmp_path / "run"), print)
    config = tiny(songs, tmp_path / "other")
    with pytest.raises(UsageError, match="no column 'split'"):
        pretrain.start(dataclasses.replace(config, splits=("train",)), print)
    assert not (tmp_path / "other").exists()


def test_a_missing_extra_is_told_before_anything_is_made(songs, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"birdjepa\[wandb\]"):
        pretrain.start(tiny(songs, tmp_path / "run", sinks=SinksConfig(wandb_project="p")), print)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_names_the_recordings(songs, tmp_path, monkeypatch):
    forward = Lejepa.forward

    def poisoned(self, batch, chance):
        output = forward(self, batch, chance)
        return output._replace(loss=output.loss * float("nan")) if chance.step == 2 else output

    monkeypatch.setattr(Lejepa, "forward", poisoned)
    with pytest.raises(UserError, match=r"step 3: loss nan.*or look at its \d recordings: .*00\d.wav") as error:
        pretrain.start(tiny(songs, tmp_path / "run"), print)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1
    assert not (tmp_path / "run" / "encoder").exists()


def test_nan_in_a_recording_never_reaches_the_loss(tmp_path):
    import numpy as np
    import soundfile

    songs = write_songs(tmp_path / "songs", 4)
    samples = np.zeros(16_000, np.float32)
    samples[::1000] = np.nan
    soundfile.write(tmp_path / "songs" / "000.wav", samples, 8_000, subtype="FLOAT")
    result = pretrain.start(tiny(songs, tmp_path / "run", steps=8), print)
    assert [refusal.reason.split(":")[0] for refusal in result.refused.values()] == ["not finite"]
    assert all(row["loss"] is not None for row in metrics(tmp_path / "run"))


def test_splits_and_weights_choose_what_is_learnt_from(tmp_path):
    write_songs(tmp_path, 4)
    (tmp_path / "m.csv").write_text("path,split\n000.wav,train\n001.wav,train\n002.wav,valid\n003.wav,test\n")
    config = tiny(tmp_path / "m.csv", tmp_path / "run")
    config = dataclasses.replace(config, splits=("train", "valid"), data=(f"{tmp_path / 'm.csv'}@2", str(tmp_path)))
    with pytest.raises(UsageError, match="no column 'split'"):
        pretrain.open_sources(config)
    config = dataclasses.replace(config, data=config.data[:1])
    (source,) = pretrain.open_sources(config)
    assert source.keys == ["000.wav", "001.wav", "002.wav"]
    with pytest.raises(UsageError, match="no rows with split dev; there are test, train, valid"):
        pretrain.open_sources(dataclasses.replace(config, splits=("dev",)))
    both = dataclasses.replace(config, splits=(), data=(f"{tmp_path / 'm.csv'}@3", str(tmp_path)))
    clips = both.open_clips(pretrain.open_sources(both))
    assert clips.order.shares[0] / clips.order.shares[1] == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": ()}, "--data is missing"),
        ({"loader": LoaderConfig(clip_s=0.3)}, "set --loader.clip-s"),
        ({"front_end": {"n_mels": 40}}, "patch.mels must divide n_mels=40"),
        ({"train": {"batch_size": 2, "accumulate": 2}}, "must be at least 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(songs, tmp_path, change, told):
    config = tiny(songs, tmp_path / "run")
    for name, value in change.items():
        new = dataclasses.replace(getattr(config, name), **value) if isinstance(value, dict) else value
        config = dataclasses.replace(config, **{name: new})
    with pytest.raises(UsageError, match=re.escape(told)):
        pretrain.start(config, print)
    assert not (tmp_path / "run").exists()


def test_every_recipe_is_whole(songs):
    for name, recipe in RECIPES.items():
        config = dataclasses.replace(recipe(), data=(str(songs),))
        assert type(config) in RUNS.values(), name
        if name != "codec":  # needs an encoder: tests/recipes/test_recipes.py
            config.check()
        assert recipe.__doc__, name
