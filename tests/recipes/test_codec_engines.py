"""Two processes that train a codec are one: the same numbers, whoever exchanges the gradients."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tiny_codec
from tiny_run import metrics, write_songs

from birdjepa.core import config as configs
from birdjepa.recipes import pretrain

STEPS = 4
"""Two without discriminators, two with."""


def run(songs, encoder, out, engine, deepspeed=""):
    config = tiny_codec.tiny_codec_run(songs, encoder, out)
    settings = {"steps": STEPS, "batch_size": 8, "precision": "fp32", "engine": engine, "deepspeed_config": deepspeed}
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    songs = write_songs(folder / "songs", 6)
    encoder = tiny_codec.build().encoder.save(folder / "encoder", card="", provenance={})
    pretrain.start(run(songs, encoder, folder / "run", "single"), lambda _: None)
    return songs, encoder, folder / "run"


@pytest.mark.parametrize(
    ("engine", "stage"),
    [
        ("ddp", 0),
        pytest.param("fsdp", 0, marks=pytest.mark.slow),
        pytest.param("deepspeed", 2, marks=pytest.mark.slow),
        pytest.param("deepspeed", 3, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(single, tmp_path, engine, stage):
    songs, encoder, alone = single
    deepspeed = ""
    if stage:
        pytest.importorskip("deepspeed")
        deepspeed = str(tmp_path / "ds_config.json")
        (tmp_path / "ds_config.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(configs.to_json(run(songs, encoder, tmp_path / "run", engine, deepspeed))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = [*command, "-m", "birdjepa", "pretrain", "--config", str(config)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = [{name: row[name] for name in row if not name.startswith("loss_rank")} for row in metrics(tmp_path / "run")]
    expected = metrics(alone)
    assert [row.keys() for row in ours] == [row.keys() for row in expected]
    assert any("adversarial" in row for row in ours)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
