"""A scan gives one row per file, whatever the files do, and the same with any number of workers."""

import csv
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.data.scan import DURATION_QUANTILES, ScanReport, scan
from birdjepa.data.scan_journal import Journal
from birdjepa.data.sources import open_data
from tests.data.test_shards import WRITERS


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Nine files: four good ones, one of them cut short, and five to refuse."""
    folder = tmp_path_factory.mktemp("collection")
    noise = 0.1 * np.random.default_rng(0).standard_normal(32_000)
    soundfile.write(folder / "a.wav", noise, 32_000)
    soundfile.write(folder / "B.FLAC", np.stack([noise, noise], 1), 16_000)
    soundfile.write(folder / "c.wav", np.zeros(48_000), 48_000)
    (folder / "d.wav").write_bytes((folder / "a.wav").read_bytes()[:20_044])
    (folder / "e.flac").write_bytes((folder / "B.FLAC").read_bytes()[:30_000])
    (folder / "f.mp3").write_text("<!DOCTYPE html><p>gone</p>")
    (folder / "g.wav").touch()
    nan = noise.astype(np.float32)
    nan[100] = np.nan
    soundfile.write(folder / "h.wav", nan, 32_000, subtype="FLOAT")
    os.mkfifo(folder / "=i.wav")
    return [(path.name, path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def deep(collection: list[tuple[str, Path]]) -> ScanReport:
    return scan(collection, n_workers=1)


def test_one_row_per_file(collection: list[tuple[str, Path]], deep: ScanReport) -> None:
    keys = [file.key for file in deep.good] + [file.path for file in deep.refused]
    assert sorted(keys) == sorted(key for key, _ in collection)
    assert deep.n_files == 9
    assert [file.key for file in deep.good] == ["B.FLAC", "a.wav", "c.wav", "d.wav"]
    assert {file.path: (file.stage, file.reason.split(":")[0]) for file in deep.refused} == {
        "=i.wav": ("open", "not a file"),
        "e.flac": ("decode", "truncated"),
        "f.mp3": ("open", "not audio"),
        "g.wav": ("open", "empty"),
        "h.wav": ("decode", "not finite"),
    }


def test_what_is_in_there(deep: ScanReport) -> None:
    assert deep.hours == pytest.approx((1.0 + 2.0 + 1.0 + 0.3125) / 3600)
    assert deep.by_sampling_rate() == {16_000: 1, 32_000: 2, 48_000: 1}
    assert deep.by_channels() == {1: 3, 2: 1}
    assert deep.by_format() == {"FLAC/PCM_16": 1, "WAV/PCM_16": 3}
    assert deep.by_note() == {"shorter than its header says": 1, "silent": 1}
    assert deep.by_reason() == {"not a file": 1, "truncated": 1, "not audio": 1, "empty": 1, "not finite": 1}
    quantiles = deep.duration_quantiles_s()
    assert tuple(quantiles) == DURATION_QUANTILES
    assert (quantiles[0.0], quantiles[0.5], quantiles[1.0]) == (0.3125, 1.0, 2.0)


@pytest.mark.parametrize("n_workers", [2, 4])
def test_same_with_more_workers(collection: list[tuple[str, Path]], deep: ScanReport, n_workers: int) -> None:
    assert scan(iter(collection), n_workers=n_workers) == deep


def test_headers_only(collection: list[tuple[str, Path]]) -> None:
    report = scan(collection, n_workers=1, deep=False)
    assert [file.path for file in report.refused] == ["=i.wav", "f.mp3", "g.wav"]
    assert {file.key: file.n_samples for file in report.good}["d.wav"] == 10_000  # not the claim of 32 000
    assert report.by_note() == {"shorter than its header says": 1}


def test_written_tables(deep: ScanReport, tmp_path: Path) -> None:
    deep.write(tmp_path)
    with (tmp_path / "files.csv").open(newline="", encoding="utf-8") as file:
        good = list(csv.DictReader(file))
    assert [row["path"] for row in good] == ["B.FLAC", "a.wav", "c.wav", "d.wav"]
    assert good[0] == {
        "path": "B.FLAC",
        "duration_s": "2",
        "sampling_rate": "16000",
        "channels": "2",
        "n_samples": "32000",
        "format": "FLAC",
        "subtype": "PCM_16",
        "notes": "",
    }
    with (tmp_path / "failures.csv").open(newline="", encoding="utf-8") as file:
        refused = list(csv.DictReader(file))
    assert refused[0] == {"path": "'=i.wav", "stage": "open", "offset_s": "0", "reason": "not a file: a named pipe"}


def test_slow_and_greedy_files_cost_one_row(tmp_path: Path) -> None:
    """An hour of silence takes longer than 20 ms to decode; its neighbours are not touched."""
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 48_000, 1, "PCM_16") as file:
        file.write(np.zeros(10))
    data = bytearray((tmp_path / "long.wav").read_bytes())
    data[40:44] = struct.pack("<I", 1 << 30)
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(data)
        file.truncate(1 << 30)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 32_000)
    files = [(name, tmp_path / name) for name in ("short.wav", "long.wav", "short.wav")]
    report = scan(files, n_workers=1, timeout_s=0.25)
    assert [file.key for file in report.good] == ["short.wav", "short.wav"]
    assert [(file.path, file.stage) for file in report.refused] == [("long.wav", "worker")]
    assert report.refused[0].reason.startswith("decoder timed out:")


def test_nothing_to_scan() -> None:
    report = scan([], n_workers=1)
    assert (report.n_files, report.hours, report.duration_quantiles_s()) == (0, 0, {})


def test_names_of_all_kinds_are_rows_and_nobody_runs_them(tmp_path: Path) -> None:
    """In tables a name that a spreadsheet would run as a formula gets a ' before it, the others stay as they are: a
    newline within quotes, bytes that are no UTF-8 as they were.
    """
    names = [
        "new\nline",
        "-rf",
        "=cmd()",
        "@a",
        "\udcff\udcfe",
        "é",
        "e\u0301",
        "\u202egnp",
        "x" * 251,
        "a;b|$(e)`f`",
        "\x1b[2J",
    ]
    folder = tmp_path / "names"
    folder.mkdir()
    for number, name in enumerate(names):
        soundfile.write(folder / "a.wav", np.linspace(-0.5, 0.5, 1000 + number), 32_000)
        (folder / "a.wav").rename(folder / f"{name}.wav")
    files = [(f"{name}.wav", folder / f"{name}.wav") for name in names]
    report = scan([*files, ("=gone", folder / "=gone"), ("y" * 300, folder / ("y" * 300))], n_workers=1)
    assert [(file.key, file.n_samples) for file in report.good] == [
        (f"{name}.wav", 1000 + i) for i, name in enumerate(names)
    ]
    assert [(file.path, file.reason.split(":")[0]) for file in report.refused] == [
        ("=gone", "missing"),
        ("y" * 300, "missing"),
    ]
    report.write(tmp_path)
    with (tmp_path / "files.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        written = [row["path"] for row in csv.DictReader(file)]
    assert written == [f"'{name}.wav" if name[0] in "=-@" else f"{name}.wav" for name in names]
    with (tmp_path / "failures.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["path"] == "'=gone"
    manifest = open_data(str(folder))  # the folder walk finds them, and each file has one row
    assert scan(((key, manifest.path(row)) for row, key in enumerate(manifest.keys)), n_workers=1).n_files == len(names)


def test_formats_edge(shared_data: Path) -> None:
    """A row for each of the 135 files; what is refused is a format off the allow-list, no sound or without samples."""
    manifest = open_data(str(shared_data / "formats_edge" / "metadata.csv")).recordings()
    files = [(key, manifest.path(row)) for row, key in enumerate(manifest.keys)]
    report = scan(files, n_workers=2, timeout_s=20.0)
    assert report.n_files == len(files) == 135
    assert {file.stage for file in report.refused} == {"open"}
    assert {Path(file.key).suffix.lower() for file in report.good} <= AUDIO_SUFFIXES
    assert len(report.good) == 91
    assert report.by_reason() == {"unsupported": 36, "not audio": 7, "empty": 1}
    assert report.by_note() == {"DC only": 1}


def test_recordings_in_shards_are_scanned_where_they_lie(tmp_path):
    for kind in ("tar", "parquet"):
        WRITERS[kind](tmp_path / f"x.{kind}", range(4))
        manifest = open_data(str(tmp_path / f"x.{kind}"))
        files = [(key, manifest.source(row)) for row, key in enumerate(manifest.keys)]
        with Journal(tmp_path / f"{kind}.journal", {}) as journal:
            report = scan(files, journal=journal)
        assert [file.duration_s for file in report.good] == [0.5] * 4
        assert [file.key for file in report.good] == manifest.keys
        with Journal(tmp_path / f"{kind}.journal", {}) as journal:
            assert journal.n_known == 4
            assert scan(files, journal=journal) == report
