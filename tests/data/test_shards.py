"""Recordings inside tar, Parquet and Arrow shards: the same samples and rows as from files of their own."""

import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from pyarrow import parquet

from birdjepa.audio import decode
from birdjepa.core.errors import AudioError, LabelError, UsageError
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data

RATE = 16_000


def encoded(number, suffix="flac", seconds=0.5):
    """A recording that its number tells from others, as a file's bytes."""
    t = np.arange(round(seconds * RATE)) / RATE
    kind = {"flac": "FLAC", "ogg": "OGG", "wav": "WAV", "mp3": "MP3"}[suffix]
    data = io.BytesIO()
    soundfile.write(data, 0.3 * np.sin(2 * np.pi * (300 + 50 * number) * t), RATE, format=kind)
    return data.getvalue()


def described(number):
    return {"speaker_id": f"s{number % 3}", "duration_ms": 500, "place": {"site": "heath", "rank": number}}


def write_tar(path, numbers, suffix="flac", *, compressed=False):
    with tarfile.open(path, "w:gz" if compressed else "w") as archive:
        for number in numbers:
            for name, data in (
                (f"part/rec{number:03}.{suffix}", encoded(number, suffix)),
                (f"part/rec{number:03}.json", json.dumps(described(number)).encode()),
                (f"part/rec{number:03}.cls", f"kind{number % 2}".encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def table(numbers, suffix="flac"):
    return pa.Table.from_pylist(
        [
            {
                "audio": {"bytes": encoded(n, suffix), "path": f"rec{n:03}.{suffix}"},
                "json": described(n),
                "cls": f"kind{n % 2}",
            }
            for n in numbers
        ]
    )  # fmt: skip


def write_parquet(path, numbers, suffix="flac"):
    parquet.write_table(table(numbers, suffix), path, row_group_size=3)


def write_arrow(path, numbers, suffix="flac"):
    with pa.ipc.new_stream(
        str(path), table([], suffix).schema if not len(numbers) else table(numbers, suffix).schema
    ) as out:
        out.write_table(table(numbers, suffix), max_chunksize=4)


WRITERS = {"tar": write_tar, "parquet": write_parquet, "arrow": write_arrow}
COLUMNS = ColumnConfig(label="cls", group="json.speaker_id", duration_s="json.duration_ms")


@pytest.fixture(params=sorted(WRITERS))
def kind(request):
    return request.param


@pytest.fixture
def folder(tmp_path, kind):
    WRITERS[kind](tmp_path / f"train-000.{kind}", range(7))
    WRITERS[kind](tmp_path / f"train-001.{kind}", range(7, 12))
    return tmp_path


def test_shards_give_the_samples_and_the_columns_of_files(folder):
    found = open_data(str(folder), COLUMNS)
    assert len(found) == 12
    assert len(set(found.keys)) == 12
    assert found.columns["label"] == [f"kind{n % 2}" for n in range(12)]
    assert found.columns["group"] == [f"s{n % 3}" for n in range(12)]
    assert found.columns["json.place.site"] == ["heath"] * 12
    assert found.columns["json.place.rank"] == [str(n) for n in range(12)]
    assert found.duration_s.tolist() == [0.5] * 12
    for row in (11, 0, 5, 7, 6):
        alone, rate = decode.read_samples(encoded(row))
        assert rate == RATE
        np.testing.assert_array_equal(decode.read_samples(found.source(row))[0], alone)
        crop = decode.read_clip(found.source(row), 8000, offset_s=0.1, duration_s=0.25)
        np.testing.assert_array_equal(crop, decode.read_clip(encoded(row), 8000, offset_s=0.1, duration_s=0.25))


def test_rows_can_be_chosen_and_sent_to_another_process(folder):
    found = pickle.loads(pickle.dumps(open_data(str(folder), COLUMNS).select([9, 2])))
    decode.probe(found.source(0))
    again = pickle.loads(pickle.dumps(found))
    for each in (found, again):
        np.testing.assert_array_equal(decode.read_samples(each.source(0))[0], decode.read_samples(encoded(9))[0])
        np.testing.assert_array_equal(decode.read_samples(each.source(1))[0], decode.read_samples(encoded(2))[0])


def test_a_shard_a_pattern_and_a_range_are_data_too(folder, kind):
    assert len(open_data(str(folder / f"train-000.{kind}"))) == 7
    assert len(open_data(str(folder / f"train-*.{kind}"))) == 12
    ranged = open_data(str(folder / f"train-{{000..001}}.{kind}"))
    assert len(ranged) == 12
    assert ranged.name.endswith(f"train-{{000..001}}.{kind}")
    with pytest.raises(UsageError, match=r"2 of 3 shards are there; .*train-002"):
        open_data(str(folder / f"train-{{000..002}}.{kind}"))
    with pytest.raises(UsageError, match="not found"):
        open_data(str(folder / f"test-*.{kind}"))


@pytest.mark.parametrize("suffix", ["ogg", "wav", "mp3"])
def test_any_format_that_is_read_alone_is_read_in_a_shard(tmp_path, kind, suffix):
    """MP3s and files behind tags take other ways into the decoder."""
    WRITERS[kind](tmp_path / f"x.{kind}", range(3), suffix)
    found = open_data(str(tmp_path))
    np.testing.assert_array_equal(decode.read_samples(found.source(1))[0], decode.read_samples(encoded(1, suffix))[0])


def test_the_fingerprint_sees_other_shards(folder, kind):
    before = open_data(str(folder)).fingerprint()
    assert open_data(str(folder)).fingerprint() == before
    WRITERS[kind](folder / f"train-001.{kind}", range(8, 13))
    assert open_data(str(folder)).fingerprint() != before


def test_two_recordings_of_one_name_stay_two(tmp_path, kind):
    WRITERS[kind](tmp_path / f"x.{kind}", [4, 4, 5])
    found = open_data(str(tmp_path))
    assert len(found.recordings()) == 3


def test_what_is_damaged_is_named(tmp_path):
    write_tar(tmp_path / "x.tar.gz", range(2), compressed=True)
    (tmp_path / "z.tar").write_bytes((tmp_path / "x.tar.gz").read_bytes())
    with pytest.raises(UsageError, match=r"z\.tar: cannot be read as an uncompressed tar"):
        open_data(str(tmp_path / "z.tar"))
    for name in ("x.arrow", "x.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 nothing of it PAR1")
        with pytest.raises(LabelError, match="cannot be read as"):
            open_data(str(tmp_path / name))
    write_parquet(tmp_path / "good.parquet", range(2))
    with pytest.raises(UsageError, match=r"no column 'path'; .*columns\.audio"):
        open_data(str(tmp_path / "good.parquet"), ColumnConfig(audio="mp3"))


def test_a_tar_cut_short_costs_its_last_recording(tmp_path):
    write_tar(tmp_path / "x.tar", range(3))
    found = open_data(str(tmp_path))
    whole = (tmp_path / "x.tar").read_bytes()
    cut = found.source(2).fetch().offset + 100
    (tmp_path / "x.tar").write_bytes(whole[:cut])
    decode.read_samples(found.source(1))
    with pytest.raises(AudioError, match=r"truncated: x\.tar ends within this recording"):
        decode.read_samples(found.source(2))


def test_a_row_without_audio_is_refused_alone(tmp_path):
    rows = [{"audio": {"bytes": data, "path": None}} for data in (encoded(0), b"", None, b"<!doctype html>")]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = open_data(str(tmp_path))
    decode.read_samples(found.source(0))
    for row, reason in ((1, "empty"), (2, "empty"), (3, "not audio")):
        with pytest.raises(AudioError, match=reason):
            decode.read_samples(found.source(row))


def test_audio_may_lie_inside_other_fields(tmp_path, kind):
    if kind == "tar":
        pytest.skip("members have no fields")
    rows = pa.Table.from_pylist([{"clip": {"sound": encoded(n), "n": n}} for n in range(5)])
    if kind == "parquet":
        parquet.write_table(rows, tmp_path / "x.parquet", row_group_size=2)
    else:
        with pa.ipc.new_file(str(tmp_path / "x.arrow"), rows.schema) as out:
            out.write_table(rows, max_chunksize=2)
    found = open_data(str(tmp_path), ColumnConfig(audio="clip.sound"))
    assert found.columns["clip.n"] == list("01234")
    np.testing.assert_array_equal(decode.read_samples(found.source(3))[0], decode.read_samples(encoded(3))[0])
