"""A codec run: what it leaves, that it resumes bit by bit, and what it refuses."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_codec
import torch
from test_resume import train
from tiny_run import final_state, metrics, tiny, write_config, write_encoder, write_songs

from birdjepa.cli.pretrain import configure
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import LoaderConfig
from birdjepa.models.codec import load_codec
from birdjepa.models.discriminators import DiscriminatorsConfig
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.nn.fsq import FsqConfig
from birdjepa.recipes import pretrain
from birdjepa.recipes.any_run import read_run
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.report import report
from birdjepa.report.contents import ReportConfig


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1") / "encoder"
    return tiny_codec.build().encoder.save(folder, card="", provenance={})


@pytest.fixture(scope="module")
def whole(songs, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    said: list[str] = []
    pretrain.start(tiny_codec.tiny_codec_run(songs, encoder, folder), said.append)
    return folder, said


def test_a_run_leaves_a_codec_with_the_averaged_vocoder_and_the_encoder_as_it_was(whole, songs, encoder):
    folder, _ = whole
    codec = load_codec(folder / "codec")
    tensors, _ = final_state(folder)
    assert codec.quantiser.std.std() > 0
    for name, value in codec.learnt.state_dict().items():
        assert value.numpy().tobytes() == tensors[f"ema.{name}"]
    for name, value in tiny_codec.build().encoder.state_dict().items():
        assert torch.equal(codec.encoder.state_dict()[name], value)
        assert tensors[f"objective.codec.encoder.{name}"] == value.numpy().tobytes()
    assert "50 codes a second in groups of 7" in (folder / "codec" / "README.md").read_text()
    assert read_run(folder) == tiny_codec.tiny_codec_run(songs, encoder, folder)


def test_discriminators_learn_from_their_step_on_with_moments_that_begin_then(whole):
    folder, said = whole
    rows = metrics(folder)
    assert [("adversarial" in row) for row in rows if "loss" in row] == [False, False, True, True]
    assert all("stft" in row and "least_used" in row for row in rows if "loss" in row)
    tensors, _ = final_state(folder)
    fresh = tiny_codec.build_objective(seed=3).discriminators.state_dict()
    name = "periods.0.layers.1.parametrizations.weight.original1"
    assert tensors[f"objective.discriminators.{name}"] != fresh[name].numpy().tobytes()
    steps = {value for key, value in tensors.items() if key.startswith("optimiser.") and key.endswith(".step")}
    assert steps == {torch.tensor(4.0).numpy().tobytes(), torch.tensor(2.0).numpy().tobytes()}
    assert any("discriminators" in line for line in said)


def test_samples_are_heard_seen_and_measured(whole):
    folder, said = whole
    names = {path.name for path in (folder / "samples").iterdir()}
    stems = [*(f"step{step:07d}" for step in (0, 2, 4)), "original"]
    assert names == {f"{stem}-{number}.{kind}" for stem in stems for number in (0, 1) for kind in ("wav", "png")}
    headers = {(folder / "samples" / f"{stem}-0.png").read_bytes()[16:24] for stem in stems}
    assert len(headers) == 1  # of one size
    assert min(int.from_bytes(next(iter(headers))[at : at + 4], "big") for at in (0, 4)) > 100
    real, rate = soundfile.read(folder / "samples" / "original-0.wav")
    made, _ = soundfile.read(folder / "samples" / "step0000004-0.wav")
    assert rate == 8_000
    assert len(made) == len(real)
    assert [row["step"] for row in metrics(folder) if "sample_mel" in row] == [0, 2, 4]
    tokens = [line for line in said if line.startswith("[TOK] step=")]
    assert len(tokens) == 3
    assert "G=2 fps=25.0000 dur=" in tokens[-1]
    assert "tps=50.000" in tokens[-1]


@pytest.mark.parametrize("stops", [(1, 1)])
def test_a_stopped_run_ends_like_the_uninterrupted_one(whole, songs, encoder, tmp_path, monkeypatch, stops):
    folder, _ = whole
    train(tiny_codec.tiny_codec_run(songs, encoder, tmp_path / "run"), monkeypatch, stops=stops)
    assert final_state(folder) == final_state(tmp_path / "run")
    assert metrics(folder) == metrics(tmp_path / "run")
    for path in ("codec/model.safetensors", *(f"samples/{path.name}" for path in (folder / "samples").iterdir())):
        assert (folder / path).read_bytes() == (tmp_path / "run" / path).read_bytes(), path


def test_the_report_lets_the_samples_be_heard(whole):
    folder, _ = whole
    page = report(folder, ReportConfig(), lambda _: None).read_text(encoding="utf-8")
    assert page.count("data:audio/") == 8  # 2 clips: the original, and steps 0, 2 and 4
    logged = {row["step"]: row["sample_mel"] for row in metrics(folder) if "sample_mel" in row}
    told = re.findall(r"<b>step (\d+)</b> mel distance ([\d.]+)", page)
    assert [int(step) for step, _ in told] == [0, 2, 4, 0, 2, 4]
    for step, mel in logged.items():  # logged of floats, shown of 16-bit files
        assert np.mean([float(each) for at, each in told if int(at) == step]) == pytest.approx(mel, rel=0.02)
    assert "packed codes a second, of 8 dimensions of 4 levels" in page
    assert "not counted" not in page
    assert 'id="map"' not in page


def test_without_recordings_the_samples_are_still_heard(whole, songs, tmp_path):
    folder, _ = whole
    moved = shutil.copytree(folder, tmp_path / "run")
    hidden = songs.parent.rename(songs.parent.with_name("gone"))
    try:
        said: list[str] = []
        page = report(moved, ReportConfig(n_clips=1), said.append).read_text(encoding="utf-8")
    finally:
        hidden.rename(songs.parent)
    assert "the recordings are not at hand" in said[0]
    assert page.count("data:audio/") == 4
    assert "original-0.wav" in page
    assert "Use of the codes was not counted: the recordings are not at hand" in page


def test_a_run_without_samples_shows_pictures_instead(whole, tmp_path):
    folder, _ = whole
    moved = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))
    page = report(moved, ReportConfig(), lambda _: None).read_text(encoding="utf-8")
    assert "the run has left no sound in samples/" in page
    assert "made of its codes" in page
    assert 'class="view"' not in page
    assert "buttons play the original" in page


def test_an_encoder_that_has_changed_stops_the_resume(whole, tmp_path):
    folder, _ = whole
    moved = shutil.copytree(folder, tmp_path / "run")
    path = moved / "provenance.json"
    noted = json.loads(path.read_text())
    [name] = [name for name in noted["data"] if name.endswith("encoder")]
    assert noted["data"][name] == files.sha256(Path(name) / "model.safetensors")
    noted["data"][name] = "0" * 64
    path.write_text(json.dumps(noted))
    with pytest.raises(UsageError, match=r"the data has changed since the run began: .*encoder"):
        pretrain.resume(moved, lambda _: None)


def test_a_saved_configuration_starts_a_run_of_its_kind(whole, tmp_path):
    folder, _ = whole
    given = ["--config", str(folder / "config.json"), "--out", str(tmp_path / "again"), "--vocoder.kernels", "3", "7"]
    saved = read_run(folder)
    assert isinstance(saved, PretrainCodecConfig)
    changed = dataclasses.replace(saved.vocoder, kernels=(3, 7))
    assert configure(given) == dataclasses.replace(saved, out=tmp_path / "again", vocoder=changed)
    with pytest.raises(UsageError, match="has no setting"):
        configure(["codec", "--config", str(write_config(tiny(folder, folder), tmp_path / "mel.json"))])


def test_what_does_not_fit_is_refused_in_one_line(songs, encoder, tmp_path):
    good = tiny_codec.tiny_codec_run(songs, encoder, tmp_path / "run")
    good.check()
    wide = dataclasses.replace(good.objective, discriminators=DiscriminatorsConfig(divisor=32))
    for changes, match in (
        ({"encoder": tmp_path / "none"}, "give an encoder folder"),
        ({"encoder": write_encoder(tmp_path / "mel")}, "hears spectrograms"),
        ({"vocoder": VocoderConfig(preset="reference")}, r"makes 9600 samples of a frame .* set vocoder\.preset"),
        ({"quantiser": QuantiserConfig(fsq=FsqConfig(levels=(4, 4, 4)))}, "do not divide 16 dimensions"),
        ({"loader": LoaderConfig(clip_s=0.01)}, "shorter than a frame"),
        ({"objective": wide, "loader": LoaderConfig(clip_s=0.05)}, "^640 samples of .* discriminators need 892: raise"),
        ({"objective": dataclasses.replace(wide, segment_s=0.01)}, r"^320 samples of .*: raise objective\.segment_s"),
        ({"train": dataclasses.replace(good.train, clip_by="all")}, "clip_by must be group"),
        ({"train": dataclasses.replace(good.train, probe=tiny(songs, songs).train.probe)}, "leave it off"),
    ):
        with pytest.raises(UsageError, match=match):
            dataclasses.replace(good, **changes).check()
    for settings in ({"sample_every": -1}, {"n_samples": 0}, {"measured": 1}):
        with pytest.raises(ValueError, match="sample_every >= 0"):
            dataclasses.replace(good, **settings)
