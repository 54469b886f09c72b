"""A density-adaptive JEPA run as a whole: it trains, resumes bit for bit, leaves an encoder that every job takes, and
two processes make the same run.
"""

import dataclasses
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pyarrow import parquet
from test_resume import train
from tiny_run import differences, final_state, metrics, running, write_config, write_songs

import birdjepa
from birdjepa.audio.clips import ClipConfig
from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import LoaderConfig
from birdjepa.models.frame_predictor import FramePredictorConfig
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoder
from birdjepa.objectives.daam import DaamConfig, FrameSigregConfig
from birdjepa.recipes import pretrain
from birdjepa.recipes.any_run import read_run
from birdjepa.recipes.waveform_config import PretrainWaveformConfig
from birdjepa.train.config import MonitorConfig, TrainConfig

RATES = (16_000, 32_000)
ENGINES = ("ddp", *(("deepspeed",) if find_spec("deepspeed") else ()))


def tiny_daam(songs: Path, out: Path, rate: int = 16_000, **train: object) -> PretrainWaveformConfig:
    """A whole configuration with all that draws and all that has a state; train takes fields of TrainConfig."""
    settings = {"steps": 4, "batch_size": 4, "accumulate": 2, "ema_decay": 0.5, "checkpoint_every": 2, "log_every": 1}
    settings |= {"threads": 1, "monitor": MonitorConfig(every=2, bank=16, least_rank=0.0)}
    return PretrainWaveformConfig(
        data=(str(songs),),
        out=out,
        seed=3,
        encoder=WaveformConfig(preset="nano", sampling_rate=rate),
        clips=ClipConfig(clip_s=1.0, hop_s=1.0),
        loader=LoaderConfig(clip_s=0.6, workers=0),
        objective=DaamConfig(
            predictor=FramePredictorConfig(depth=1),
            momentum=(0.5, 1.0),
            sigreg=FrameSigregConfig(weight=0.1, n_frames=64),
            noise=0.01,
        ),
        train=TrainConfig(**{**settings, **train}),  # pyright: ignore[reportArgumentType]
        report=False,
    )


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), 8, damaged=1)


@pytest.fixture(scope="module", params=RATES)
def run(request, songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(str(request.param)) / "run"
    pretrain.start(tiny_daam(songs, folder, request.param), lambda _: None)
    return folder


def test_a_run_trains_and_leaves_the_averaged_teacher(run: Path, songs: Path) -> None:
    config = read_run(run)
    assert isinstance(config, PretrainWaveformConfig)
    assert config == tiny_daam(songs, run, config.sampling_rate)
    rows = [row for row in metrics(run) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(0.4 < row["hidden_share"] < 0.6 for row in rows)
    assert all(row[name] > 0 for row in rows for name in ("context_std", "teacher_std", "context_rank", "teacher_rank"))
    tensors, _ = final_state(run)
    weights = birdjepa.load(run / "encoder").state_dict()
    assert all(tensors[f"ema.{name}"] == value.numpy().tobytes() for name, value in weights.items())
    began = config.encoder_config().build().initialise(config.seed).state_dict()
    still = [name for name, value in began.items() if tensors[f"objective.encoder.{name}"] == value.numpy().tobytes()]
    assert still == []


def test_its_encoder_hears_at_its_rate_and_says_where_it_comes_from(run: Path) -> None:
    encoder = birdjepa.load(run / "encoder")
    assert isinstance(encoder, WaveformEncoder)
    rate = encoder.sampling_rate
    assert encoder.config.network.frame_rate == {16_000: 50, 32_000: 100}[rate]
    wave = 0.1 * np.random.default_rng(0).standard_normal(2 * rate + 100).astype(np.float32)
    assert encoder.embed(wave, sampling_rate=rate).embedding.shape == (2, encoder.config.embedding_width)
    card = (run / "encoder" / "README.md").read_text()
    assert f"| sampling rate | {rate} Hz" in card
    assert "`metadata.csv`" in card


def test_embed_and_probe_take_it(run: Path, songs: Path, tmp_path: Path, capsys) -> None:
    sound = songs.with_name("sound.csv")
    sound.write_text("\n".join(line for line in songs.read_text().splitlines() if "008.wav" not in line))
    assert main(["embed", str(run / "encoder"), str(sound), "--out", str(tmp_path / "rows.parquet")]) == 0
    rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert {len(row["embedding"]) for row in rows} == {32}
    wave, rate = soundfile.read(songs.with_name(rows[0]["path"]), dtype="float32")
    alone = birdjepa.load(run / "encoder").embed(wave, sampling_rate=rate).embedding[0]
    np.testing.assert_allclose(rows[0]["embedding"], alone, atol=1e-5)
    capsys.readouterr()
    assert main(["probe", str(run / "encoder"), "--data", str(sound), "--json", "--classifier", "knn"]) == 0
    assert set(json.loads(capsys.readouterr().out)["floors"]) == {"logmel", "random"}


def test_a_stopped_run_ends_like_the_uninterrupted_one(run: Path, songs: Path, tmp_path: Path, monkeypatch) -> None:
    """Four steps are two, and two more of a process that read the first two from the disk."""
    train(tiny_daam(songs, tmp_path / "run", birdjepa.load(run / "encoder").sampling_rate), monkeypatch, stops=(2,))
    assert differences(run, tmp_path / "run") == []


def test_a_run_of_another_seed_differs(run: Path, songs: Path, tmp_path: Path) -> None:
    """Or else equal runs would mean nothing."""
    rate = birdjepa.load(run / "encoder").sampling_rate
    config = tiny_daam(songs, tmp_path / "run", rate, steps=1, checkpoint_every=1)
    pretrain.start(dataclasses.replace(config, seed=4), lambda _: None)
    assert metrics(tmp_path / "run")[0]["loss"] != metrics(run)[0]["loss"]


def test_legacy_padding_is_not_trained(songs: Path, tmp_path: Path) -> None:
    config = tiny_daam(songs, tmp_path / "run")
    network = dataclasses.replace(config.encoder, reach=0, legacy_padding=True)
    with pytest.raises(UsageError, match="legacy_padding is for checkpoints of the public system"):
        pretrain.start(dataclasses.replace(config, encoder=network), lambda _: None)
    assert not (tmp_path / "run").exists()


LAUNCHED = """
import contextlib, sys
from unittest import mock
import torch
from birdjepa.cli import main
from birdjepa.core import processes

with processes.joined(torch.device("cpu")) as own:  # once for all runs: the same two cannot meet a second time
    with mock.patch.object(processes, "joined", lambda device: contextlib.nullcontext(own)):
        done = [main(["pretrain", "--config", config]) for config in sys.argv[1:]]
sys.exit(max(done))
"""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, and one of two for each engine, all of the latter in one launch."""
    folder = tmp_path_factory.mktemp("engines")
    songs = write_songs(folder / "songs", 8)  # none damaged: a run that refuses one ends with a code of its own

    def config(engine: str) -> PretrainWaveformConfig:
        """Without SIGReg, which every process judges on frames that it draws of its own."""
        made = tiny_daam(songs, folder / engine, batch_size=8, engine=engine, precision="fp32")
        return dataclasses.replace(made, objective=dataclasses.replace(made.objective, sigreg=FrameSigregConfig()))

    pretrain.start(config("single"), lambda _: None)
    given = [str(write_config(config(engine), folder / f"{engine}.json")) for engine in ENGINES]
    (folder / "launched.py").write_text(LAUNCHED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with running([*command, str(folder / "launched.py"), *given]) as child:
        _, told = child.communicate(timeout=200)
    assert child.returncode == 0, told[-3000:]
    return folder


@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_two_processes_are_one(engines: Path, engine: str) -> None:
    """A checkpoint is written only if both hold the same weights. Spread and rank of frames are means over processes of
    what each has in its clips, so they are not compared.
    """
    if engine not in ENGINES:
        pytest.skip("deepspeed is not installed")
    own = ("loss_rank", "context_", "teacher_")
    ours, expected = (
        [{key: value for key, value in row.items() if not key.startswith(own)} for row in metrics(engines / name)]
        for name in (engine, "single")
    )
    assert [row.keys() for row in ours] == [row.keys() for row in expected]
    assert len([row for row in ours if "loss" in row]) == 4
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    two, one = (birdjepa.load(engines / name / "encoder").state_dict() for name in (engine, "single"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-4, msg=name)
