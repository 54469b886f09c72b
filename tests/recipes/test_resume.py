"""Resume is exact: every tensor, every logged number and the exported encoder, however often a run is stopped."""

import dataclasses
import functools
import socket

import pytest
import torch
from tiny_run import differences, final_state, metrics, tiny, write_songs

from birdjepa.checkpoint import store
from birdjepa.core.errors import Interrupted, UserError
from birdjepa.models.predictor import PredictorConfig
from birdjepa.nn.regularised import RegularisedMaskingConfig
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.added import AddedConfig, AddedDietConfig, AddedSigregConfig
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.base import DataSize
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.objectives.views import ViewsConfig
from birdjepa.recipes import pretrain
from birdjepa.train.engine import SingleEngine
from birdjepa.train.signals import StopSignal
from birdjepa.train.state import TrainState


class StopAfter(StopSignal):
    """A signal that comes while step number n of this process is under way."""

    def __init__(self, n: int) -> None:
        super().__init__(())
        self.left = n

    def stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def train(config, monkeypatch, *, stops=()):
    """The run, stopped and resumed after each number of steps in stops, then to its end."""
    for number, n_steps in enumerate((*stops, 10**9)):
        monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, n_steps))
        going = (
            functools.partial(pretrain.start, config) if number == 0 else functools.partial(pretrain.resume, config.out)
        )
        if n_steps == 10**9:
            return going(lambda _: None)
        with pytest.raises(Interrupted, match="saved; go on with: birdjepa pretrain --resume"):
            going(lambda _: None)
    return None


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8, damaged=1)


@pytest.fixture(scope="module")
def whole(songs, tmp_path_factory):
    """The uninterrupted run of four steps, in which a damaged recording was met."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = pretrain.start(tiny(songs, folder), lambda _: None)
    assert len(result.refused) == 1
    return folder


def test_a_run_repeats_itself(songs, whole, tmp_path):
    """Without this, nothing below means anything. The global seed must not matter."""
    torch.manual_seed(12345)
    pretrain.start(tiny(songs, tmp_path / "run"), lambda _: None)
    assert differences(whole, tmp_path / "run") == []
    assert [row["step"] for row in metrics(whole)] == [1, 2, 3, 4]
    assert metrics(whole)[-1]["n_refused"] > 0


@pytest.mark.parametrize("stops", [(2,), (1,), (0,), (1, 1, 1), (1, 0, 2)])
def test_a_stopped_run_ends_like_the_uninterrupted_one(songs, whole, tmp_path, monkeypatch, stops):
    train(tiny(songs, tmp_path / "run"), monkeypatch, stops=stops)
    assert differences(whole, tmp_path / "run") == []
    assert (tmp_path / "run" / "failures.csv").read_text() == (whole / "failures.csv").read_text()


def test_a_finished_run_resumes_to_itself(whole):
    weights = (whole / "encoder" / "model.safetensors").read_bytes()
    rows, state = metrics(whole), final_state(whole)
    pretrain.resume(whole, lambda _: None)
    assert (whole / "encoder" / "model.safetensors").read_bytes() == weights
    assert (metrics(whole), final_state(whole)) == (rows, state)


def test_workers_change_nothing(songs, whole, tmp_path, monkeypatch):
    config = tiny(songs, tmp_path / "run", workers=2)
    train(config, monkeypatch, stops=(1, 1))
    assert differences(whole, tmp_path / "run") == []


@pytest.mark.parametrize(
    "train_settings",
    [{"ema_decay": 0.0, "accumulate": 1, "precision": "fp32"}, {"precision": "bf16", "clip_norm": 0.0}],
)
def test_other_settings_resume_exactly_too(songs, tmp_path, monkeypatch, train_settings):
    one, other = (tiny(songs, tmp_path / name, **train_settings) for name in ("one", "other"))
    train(one, monkeypatch)
    train(other, monkeypatch, stops=(2, 1))
    assert differences(one.out, other.out) == []


def test_activation_checkpointing_changes_nothing(songs, whole, tmp_path, monkeypatch):
    config = tiny(songs, tmp_path / "run")
    encoder = dataclasses.replace(config.encoder, activation_checkpointing=True)
    train(dataclasses.replace(config, encoder=encoder), monkeypatch)
    assert differences(whole, tmp_path / "run") == []


def forget(state, prefix):
    """Puts the tensors under a prefix back to what a new state has."""
    with torch.no_grad():
        for name, tensor in state.tensors().items():
            if name.startswith(prefix):
                tensor.copy_(state.new[name])


FAULTS = {
    "optimiser": lambda state: forget(state, "optimiser."),
    "averaged weights": lambda state: forget(state, "ema."),
    "online probe": lambda state: forget(state, "probe."),
    "optimiser of the online probe": lambda state: forget(state, "probe_optimiser."),
    "bank": lambda state: forget(state, "bank."),
    "batch norm": lambda state: forget(state, "objective.projector.layers.1.running"),
    "place in the bank": lambda state: setattr(state.bank, "n_seen", 0),
    "refused": lambda state: state.refused.clear(),
    "count of refused": lambda state: setattr(state, "n_refused", 0),
    "step": lambda state: setattr(state, "step", state.step - 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_forgetting_anything_shows(songs, whole, tmp_path, monkeypatch, fault):
    """Negative controls: a restore that leaves out one part turns the comparison red."""
    restore = TrainState.restore

    def faulty(self, checkpoint):
        self.new = {name: tensor.clone() for name, tensor in self.tensors().items()}
        restore(self, checkpoint)
        FAULTS[fault](self)

    monkeypatch.setattr(TrainState, "restore", faulty)
    train(tiny(songs, tmp_path / "run"), monkeypatch, stops=(2,))
    assert differences(whole, tmp_path / "run") != []


def test_rows_after_the_last_checkpoint_are_written_once(songs, whole, tmp_path, monkeypatch):
    """A kill between two checkpoints leaves rows, and half a row, that the resumed run makes again."""
    run = tmp_path / "run"
    monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, 2))
    with pytest.raises(Interrupted):
        pretrain.start(tiny(songs, run), lambda _: None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.1}\n{"step": 4, "lo')
    monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, 99))
    pretrain.resume(run, lambda _: None)
    assert differences(whole, run) == []


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(songs, whole, tmp_path, monkeypatch):
    config = tiny(songs, tmp_path / "run")
    monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, 3))
    with pytest.raises(Interrupted):
        pretrain.start(config, lambda _: None)
    newest = config.out / "checkpoints" / "step-00000003" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    said = []
    monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, 99))
    pretrain.resume(config.out, said.append)
    assert sum("damaged checkpoint passed over" in line and "step-00000003" in line for line in said) == 1
    assert any("going on from step 2" in line for line in said)
    assert differences(whole, config.out) == []


def test_a_moved_run_goes_on(songs, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, 2))
    with pytest.raises(Interrupted):
        pretrain.start(tiny(songs, tmp_path / "run"), lambda _: None)
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.setattr(pretrain, "StopSignal", functools.partial(StopAfter, 99))
    pretrain.resume(tmp_path / "moved", lambda _: None)
    assert differences(whole, tmp_path / "moved") == []
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_configuration_is_refused(songs, whole):
    other = tiny(songs, whole, ema_decay=0.0)
    encoder = other.encoder_config().build().initialise(0)
    state = TrainState(
        other.objective.build(encoder, 0, DataSize(8, 2)),
        other.optim,
        other.train,
        n_classes=2,
        seed=0,
        engine=SingleEngine(torch.device("cpu")),
    )
    found = store.latest(whole / "checkpoints", warn=print)
    assert found is not None
    with pytest.raises(UserError, match=r"does not fit this configuration; \d+ tensors differ, the first is ema"):
        state.restore(found)
    assert final_state(whole)[1]["bank_seen"] == 16


def other_objectives():
    small = PredictorConfig(width=32, depth=1, heads=2)
    views = ViewsConfig(global_s=0.48, local_s=0.24)
    return {
        "pixio": PixioConfig(decoder=small),
        "ajepa": AjepaConfig(predictor=small, momentum=(0.5, 1.0)),
        "supervised": SupervisedConfig(mixup=0.3, masking=RegularisedMaskingConfig(share=0.2)),
        "diet": DietConfig(views=views),
    }


def test_every_objective_is_resumed_below():
    assert {*other_objectives(), "lejepa"} == set(OBJECTIVES)


@pytest.mark.parametrize("name", other_objectives())
def test_every_objective_resumes_to_the_last_bit(songs, tmp_path, monkeypatch, name):
    """Teacher, curriculum, masks, heads and added terms included; whole against stopped after one step and two."""
    added = AddedConfig(sigreg=AddedSigregConfig(weight=0.1), diet=AddedDietConfig(weight=0.1))
    base = dataclasses.replace(tiny(songs, tmp_path / "whole"), objective=other_objectives()[name], added=added)
    base = dataclasses.replace(base, schedule=dataclasses.replace(base.schedule, final_weight_decay=4.0))
    train(base, monkeypatch)
    train(dataclasses.replace(base, out=tmp_path / "stopped"), monkeypatch, stops=(1, 1))
    assert differences(tmp_path / "whole", tmp_path / "stopped") == []
    exported = (tmp_path / "whole" / "encoder" / "model.safetensors").stat().st_size
    assert exported < 4 * 130_000  # the encoder alone: no head, teacher, decoder


def test_what_a_kill_inside_the_last_save_left_is_cleared(songs, tmp_path):
    """No save follows that would do it."""
    run = tmp_path / "run"
    pretrain.start(tiny(songs, run, steps=2), print)
    left = run / "checkpoints" / f".deleting-step-00000001.999999999.0a1b2c3d.{socket.gethostname()}"
    left.mkdir()
    pretrain.resume(run, print)
    assert not left.exists()
