"""`birdjepa data scan`, `birdjepa data synth` and `birdjepa data images`."""

import csv
import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest
from tiny_run import COMMAND, write_songs

from birdjepa import cli
from birdjepa.cli import data_scan


def test_scan_lists_what_is_damaged_and_exits_with_3(tmp_path, monkeypatch, capsys):
    write_songs(tmp_path / "songs", 3, damaged=1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "scan", "songs", "--workers", "1", "--out", "found"]) == 3
    shown = capsys.readouterr()
    assert "4 files" in shown.out
    assert "003.wav: not audio" in shown.out
    assert "1 files were refused; see found/failures.csv" in shown.err
    with (tmp_path / "found" / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "003.wav"
    assert row["reason"].startswith("not audio")
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"failures.csv", "files.csv"}


@pytest.fixture
def slow(tmp_path):
    """A folder whose last recording takes seconds to decode, and that recording."""
    folder = tmp_path / "songs"
    write_songs(folder, 3, damaged=1)
    (folder / "metadata.csv").unlink()
    last = folder / "zzz.wav"
    head = bytearray((folder / "000.wav").read_bytes()[:44])
    head[40:44] = (1 << 31).to_bytes(4, "little")
    last.write_bytes(head)
    os.truncate(last, 44 + (1 << 31))
    return folder, last


def rows_known(out):
    return sum(path.read_bytes().count(b"\n") - 1 for path in out.glob(".scan-*.journal"))


def wait_for_rows(out, n, seconds=60):
    deadline = time.monotonic() + seconds
    while rows_known(out) < n and time.monotonic() < deadline:
        time.sleep(0.01)


def test_scan_goes_on_after_signals_and_kills(slow, tmp_path, capsys):
    """SIGTERM ends it with 75, SIGKILL at once; run again, it knows what it knew and leaves no journal."""
    folder, last = slow
    out = tmp_path / "found"
    command = ["data", "scan", str(folder), "--workers", "1", "--out", str(out)]
    with subprocess.Popen([*COMMAND, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        wait_for_rows(out, 3)
        killed.kill()
    assert rows_known(out) in (3, 4)  # the fourth may be on its way together with the fifth
    assert sorted(path.suffix for path in out.iterdir()) == [".journal"]
    asker = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    asker.start()
    assert cli.main(command) == 75
    told = capsys.readouterr().err
    assert re.search("which knows [34] files", told)
    assert re.search("stopped by SIGTERM after [34] of 5 files: go on by running it again", told)
    last.write_bytes((folder / "000.wav").read_bytes())
    assert cli.main(command) == 3
    assert re.search("which knows [34] files", capsys.readouterr().err)
    assert {path.name for path in out.iterdir()} == {"failures.csv", "files.csv"}
    with (out / "files.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["000.wav", "001.wav", "002.wav", "zzz.wav"]


def test_scan_where_nothing_can_be_written(tmp_path, monkeypatch, capsys):
    write_songs(tmp_path / "songs", 1)
    (tmp_path / "file").touch()
    assert cli.main(["data", "scan", str(tmp_path / "songs"), "--out", str(tmp_path / "file")]) == 2
    assert "is no folder" in capsys.readouterr().err

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(data_scan, "Journal", refuse)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "scan", "songs", "--workers", "1"]) == 0
    assert "cannot be resumed" in capsys.readouterr().err


def test_names_do_nothing_to_the_terminal(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "songs"
    folder.mkdir()
    for name in ("\x1b[2J\n", "\udcff", "[red]:bird:", "\u202egnp"):
        (folder / f"{name}.wav").write_bytes(b"<html>gone</html>")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "scan", "songs", "--workers", "1"]) == 3
    shown = capsys.readouterr().out
    for name in (r"\x1b[2J\n.wav", r"\udcff.wav", "[red]:bird:.wav", r"\u202egnp.wav"):
        assert f"refused {name}: not audio" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_in_a_terminal_and_rare_elsewhere(terminal, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(data_scan.time, "monotonic", lambda: float(next(clock)))
    with data_scan.Progress(200) as progress:
        for n_done in range(120):
            progress(n_done, n_done // 10)
    said = capsys.readouterr().err
    if terminal:
        assert "\n" not in said
        assert "100 of 200 files, 10 refused, 1 files/s, 1:40 min left" in said
        assert said.endswith("\r")
    else:
        assert said.count("\n") == 2
        assert "files/s" in said


def test_scan_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    manifest = write_songs(tmp_path / "songs", 2)
    assert cli.main(["data", "scan", str(manifest), "--headers-only", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_files"], found["n_good"], found["n_refused"]) == (2, 2, 0)
    assert found["by_sampling_rate"] == {"8000": 2}
    assert found["duration_quantiles_s"]
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


def test_synth_writes_a_manifest_that_scans_clean(tmp_path, capsys):
    few = ["--n-species", "2", "--n-individuals", "2", "--songs-per-individual", "1", "--n-soundscapes", "0"]
    folder = tmp_path / "songs"
    assert cli.main(["data", "synth", str(folder), *few, "--song-s", "2", "--sampling-rate", "16000"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder / 'metadata.csv'}\n"
    assert "4 of 4 recordings" in shown.err
    with (folder / "metadata.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert cli.main(["data", "synth", str(folder), *few]) == 2
    assert "holds files already" in capsys.readouterr().err


def test_images_writes_a_manifest_that_scans_clean(tmp_path, capsys):
    folder = tmp_path / "digits"
    assert cli.main(["data", "images", str(folder), "--n-images", "10", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder / 'metadata.csv'}\n"
    assert "10 of 10 images" in shown.err
    assert cli.main(["data", "scan", str(folder / "metadata.csv"), "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_good"] == 10
    assert cli.main(["data", "images", str(folder), "--n-images", "10"]) == 2
    assert "holds files already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["look"],
        ["scan", "absent"],
        ["scan", "synth", "--workers", "0"],
        ["scan", "synth", "--timeout-s", "nan"],
        ["synth", "x", "--n-species", "0"],
        ["images", "x", "--source", "absent"],
        ["images", "x", "--n-images", "0"],
    ],
)
def test_usage(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
