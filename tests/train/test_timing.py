"""The stopwatch: time goes to the part whose mark ends it, and shares start anew each time they are told."""

import dataclasses
import json

import pytest
import torch
from tiny_run import tiny, write_songs

from birdjepa.objectives.lejepa import Lejepa
from birdjepa.recipes import pretrain
from birdjepa.recipes.config import PretrainConfig
from birdjepa.train import timing
from birdjepa.train.timing import Stopwatch

CPU = torch.device("cpu")


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_time_belongs_to_the_mark_that_ends_it(clock):
    watch = Stopwatch(CPU)
    for part, now in (("data", 1.0), ("forward", 4.0), ("backward", 9.0), ("forward", 10.0)):
        clock.now = now
        watch.mark(part)
    assert watch.seconds == {"data": 1.0, "forward": 4.0, "backward": 5.0}
    assert watch.part == "forward"


def test_what_passed_before_a_restart_is_nobodys(clock):
    watch = Stopwatch(CPU)
    clock.now = 5.0
    watch.restart()
    clock.now = 6.0
    watch.mark("data")
    assert watch.seconds == {"data": 1.0}


def test_shares_are_of_the_time_since_they_were_told(clock):
    watch = Stopwatch(CPU)
    assert watch.share("data") == 0.0
    for part, now in (("data", 1.0), ("forward", 4.0)):
        clock.now = now
        watch.mark(part)
    assert watch.share("data") == 0.25
    assert watch.share("data") == 0.0
    clock.now = 6.0
    watch.mark("data")
    assert watch.share("data") == 1.0


def test_every_logged_row_tells_how_long_data_was_waited_for(clock, tmp_path, monkeypatch):
    """Time stands still but while a batch is made (3 s) and a forward pass runs (1 s), from the second step on 9 s."""
    open_clips, forward = PretrainConfig.open_clips, Lejepa.forward

    def slow_clips(config, sources):
        clips = open_clips(config, sources)
        monkeypatch.setattr(clips, "batch", lambda *args: (later(3.0), type(clips).batch(clips, *args))[1])
        return clips

    def slow_forward(self, batch, chance):
        later(1.0 if chance.step == 0 else 9.0)
        return forward(self, batch, chance)

    def later(seconds):
        clock.now += seconds

    monkeypatch.setattr(PretrainConfig, "open_clips", slow_clips)
    monkeypatch.setattr(Lejepa, "forward", slow_forward)
    config = tiny(write_songs(tmp_path / "songs", 4), tmp_path / "run", steps=3, accumulate=1, log_every=5)
    pretrain.start(dataclasses.replace(config, train=unwatched(config.train)), lambda _: None)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["data_wait"]) for row in rows] == [(1, 3 / 4), (3, 6 / 24)]


def unwatched(train):
    return dataclasses.replace(train, monitor=dataclasses.replace(train.monitor, every=100))
