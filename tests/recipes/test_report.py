"""The report of a run shows what its trained objective draws, and says so when it cannot."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import tiny, tiny_finetune, write_songs

from birdjepa.checkpoint import store
from birdjepa.objectives.added import AddedConfig, AddedSigregConfig
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.base import Objective
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.recipes import finetune, pretrain, report
from birdjepa.recipes.config import PretrainConfig
from birdjepa.report.contents import Absent, ReportConfig

SMALL = ReportConfig(n_clips=1, n_drawn=8, n_points=6, n_queries=1, n_neighbours=1)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), 12)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, songs: Path) -> PretrainConfig:
    """A finished run of A-JEPA with a term added."""
    config = dataclasses.replace(
        tiny(songs, tmp_path_factory.mktemp("runs") / "first"),
        objective=AjepaConfig(),
        added=AddedConfig(sigreg=AddedSigregConfig(weight=0.1)),
    )
    pretrain.start(config, print)
    return config


def twin(config: PretrainConfig) -> Objective:
    return config.make_objective(config.open_clips(pretrain.open_sources(config)))


def test_the_newest_weights_are_put_into_the_objective(run: PretrainConfig):
    objective, untrained = twin(run), twin(run).state_dict()
    assert report.restore(objective, run.out, print) == 4
    found = store.latest(run.out / "checkpoints", warn=print)
    assert found is not None
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, found.tensors[f"objective.{name}"])
    head = "objective.predictor.head.weight"
    assert not torch.equal(objective.state_dict()[head], untrained[head])


def test_the_page_says_whose_predictions_it_shows(run: PretrainConfig):
    text = report.report(run.out, SMALL, print).read_text(encoding="utf-8")
    assert "weights of the newest checkpoint, after step 4" in text
    assert "Masks of step 1 of 4" in text
    assert "Masks of step 4 of 4" in text
    assert "what an untrained encoder and predictor say" in text


def test_a_damaged_checkpoint_is_passed_over(run: PretrainConfig, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(run.out, folder)
    newest = max((folder / "checkpoints").glob("step-*"))
    next(newest.glob("*.safetensors")).write_bytes(b"")
    warnings: list[str] = []
    assert report.restore(twin(run), folder, warnings.append) == 2
    assert len(warnings) == 1


def test_without_checkpoints_the_reason_is_given_and_nothing_is_drawn(run: PretrainConfig, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(run.out, folder)
    shutil.rmtree(folder / "checkpoints")
    told = report.restore(twin(run), folder, print)
    assert isinstance(told, Absent)
    text = report.report(folder, SMALL, print).read_text(encoding="utf-8")
    assert "Predictions were not drawn: the predictor is untrained (the run has saved no checkpoint)." in text


def test_an_objective_of_another_shape_is_left_as_it_is(run: PretrainConfig):
    other = twin(dataclasses.replace(run, objective=PixioConfig()))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    told = report.restore(other, run.out, print)
    assert isinstance(told, Absent)
    assert "does not fit" in told.reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_fine_tuned_run_has_a_page_of_its_own(run: PretrainConfig, songs: Path, tmp_path: Path):
    tuned = tiny_finetune(run.out / "encoder", songs, tmp_path / "tuned", steps=2)
    finetune.start(tuned, print)
    page = report.report(tmp_path / "tuned", SMALL, print).read_text()
    assert "the clip as it was altered for training" in page
    assert "val accuracy" in page or "val_accuracy" in page
    shutil.rmtree(tmp_path / "tuned" / "checkpoints")
    report.report(tmp_path / "tuned", SMALL, print)
