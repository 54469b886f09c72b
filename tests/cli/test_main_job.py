"""The whole job through the command line: synthesise, pretrain, probe, embed, report; names that scripts rely on."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

import birdjepa
from birdjepa.cli import main

PRETRAIN = (
    *("--encoder.size", "nano", "--train.steps", "2", "--train.batch-size", "6", "--train.checkpoint-every", "1"),
    *("--loader.workers", "0", "--objective.sigreg.n-slices", "32", "--objective.projector.hidden", "16"),
)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "songs"
    size = ("--n-species", "2", "--n-individuals", "2", "--songs-per-individual", "2", "--n-soundscapes", "1")
    assert main(["data", "synth", str(folder), *size, "--soundscape-s", "12"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(songs: Path) -> Path:
    out = songs.parent / "run"
    assert main(["pretrain", "lejepa", "--data", str(songs / "metadata.csv"), "--out", str(out), *PRETRAIN]) == 0
    return out


def test_a_run_folder_holds_what_is_promised(run: Path) -> None:
    for name in ("config.json", "metrics.jsonl", "report.html", "checkpoints/step-00000002"):
        assert (run / name).exists(), name
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (run / "encoder" / name).is_file(), name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(isinstance(row["loss"], float) for row in rows)
    assert [row["step"] for row in rows] == [1, 2]


def test_probe_prints_one_json_object(songs: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", str(songs / "metadata.csv"), "--folds", "fold", "--classifier", "knn", "--json")
    assert main(["probe", str(run / "encoder"), *arguments]) == 0
    score = json.loads(capsys.readouterr().out)
    for estimate in (score, score["floors"]["logmel"], score["floors"]["random"]):
        for metric in ("accuracy", "macro_f1"):
            assert set(estimate[metric]) == {"value", "low", "high"}
    assert score["n_examples"] == 8
    assert len(score["folds"]) == 2
    kept = json.loads(next((run / "probes").glob("*.json")).read_text())
    assert kept["accuracy"] == score["accuracy"]


def test_folds_are_made_when_none_are_named(songs: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", str(songs / "metadata.csv"), "--n-folds", "2", "--classifier", "knn", "--json", "--layers")
    assert main(["probe", str(run / "encoder"), *arguments]) == 0
    score = json.loads(capsys.readouterr().out)
    assert len(score["layers"]) == 2
    assert score["layers"][-1]["accuracy"] == score["accuracy"]


def test_embed_writes_one_row_per_clip_and_nothing_twice(songs: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "embeddings.parquet"
    for _ in range(2):
        assert main(["embed", str(run / "encoder"), str(songs / "songs"), "--out", str(out)]) == 0
    table = parquet.read_table(out)
    assert {"path", "start_s", "end_s", "embedding"} <= set(table.column_names)
    spots = list(zip(table["path"].to_pylist(), table["start_s"].to_pylist(), strict=True))
    assert len(spots) == len(set(spots))


def test_report_is_written_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    assert main(["report", str(run), "--n-points", "20"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text().lower().startswith("<!doctype html>")


def test_the_encoder_loads_and_embeds_any_rate(run: Path) -> None:
    out = birdjepa.load(run / "encoder").embed(np.random.default_rng(0).normal(0, 0.1, 44_100), sampling_rate=44_100)
    assert out.embedding.shape[0] == 1
    assert np.isfinite(out.embedding.numpy()).all()
