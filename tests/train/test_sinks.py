"""Sinks: one row per logged step, whatever happened before."""

import json
import sys
import types

import pytest

from birdjepa.core.errors import MissingExtraError
from birdjepa.train import sinks
from birdjepa.train.config import SinksConfig
from birdjepa.train.sinks import Sinks, keep_rows_before, read_metrics


def write(folder, first_step, *rows):
    with Sinks(folder, SinksConfig(), {}, first_step=first_step) as opened:
        for row in rows:
            opened.write(row)
        opened.sync()


def test_rows_are_whole_lines_and_nan_is_null(tmp_path):
    write(tmp_path, 1, {"step": 1, "loss": 0.5, "alarm": "collapse: é"}, {"step": 2, "loss": float("nan")})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == read_metrics(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "metrics.jsonl")[1] == {"step": 2, "loss": None}


def test_each_step_is_there_once_after_a_resume(tmp_path):
    write(tmp_path, 1, *({"step": step, "loss": 1.0} for step in (1, 2, 3, 4)))
    write(tmp_path, 3, *({"step": step, "loss": 2.0} for step in (3, 4, 5)))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    write(tmp_path, 1)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_half_a_row_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1}]
    keep_rows_before(path, 5)
    assert path.read_text() == '{"step": 1}\n'
    assert read_metrics(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize(
    ("config", "name"), [(SinksConfig(tensorboard=True), "tensorboard"), (SinksConfig(wandb_project="p"), "wandb")]
)
def test_a_sink_that_is_not_installed_is_one_line(tmp_path, monkeypatch, config, name):
    monkeypatch.setattr(sinks, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=rf"{name}, which is not installed: pip install 'birdjepa\[{name}\]'"):
        Sinks(tmp_path, config, {}, first_step=1)
    assert list(tmp_path.iterdir()) == []


class Spy:
    """Stands in for a sink's package, and keeps what it was given."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: (self.calls.append((name, args, kwargs)), self)[1]


def test_wandb_gets_every_number_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(sinks, "find_spec", lambda module: True)
    monkeypatch.setitem(sys.modules, "wandb", spy)
    ids = []
    for _ in range(2):
        with Sinks(tmp_path / "run", SinksConfig(wandb_project="birds"), {"seed": 1}, first_step=1) as opened:
            opened.write({"step": 3, "loss": 0.5, "alarm": "text", "rank": float("inf")})
        assert [name for name, _, _ in spy.calls] == ["init", "log", "finish"]
        (_, _, init), (_, logged, at), _ = spy.calls
        assert (init["project"], init["name"], init["config"]) == ("birds", "run", {"seed": 1})
        assert (logged, at) == (({"loss": 0.5},), {"step": 3})
        ids.append(init["id"])
        spy.calls.clear()
    assert ids[0] == ids[1]


def test_tensorboard_gets_every_number_and_drops_what_a_kill_left(tmp_path, monkeypatch):
    spy = Spy()
    monkeypatch.setattr(sinks, "find_spec", lambda module: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=spy.SummaryWriter))
    with Sinks(tmp_path, SinksConfig(tensorboard=True), {}, first_step=7) as opened:
        opened.write({"step": 7, "loss": 0.5, "lr": 0.1})
    made, *scalars, closed = spy.calls
    assert made[2] == {"purge_step": 7}
    assert [args for _, args, _ in scalars] == [("loss", 0.5, 7), ("lr", 0.1, 7)]
    assert closed[0] == "close"
