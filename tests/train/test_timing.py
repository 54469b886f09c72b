"""The stopwatch: time goes to the part whose mark ends it, and shares start anew each time they are told."""

import json

import pytest
import torch
from tiny_run import tiny, write_songs

from birdjepa.recipes import pretrain
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


def test_every_logged_row_tells_how_long_data_was_waited_for(tmp_path, monkeypatch):
    """More where the loader sleeps."""
    songs = write_songs(tmp_path / "songs", 4)
    waits = []
    for slow_s in (0.0, 1.0):
        config = tiny(songs, tmp_path / f"run-{slow_s}", steps=3, accumulate=1)
        clips = pretrain.make_clips

        def slow(config, sources, clips=clips, slow_s=slow_s):
            made = clips(config, sources)
            read = made.batch
            made.batch = lambda number: (timing.time.sleep(slow_s), read(number))[1]
            return made

        monkeypatch.setattr(pretrain, "make_clips", slow)
        pretrain.start(config, lambda _: None)
        monkeypatch.setattr(pretrain, "make_clips", clips)
        rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
        assert all(0 <= row["data_wait"] <= 1 for row in rows)
        waits.append(rows[-1]["data_wait"])
    assert waits[0] + 0.1 < waits[1]  # how much depends on what else the machine does
