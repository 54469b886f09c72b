"""One embedding per row: means over clips, pooling inside segments, refused rows, one decode for all embedders."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from birdjepa.core.errors import AudioError, LabelError, UsageError
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import open_data
from birdjepa.embed import reading
from birdjepa.embed.embedders import AllLayers, LogMelStatistics, Pooled, geometry_of, overlap, random_twin
from birdjepa.embed.rows import embed_rows
from birdjepa.models.encoder import Encoder
from birdjepa.models.pool import pool

Write = Callable[..., Path]


def manifest_of(folder: Path, lines: list[str]) -> Manifest:
    (folder / "labels.csv").write_text("\n".join(["path,onset_s,offset_s,label", *lines]) + "\n")
    return open_data(str(folder / "labels.csv"))


def test_a_recording_is_the_mean_of_its_clips_by_length(encoder: Encoder, write: Write, tmp_path: Path) -> None:
    samples, rate = soundfile.read(write("song.flac", 3.4, 22_050), dtype="float32")
    clips = encoder.embed(samples, sampling_rate=rate)
    lengths = clips.end_s - clips.start_s
    np.testing.assert_allclose(lengths, [1, 1, 1, 0.4], atol=1e-4)
    got = embed_rows([Pooled(encoder, "mean")], open_data(str(tmp_path)))
    np.testing.assert_allclose(got.tables[0][0], np.average(clips.embedding, axis=0, weights=lengths), atol=1e-5)


def test_several_embedders_share_one_decode(
    encoder: Encoder, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(5):
        write(f"{index}.wav", 0.4 + 0.2 * index, seed=index)
    calls = []
    plain = reading.read_stretch
    monkeypatch.setattr(reading, "read_stretch", lambda *args: calls.append(args) or plain(*args))
    sweep = AllLayers(encoder, "mean")
    embedders = [
        Pooled(encoder, "mean"),
        sweep,
        LogMelStatistics(encoder.config),
        Pooled(random_twin(encoder, 3), "mean"),
    ]
    done: list[tuple[int, int]] = []
    got = embed_rows(embedders, open_data(str(tmp_path)), progress=lambda n, total: done.append((n, total)))
    assert len(calls) == 5
    assert done == [(i + 1, 5) for i in range(5)]
    assert [table.shape for table in got.tables] == [(5, 64), (5, 128), (5, 64), (5, 64)]
    np.testing.assert_allclose(sweep.split(got.tables[1])[-1], got.tables[0], atol=1e-6)
    assert np.abs(got.tables[3] - got.tables[0]).max() > 0.1


@pytest.mark.parametrize("pooling", ["mean", "mean+std", "rows"])
@pytest.mark.parametrize("place", [(0.0, 0.03), (1.71, 1.79), (2.47, 2.5)])
def test_a_segment_is_pooled_inside_its_patches(
    encoder: Encoder, write: Write, tmp_path: Path, pooling, place: tuple[float, float]
) -> None:
    """At the start, in the middle and at the very end; against the window embedded by hand."""
    path = write("song.wav", 2.5)
    onset_s, offset_s = place
    got = embed_rows([Pooled(encoder, pooling)], manifest_of(tmp_path, [f"song.wav,{onset_s},{offset_s},a"]))
    samples, _ = soundfile.read(path, dtype="float32")
    length = geometry_of(encoder.config).context
    start = min(max(round((onset_s + offset_s) * 8_000 - length / 2), 0), len(samples) - length)
    output = encoder(torch.from_numpy(samples[start : start + length][None]))
    inside_s = np.array([[onset_s - start / 16_000, offset_s - start / 16_000]])
    weights = overlap(*encoder.patch_spans(output.patches.shape[1]), inside_s)
    assert 2 <= int((weights > 0).sum()) <= 4  # one column of two rows, two where patches overlap
    expected = pool(output, pooling, encoder.config.n_rows, weights)
    np.testing.assert_allclose(got.tables[0], expected.numpy(), atol=1e-5)


def test_a_long_segment_is_the_mean_of_its_tiles(encoder: Encoder, write: Write, tmp_path: Path) -> None:
    write("song.wav", 5.0)
    tiles = [f"song.wav,{0.3 + 0.9 * i},{0.3 + 0.9 * (i + 1)},a" for i in range(4)]
    got = embed_rows([Pooled(encoder, "mean")], manifest_of(tmp_path, ["song.wav,0.3,3.9,a", *tiles]), batch_size=2)
    np.testing.assert_allclose(got.tables[0][0], got.tables[0][1:].mean(0), atol=1e-5)


def test_a_segment_that_is_the_whole_clip_is_the_clip(encoder: Encoder, write: Write, tmp_path: Path) -> None:
    samples, _ = soundfile.read(write("song.wav", 0.975), dtype="float32")
    got = embed_rows([Pooled(encoder, "mean+std")], manifest_of(tmp_path, ["song.wav,0,0.975,a"]))
    expected = encoder.embed(samples, sampling_rate=16_000, pooling="mean+std").embedding
    np.testing.assert_allclose(got.tables[0], expected, atol=1e-5)


def test_recordings_shorter_than_a_patch_are_embedded_as_by_the_encoder(
    encoder: Encoder, write: Write, tmp_path: Path
) -> None:
    samples, _ = soundfile.read(write("blip.wav", 0.06), dtype="float32")
    got = embed_rows([Pooled(encoder, "mean")], manifest_of(tmp_path, ["blip.wav,,,a", "blip.wav,0.01,0.05,a"]))
    expected = encoder.embed(samples, sampling_rate=16_000).embedding
    np.testing.assert_allclose(got.tables[0], expected.repeat(2, 1), atol=1e-5)


def test_refused_rows_are_listed_and_the_rest_goes_on(encoder: Encoder, write: Write, tmp_path: Path) -> None:
    write("good.wav", 2.0)
    path = write("cut.flac", 4.0)
    path.write_bytes(path.read_bytes()[:-40_000])
    lines = ["cut.flac,,,a", "good.wav,,,b", "gone.wav,,,c", "good.wav,5,6,d", "good.wav,0.5,0.6,e"]
    got = embed_rows([Pooled(encoder, "mean")], manifest_of(tmp_path, lines), batch_size=1)
    assert got.rows.tolist() == [1, 4]
    assert got.tables[0].shape == (2, 64)
    assert [(row, type(error)) for row, error in got.refused] == [(0, AudioError), (2, AudioError), (3, LabelError)]
    only_bad = manifest_of(tmp_path, ["gone.wav,,,c"])
    assert embed_rows([Pooled(encoder, "mean")], only_bad).tables[0].shape == (0, 64)


def test_cls_of_segments_and_unequal_geometries_are_refused(encoder: Encoder, write: Write, tmp_path: Path) -> None:
    write("song.wav", 2.0)
    manifest = manifest_of(tmp_path, ["song.wav,0.5,0.6,e"])
    with pytest.raises(UsageError, match="another pooling"):
        embed_rows([Pooled(encoder, "cls")], manifest)
    clips = dataclasses.replace(encoder.config.clips, clip_s=2.0)
    other = LogMelStatistics(dataclasses.replace(encoder.config, clips=clips))
    with pytest.raises(ValueError, match="agree on"):
        embed_rows([Pooled(encoder, "mean"), other], manifest)


def test_real_syllables_have_one_embedding_each(encoder: Encoder, shared_data: Path, tmp_path: Path) -> None:
    manifest = open_data(str(shared_data / "birdsong_syllables" / "annotations.csv")).select(range(0, 400, 8))
    got = embed_rows([Pooled(encoder, "mean"), LogMelStatistics(encoder.config)], manifest)
    assert got.rows.tolist() == list(range(50))
    assert all(np.isfinite(table).all() for table in got.tables)
