"""`birdjepa data bench`: tables, JSON, and a verdict that follows from the numbers."""

import dataclasses
import json
import re

import pytest
from tiny_run import write_songs

from birdjepa import cli
from birdjepa.cli.data_bench import Demand, against, demand_of, levels, limit, scaling
from birdjepa.data.bench import PARTS, Kind, Level, LoaderBench


def made(rates=(100.0, 100.0, 190.0), same_ms=10.0, flac_ms=4.0, **ms):
    kind = Kind("OGG/VORBIS 44.1 kHz", 50, {part: ms.get(part, 0.1) for part in PARTS})
    workers = [0, 1, 2, 4]
    return LoaderBench(
        clip_s=5.0,
        sampling_rate=32_000,
        n_cores=2,
        all_kinds=kind,
        kinds=(kind,),
        warm_ms=0.1,
        log_mel_ms=2.0,
        same_ms=same_ms,
        flac_ms=flac_ms,
        levels=tuple(Level(n, rate, 100) for n, rate in zip(workers, rates, strict=False)),
        n_refused=0,
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (made(decode=8.0), "is decoding, 94% of a clip's time: as FLAC at 32 kHz the same clips take 4.0 ms"),
        (made(decode=8.0, flac_ms=9.0), "would not be faster .*: only more workers help"),
        (made(resample=8.0), r"is resampling, 93%.*\(2.5 times faster\)"),
        (made(disk=8.0), "is the disk, .* as FLAC or smaller"),
        (made(shard=8.0), "is shards, .* read at random"),
        (made(search=8.0), "is finding the stretch"),
    ],
)
def test_the_limit_is_the_part_that_takes_most(found, said):
    assert re.search(said, limit(found))


def test_what_workers_bring():
    assert "190 clips/s with 2 workers, 1.9 times" in scaling(made())
    assert "workers bring nothing" in scaling(made(rates=(100.0, 90.0, 80.0)))
    assert "they share something" in scaling(made(rates=(100.0, 90.0, 110.0)))
    many = dataclasses.replace(made(), n_cores=16)
    assert "more workers will bring more, up to the 16 cores" in scaling(many)
    assert many.per_core(Level(2, 190.0, 1)) == 95.0
    assert made().per_core(Level(4, 190.0, 1)) == 95.0
    assert levels(1) == [0, 1]
    assert levels(6) == [0, 1, 2, 4, 6]


def test_the_loader_is_held_against_a_run(tmp_path):
    rows = [{"step": step, "clips_per_s": 50.0, "data_wait": 0.5} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert demand_of(tmp_path) == Demand(100.0, 0.5)
    assert "2 workers deliver that" in against(made(), Demand(150.0, 0.5))
    assert "No workers deliver that" in against(made(), Demand(50.0, 0.0))
    assert "best is 50% of that" in against(made(), Demand(380.0, 0.5))


def test_tables_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_songs(tmp_path / "songs", 3)
    few = ["--seconds", "0.5", "--clip-s", "0.5", "--sampling-rate", "8000", "--workers", "1"]
    assert cli.main(["data", "bench", "songs", *few]) == 0
    shown = capsys.readouterr().out
    assert "WAV/PCM_16" in shown
    assert "What limits it is" in shown
    assert cli.main(["data", "bench", "songs@2", *few, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [level["workers"] for level in found["levels"]] == [0, 1]
    assert len(found["verdict"]) == 2
    assert found["run"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


@pytest.mark.parametrize(
    "arguments", [[], ["absent"], ["songs", "--seconds", "0"], ["songs", "--run", "absent"], ["songs", "--clip-s", "0"]]
)
def test_usage(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_songs(tmp_path / "songs", 1)
    assert cli.main(["data", "bench", *arguments]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
