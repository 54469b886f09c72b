"""Embedding a collection: equality wherever a clip comes from, accounting, the rules for files that are there."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from birdjepa.audio.clips import ClipConfig
from birdjepa.core.errors import Interrupted, UsageError
from birdjepa.data.sources import open_data
from birdjepa.embed.collection import EmbedConfig, EmbedSummary, Progress, embed_collection, weights_sha256
from birdjepa.embed.parts import read_metadata
from birdjepa.embed.reading import ReadConfig
from birdjepa.models.encoder import Encoder

Write = Callable[..., Path]
SMALL = EmbedConfig(batch_size=4, clips_per_part=8)


@pytest.fixture
def songs(write: Write, tmp_path: Path) -> Path:
    """Nine recordings of different lengths and rates, one of them of many parts, one too short for a patch."""
    for index, (length_s, rate) in enumerate(
        [(1.0, 16_000), (0.6, 8_000), (2.3, 44_100), (0.05, 16_000), (1.0, 32_000)]
    ):
        write(f"songs/{index}.wav", length_s, rate, seed=index)
    write("songs/5.flac", 21.2, 8_000, seed=5)
    for index in (6, 7, 8):
        write(f"songs/{index}.flac", 0.9, seed=index)
    return tmp_path / "songs"


def run(encoder: Encoder, data: Path, out: Path, config: EmbedConfig = SMALL, **changes) -> EmbedSummary:
    return embed_collection(encoder, open_data(str(data)), out, config, provenance={"by": "test"}, **changes)


def embeddings(table: pa.Table) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)


def test_every_clip_is_as_if_embedded_alone(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "songs.parquet"
    seen: list[Progress] = []
    summary = run(encoder, songs, out, progress=seen.append)
    table = pq.read_table(out)
    paths, start_s, end_s, vectors = [], [], [], []
    for path in sorted(songs.iterdir()):
        samples, rate = soundfile.read(path, dtype="float32")
        alone = encoder.embed(samples, sampling_rate=rate, batch_size=1)
        paths += [path.name] * len(alone.start_s)
        start_s += alone.start_s.tolist()
        end_s += alone.end_s.tolist()
        vectors.append(alone.embedding.numpy())
    assert table["path"].to_pylist() == paths
    assert table["start_s"].to_pylist() == start_s
    assert table["end_s"].to_pylist() == end_s
    np.testing.assert_allclose(embeddings(table), np.concatenate(vectors), atol=1e-5)
    assert (summary.n_examples, summary.n_refused, summary.n_rows) == (9, 0, len(paths))
    assert summary.failures is None
    assert seen[-1].n_done == seen[-1].n_examples == 9
    assert seen[-1].n_clips == len(paths)
    assert not list(out.parent.glob(".*"))
    assert [path.name for path in out.parent.iterdir()] == ["songs.parquet"]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_and_part_size_change_no_more_than_rounding(
    encoder: Encoder, songs: Path, tmp_path: Path, batch_size: int
) -> None:
    run(encoder, songs, tmp_path / "a.parquet")
    config = EmbedConfig(batch_size=batch_size, clips_per_part=1000, reading=ReadConfig(n_readers=1))
    run(encoder, songs, tmp_path / "b.parquet", config)
    one, other = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "b.parquet")
    assert one.drop_columns("embedding").equals(other.drop_columns("embedding"))
    np.testing.assert_allclose(embeddings(one), embeddings(other), atol=1e-5)


def test_overlapping_clips_and_float16(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, clips=ClipConfig(clip_s=1.0, hop_s=0.5), dtype="float16", pooling="mean+std")
    run(encoder, songs, tmp_path / "a.parquet", config)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", pa.float16()), 128)
    start_s = [row["start_s"] for row in table.to_pylist() if row["path"] == "2.wav"]
    assert start_s == [0.0, 0.5, 1.0, 1.5]
    samples, rate = soundfile.read(songs / "0.wav", dtype="float32")
    expected = encoder.embed(samples, sampling_rate=rate, pooling="mean+std").embedding.numpy()
    np.testing.assert_allclose(embeddings(table)[:1], expected, atol=2e-3)


def test_bf16_is_close(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    run(encoder, songs, tmp_path / "a.parquet")
    run(encoder, songs, tmp_path / "b.parquet", dataclasses.replace(SMALL, precision="bf16"))
    one, other = (embeddings(pq.read_table(tmp_path / f"{name}.parquet")) for name in "ab")
    assert 0 < np.abs(one - other).max() < 0.1


def test_segments_keep_their_labels(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    lines = ["path,onset_s,offset_s,label,fold", "5.flac,0.5,0.7,a,1", "2.wav,0,2.2,b,2", "5.flac,2,19.5,c,1"]
    (songs / "labels.csv").write_text("\n".join(lines) + "\n")
    summary = run(encoder, songs / "labels.csv", tmp_path / "a.parquet", EmbedConfig(batch_size=4, clips_per_part=3))
    rows = pq.read_table(tmp_path / "a.parquet").drop_columns("embedding").to_pylist()
    assert [(row["path"], row["start_s"], row["end_s"], row["label"], row["fold"]) for row in rows] == [
        ("5.flac", 0.5, 0.7, "a", "1"),
        ("2.wav", 0.0, 2.2, "b", "2"),
        ("5.flac", 2.0, 19.5, "c", "1"),
    ]
    assert "split" not in rows[0]
    assert summary.n_rows == 3
    with pytest.raises(UsageError, match="another pooling"):
        run(encoder, songs / "labels.csv", tmp_path / "b.parquet", EmbedConfig(pooling="cls"))


def test_metadata_say_what_it_was_made_of(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    run(encoder, songs, tmp_path / "a.parquet")
    metadata = read_metadata(tmp_path / "a.parquet")
    folder = encoder.save(tmp_path / "encoder", card="", provenance={})
    described = json.loads((folder / "config.json").read_text())
    assert metadata["identity"]["encoder"]["weights_sha256"] == described["weights_sha256"] == weights_sha256(encoder)
    assert metadata["identity"]["encoder"]["config"] == described["config"]
    assert metadata["identity"]["clips"] == {"kind": "ClipConfig", "clip_s": 1.0, "hop_s": 1.0}
    assert metadata["identity"]["pooling"] == "mean"
    assert metadata["provenance"] == {"by": "test"}
    assert (metadata["n_examples"], metadata["n_refused"], metadata["data"]) == (9, 0, str(songs))


def test_a_recording_that_fails_half_way_has_no_rows(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    """The damage is behind several finished parts of the same recording."""
    data = (songs / "5.flac").read_bytes()
    (songs / "5.flac").write_bytes(data[: len(data) * 3 // 4])
    samples, rate = soundfile.read(songs / "8.flac", dtype="float32")
    samples[100] = np.nan
    soundfile.write(songs / "8.wav", samples, rate, subtype="FLOAT")
    (songs / "9.mp3").write_text("<html>not found</html>")
    (songs / "=1+1.wav").write_bytes(b"")
    out = tmp_path / "out" / "a.parquet"
    summary = run(encoder, songs, out)
    assert {error.path for error in summary.refused} == {"5.flac", "8.wav", "9.mp3", "=1+1.wav"}
    assert summary.n_embedded == summary.n_examples - summary.n_refused == 8
    paths = set(pq.read_table(out)["path"].to_pylist())
    assert paths == {path.name for path in songs.iterdir()} - {error.path for error in summary.refused}
    assert summary.failures is not None
    with summary.failures.open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert summary.failures == out.parent / "failures.csv"
    assert [row["path"] for row in listed] == ["5.flac", "8.wav", "9.mp3", "'=1+1.wav"]
    assert {row["stage"] for row in listed} == {"decode"}
    assert listed[1]["reason"].startswith("not finite")
    again = run(encoder, songs, out)
    assert again.already_done
    assert [str(error) for error in again.refused] == [str(error) for error in summary.refused]
    assert again.failures == summary.failures


def test_all_refused_is_an_empty_table(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").write_bytes(b"")
    summary = run(encoder, tmp_path / "songs", tmp_path / "a.parquet")
    assert (summary.n_refused, summary.n_rows) == (1, 0)
    assert pq.read_table(tmp_path / "a.parquet").schema.field("embedding").type.list_size == 64


def test_what_is_there_already(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    first = run(encoder, songs, out)
    stamp = out.stat().st_mtime_ns
    again = run(encoder, songs, out)
    assert again.already_done
    assert (again.n_rows, again.n_examples, again.n_resumed) == (first.n_rows, 9, first.n_rows)
    assert out.stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match=r'pooling: "mean" -> "max".*another --out'):
        run(encoder, songs, out, dataclasses.replace(SMALL, pooling="max"))
    out.write_text("my notes")
    with pytest.raises(UsageError, match="not a table of embeddings"):
        run(encoder, songs, out)
    assert out.read_text() == "my notes"


def test_stop_keeps_finished_parts_and_goes_on(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    run(encoder, songs, tmp_path / "whole.parquet")
    out, asked = tmp_path / "a.parquet", []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 5

    with pytest.raises(Interrupted, match="run the same command again"):
        run(encoder, songs, out, stop=stop)
    parts = tmp_path / "a.parquet.parts"
    n_parts = len(list(parts.glob("part-*")))
    assert n_parts >= 1
    with pytest.raises(UsageError, match="belongs to something else"):
        run(encoder, songs, out, dataclasses.replace(SMALL, pooling="max"))
    (parts / ".part-00009.parquet.abcd.tmp").write_bytes(b"torn")
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
    with pytest.raises(Interrupted):
        run(encoder, songs, out, stop=lambda: True)
    assert {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")} == kept
    summary = run(encoder, songs, out)
    assert summary.n_resumed > 0
    assert not parts.exists()
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_damaged_parts_are_made_again(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    run(encoder, songs, tmp_path / "whole.parquet")
    out, asked = tmp_path / "a.parquet", []
    with pytest.raises(Interrupted):
        run(encoder, songs, out, stop=lambda: asked.append(None) or len(asked) > 7)
    path = tmp_path / "a.parquet.parts" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    assert run(encoder, songs, out).n_resumed == 0
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_changed_files_and_labels_are_noticed(encoder: Encoder, songs: Path, tmp_path: Path) -> None:
    (songs / "labels.csv").write_text("path,label,fold\n0.wav,a,1\n1.wav,b,2\n")
    out = tmp_path / "a.parquet"
    run(encoder, songs / "labels.csv", out)
    (songs / "labels.csv").write_text("path,label,fold\n0.wav,a,1\n1.wav,b,1\n")
    with pytest.raises(UsageError, match=r"data\.columns"):
        run(encoder, songs / "labels.csv", out)


@pytest.mark.parametrize("isolate", [False, True])
def test_formats_edge_as_a_whole(encoder: Encoder, shared_data: Path, tmp_path: Path, isolate: bool) -> None:
    config = EmbedConfig(reading=ReadConfig(isolate=isolate))
    summary = run(encoder, shared_data / "formats_edge" / "metadata.csv", tmp_path / "a.parquet", config)
    manifest = open_data(str(shared_data / "formats_edge" / "metadata.csv"))
    table = pq.read_table(tmp_path / "a.parquet")
    refused = {error.path for error in summary.refused}
    assert all(error.reason for error in summary.refused)
    assert set(table["path"].to_pylist()) == set(manifest.keys) - refused
    assert summary.n_examples == len(manifest) == 135
    assert 4 <= summary.n_refused == len(refused) <= 50
    keys = list(zip(table["path"].to_pylist(), table["start_s"].to_pylist(), strict=True))
    assert len(keys) == len(set(keys)) == summary.n_rows
    assert np.isfinite(embeddings(table)).all()
    wrong = {"html_page_named.mp3", "opso_empty_2c.wav"}
    assert wrong <= refused
