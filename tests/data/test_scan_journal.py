"""A scan that is stopped, killed or robbed of its last lines goes on where it was, and looks at nothing twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import crowd
import pytest

from birdjepa.core.errors import Interrupted, StorageError, UsageError
from birdjepa.data import scan as scanning
from birdjepa.data import scan_journal
from birdjepa.data.scan import ScanReport, scan
from birdjepa.data.scan_journal import Journal

HEADER = {"scan": "here", "deep": True}


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, Path]]:
    truths = crowd.write(tmp_path / "crowd", 60, every=5)
    return [(truth.key, tmp_path / "crowd" / truth.key) for truth in truths]


def scan_with(files: list[tuple[str, Path]], path: Path, *, n: int | None = None) -> tuple[ScanReport | None, int, int]:
    """The report (None if it was stopped after n files), how many files the journal knew, and how many it learnt."""
    done = 0

    def progress(n_files: int, _: int) -> None:
        nonlocal done
        done = n_files

    with Journal(path, HEADER) as journal:
        known = journal.n_known
        try:
            report = scan(files, n_workers=1, journal=journal, progress=progress, stop=lambda: done >= (n or 1e9))
        except Interrupted:
            report = None
    return report, known, path.read_bytes().count(b"\n") - 1 - known


def test_stopped_and_resumed_equals_uninterrupted(
    files: list[tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scan(files, n_workers=1)
    monkeypatch.setattr(scanning, "BATCH", 4)
    report, known, learnt = scan_with(files, tmp_path / "j", n=20)
    assert report is None
    assert known == 0
    assert 20 <= learnt < 60
    again, known, rest = scan_with(files, tmp_path / "j")
    assert again == whole
    assert (known, rest) == (learnt, 60 - learnt)
    assert scan_with(files, tmp_path / "j") == (whole, 60, 0)  # all of it from the journal


def test_what_has_changed_is_examined_again(files: list[tuple[str, Path]], tmp_path: Path) -> None:
    scan_with(files, tmp_path / "j")
    key, path = files[10]
    path.write_bytes(b"now a text of another size")
    os.utime(files[20][1], ns=(1, 1))
    (tmp_path / "crowd" / "0000" / "zzz.wav").write_bytes(files[0][1].read_bytes())
    files = [*files[:30], *files[31:], ("zzz", tmp_path / "crowd" / "0000" / "zzz.wav")]
    report, known, learnt = scan_with(files, tmp_path / "j")
    assert (known, learnt) == (60, 3)
    assert report == scan(files, n_workers=1)
    assert report is not None
    assert key in {file.path for file in report.refused}


def test_trouble_that_may_have_passed_is_looked_at_again(tmp_path: Path) -> None:
    """A file that vanished is a row, and a good file when it is back."""
    crowd.write(tmp_path / "crowd", 4)
    back = tmp_path / "crowd" / "0000" / "0000002.ogg"
    content = back.read_bytes()
    back.unlink()
    files = [(name, tmp_path / "crowd" / "0000" / name) for name in ("0000000.wav", "0000002.ogg", "0000003.mp3")]
    report, _, learnt = scan_with(files, tmp_path / "j")
    assert report is not None
    assert [(file.path, file.stage, file.reason) for file in report.refused] == [
        ("0000002.ogg", "open", "missing: no such file")
    ]
    assert learnt == 2
    back.write_bytes(content)
    report, known, learnt = scan_with(files, tmp_path / "j")
    assert report is not None
    assert (len(report.good), known, learnt) == (3, 2, 1)


def test_time_outs_are_kept_for_the_same_limit_only(files: list[tuple[str, Path]], tmp_path: Path) -> None:
    key, path = files[0]
    stamp = (path.stat().st_size, path.stat().st_mtime_ns)
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.add(key, stamp, [0.0, "decoder timed out: more than 7 s"])
    for timeout_s, n_refused in ((7.0, 1), (8.0, 0)):
        with Journal(tmp_path / "j", HEADER) as journal:
            report = scan(files[:1], n_workers=1, timeout_s=timeout_s, journal=journal)
        assert len(report.refused) == n_refused


@pytest.mark.parametrize("cut", [1, 5, 40, 200])
def test_a_journal_that_was_cut_loses_its_last_lines_only(
    files: list[tuple[str, Path]], tmp_path: Path, cut: int
) -> None:
    whole, _, _ = scan_with(files, tmp_path / "j")
    content = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(content[:-cut])
    n_lost = content.count(b"\n") - content[:-cut].count(b"\n")
    report, known, learnt = scan_with(files, tmp_path / "j")
    assert report == whole
    assert (known, learnt) == (60 - n_lost, n_lost)
    assert sorted((tmp_path / "j").read_bytes().splitlines()) == sorted(content.splitlines())


def test_a_journal_with_a_hole_loses_the_hole(files: list[tuple[str, Path]], tmp_path: Path) -> None:
    whole, _, _ = scan_with(files, tmp_path / "j")
    content = bytearray((tmp_path / "j").read_bytes())
    content[1000:1300] = bytes(300)
    (tmp_path / "j").write_bytes(content)
    report, known, _ = scan_with(files, tmp_path / "j")
    assert report == whole
    assert 50 < known < 60


@pytest.mark.parametrize("content", [b"", b"{", b'{"deep": false, "scan": "here"}\n["a.wav",1,1,[]]\n', b"\xff\n"])
def test_a_journal_of_something_else_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with Journal(tmp_path / "j", HEADER) as journal:
        assert journal.n_known == 0
    assert json.loads((tmp_path / "j").read_bytes()) == HEADER


def test_names_of_all_kinds_come_back(tmp_path: Path) -> None:
    names = ["new\nline", "\udcff\udcfe", "é", "e\u0301", "=cmd()", "\u202e", '"', "\u2028", "x" * 255]
    with Journal(tmp_path / "j", HEADER) as journal:
        for number, name in enumerate(names):
            journal.add(name, (number, 1), [0.0, name])
    with Journal(tmp_path / "j", HEADER) as journal:
        assert journal.n_known == len(names)
        assert [journal.get(name, (number, 1)) for number, name in enumerate(names)] == [[0.0, name] for name in names]
        assert journal.get("é", (3, 1)) is None


def test_two_scans_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", HEADER):
        code = f"from birdjepa.data.scan_journal import *; Journal(Path({str(tmp_path / 'j')!r}), {HEADER})"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another scan is writing" in ran.stderr
        with pytest.raises(UsageError, match="another scan is writing"):
            Journal(tmp_path / "j", HEADER)


def test_a_full_disk_ends_the_scan_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with Journal(tmp_path / "j", HEADER) as journal, monkeypatch.context() as patch:
        patch.setattr(scan_journal.os, "write", full)
        journal.add("a", (1, 1), [])
        with pytest.raises(StorageError, match=r"j cannot be written \(No space left"):
            journal.flush()


def test_hiccups_of_the_disk_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd.write(tmp_path, 1)
    path = tmp_path / "0000" / "0000000.wav"
    calls, pread, n_failures = [], os.pread, 0
    monkeypatch.setattr(scanning, "RETRY_S", (0.0, 0.0))

    def hiccup(descriptor: int, n_bytes: int, offset: int) -> bytes:
        calls.append(offset)
        if len(calls) <= n_failures:
            raise OSError(5, "Input/output error")
        return pread(descriptor, n_bytes, offset)

    monkeypatch.setattr(os, "pread", hiccup)
    for failures, expected in ((2, 6), (9, 2)):  # cells of a good row, of a refused one
        calls.clear()
        n_failures = failures
        stamp, cells = scanning.look(("a", str(path)), deep=True)
        assert stamp == (path.stat().st_size, path.stat().st_mtime_ns)
        assert len(cells) == expected
    assert cells == [0.0, "io: Input/output error"]


def test_rows_are_small() -> None:
    """A million of them are some 200 MB."""
    for cells in ([8000, 1, 10, "WAV", "PCM_16", []], [0.0, "empty: the file has no bytes"]):
        assert "__dict__" not in dir(scanning._row("a.wav", cells))  # slots alone
