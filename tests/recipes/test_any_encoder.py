"""An encoder that is no spectrogram's in every job that takes an encoder: embedding, probe, benchmark, report."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hop_encoder import HopConfig, hop_folder
from pyarrow import parquet
from tiny_run import write_folds
from tiny_tasks import prepared

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.recording import Recording
from birdjepa.benchmark.backbones.base import Want
from birdjepa.benchmark.backbones.ours import NO_FINETUNING, open_encoder, open_twin
from birdjepa.benchmark.frame_embedders import EncoderFrames
from birdjepa.benchmark.tasks import TASKS
from birdjepa.cli import main
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.models import loading
from birdjepa.models.loading import load
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.recipes.benchmark import benchmark
from birdjepa.recipes.benchmark_config import BenchmarkConfig
from birdjepa.recipes.probe import ProbeConfig, probe
from birdjepa.report.contents import EmbeddingMap, ReportConfig
from birdjepa.report.gather import gather


def silent(_):
    pass


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setattr(loading, "KINDS", (*loading.KINDS, HopConfig))


WAVEFORM = WaveformEncoderConfig(network=WaveformConfig(preset="nano"), clips=ClipConfig(), pooling="mean+std")


@pytest.fixture(scope="module", params=["hops", "waveform"])
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / request.param
    if request.param == "hops":
        return hop_folder(folder)
    card = "---\nlicense: cc-by-4.0\n---\n# made\n"
    return WAVEFORM.build().initialise(3).save(folder, card=card, provenance={"made": "by a test"})


def reach_of(config) -> int:
    """Samples around a token that it may know of."""
    return config.hop if isinstance(config, HopConfig) else config.network.receptive_field


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_folds(tmp_path_factory.mktemp("songs"))


def wave_of(manifest, row):
    with Recording(manifest.source(row)) as recording:
        return recording.crop(0, 10**9, None), recording.sampling_rate


def test_whole_recordings_are_embedded_as_waveforms_are(folder, songs, tmp_path):
    out = tmp_path / "out.parquet"
    assert main(["embed", str(folder), str(songs), "--out", str(out)]) == 0
    rows = parquet.read_table(out).to_pylist()
    encoder, manifest = load(folder), open_data(str(songs), ColumnConfig())
    expected = [encoder.embed(wave, sampling_rate=rate) for wave, rate in (wave_of(manifest, r) for r in range(3))]
    embeddings = np.concatenate([each.embedding.numpy() for each in expected])
    np.testing.assert_allclose([row["embedding"] for row in rows[: len(embeddings)]], embeddings, atol=1e-5)
    assert parquet.read_schema(out).metadata
    assert main(["embed", str(folder), str(songs), "--out", str(tmp_path / "x"), "--pooling", "cls"]) == 2


def test_labelled_segments_are_embedded_by_the_tokens_that_touch_them(folder, tmp_path):
    """Tokens know of what is in reach alone, so sound further from the segment must not matter, and its own must."""
    rate, (onset, offset) = 16_000, (16_000, 18_000)
    reach = reach_of(load(folder).config)
    plain = np.random.default_rng(0).standard_normal(3 * rate).astype(np.float32) / 9
    outside, inside = plain.copy(), plain.copy()
    outside[: onset - reach], outside[offset + reach :] = 0.3, -0.3
    inside[onset + 1000] += 0.5
    lines = ["path,onset_s,offset_s,label"]
    for name, wave in (("plain", plain), ("outside", outside), ("inside", inside)):
        soundfile.write(tmp_path / f"{name}.wav", wave, rate, subtype="FLOAT")
        lines.append(f"{name}.wav,{onset / rate},{offset / rate},a")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.parquet"
    assert main(["embed", str(folder), str(tmp_path / "labels.csv"), "--out", str(out)]) == 0
    rows = {row["path"]: np.array(row["embedding"]) for row in parquet.read_table(out).to_pylist()}
    np.testing.assert_allclose(rows["outside.wav"], rows["plain.wav"], atol=1e-6)
    assert np.abs(rows["inside.wav"] - rows["plain.wav"]).max() > 1e-3


def test_a_probe_runs_beside_its_floors_with_a_layer_sweep(folder, songs):
    result = probe(folder, ProbeConfig(data=str(songs), folds="fold", layers=True, pooling="mean"), silent)
    described = result.to_json()
    assert set(described["floors"]) == {"logmel", "random"}
    config = load(folder).config.pooled_by("mean")
    assert len(result.layers) == config.n_layers
    assert result.layers[-1].accuracy.value == result.score.accuracy.value
    assert described["embedding_width"] == config.embedding_width
    assert result.floors["logmel"].accuracy.value > 0.5


def test_the_benchmark_takes_its_folder_as_a_model(folder, tmp_path):
    task = TASKS["esc10"]
    prepared(tmp_path / "data", task)
    config = BenchmarkConfig(
        model=(str(folder),),
        task=("esc10",),
        classifier=("centroid", "finetune"),
        data=tmp_path / "data",
        cache=tmp_path / "cache",
        results=tmp_path / "results.sqlite",
        n_train=("2",),
        layer=("last",),
        partial=True,
        n_resamples=20,
    )
    done = {line.at.classifier: line for line in benchmark(config, silent).lines}
    assert done["centroid"].status == "ran"
    assert done["centroid"].result.metrics["accuracy"].value > 0.4
    assert NO_FINETUNING in done["finetune"].reason


def test_its_backbone_hears_what_the_encoder_does(folder):
    encoder, backbone = load(folder), open_encoder(folder, name="hops")
    card = backbone.card
    config, hop = encoder.config, encoder.config.token_hop
    assert (card.n_layers, card.token_rows, card.token_hop_s) == (config.n_layers, 1, hop / 16_000)
    assert (card.token_width, card.width) == (16, 32)
    assert (card.licence, card.no_finetuning) == ("cc-by-4.0", NO_FINETUNING)
    assert config.described in card.preprocessing
    waves = [np.random.default_rng(i).standard_normal(n).astype(np.float32) / 9 for i, n in enumerate((16_000, 5_000))]
    heard = backbone.embed(waves, Want(layers=(1, config.n_layers), tokens=True), sampling_rate=16_000)
    for row, wave in enumerate(waves):
        alone = encoder.embed(wave, sampling_rate=16_000).embedding[0]
        np.testing.assert_allclose(heard.pooled[1, row], alone, atol=1e-5)
    assert heard.real.sum(1).tolist() == [-(-16_000 // hop), -(-5_000 // hop)]
    twin = open_twin(encoder, name="twin", seed=1)
    assert twin.identity["weights_sha256"] != backbone.identity["weights_sha256"]
    assert twin.identity["config"] == backbone.identity["config"]


def test_frames_are_tokens_of_one_row(folder):
    encoder = load(folder)
    hop = encoder.config.token_hop
    wave = np.random.default_rng(0).standard_normal(40_100).astype(np.float32) / 9
    frames = EncoderFrames(encoder, layer=0).embed(wave)
    n = -(-len(wave) // hop)
    assert frames.embeddings.shape == (n, 16)
    whole = encoder.layers(torch.from_numpy(wave)[None])[0].patches[0]
    np.testing.assert_allclose(frames.embeddings, whole, atol=1e-5)
    np.testing.assert_allclose(frames.start_s, np.arange(n) * hop / 16_000, atol=1e-9)


def test_the_report_maps_its_embeddings_and_draws_log_mel(folder, songs, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hash": "abc", "config": {"seed": 0}}))
    sources = [open_data(str(songs), ColumnConfig())]
    config = ReportConfig(n_queries=2, n_neighbours=2)
    made = gather(tmp_path, sources=sources, clips=None, objective=None, encoder=load(folder), config=config)
    assert isinstance(made.map, EmbeddingMap)
    assert made.map.pooling == "mean+std"
    front_end = load(folder).config.log_mel
    assert made.scale.frame_rate == front_end.frame_rate
    assert made.heard[0].frames.shape[1] == front_end.n_mels
