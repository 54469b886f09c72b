"""Files that are whole or absent."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from birdjepa.core import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    files.write_text(path, "one é")
    files.write_text(path, "two", durable=False)
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail_half_way():
        with files.replacing(path) as temporary:
            temporary.write_text("new, but")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half"):
        fail_half_way()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    monkeypatch.setattr(files.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(files, "sync", lambda path: done.append(("sync", path.name)))
    rename = files.Path.replace
    monkeypatch.setattr(files.Path, "replace", lambda self, to: (done.append(("rename", to.name)), rename(self, to))[1])
    files.write_text(tmp_path / "a.txt", "x")
    assert [what for what, _ in done] == ["sync", "rename", "sync"]
    assert done[2] == ("sync", tmp_path.name)


WRITER = """
import sys
sys.path.insert(0, {source!r})
from birdjepa.core import files
for number in range(10**9):
    files.write_text({path!r}, str(number % 10) * 200_000)
    if number == 0:
        print("started", flush=True)
"""


def test_kill_9_leaves_one_whole_file(tmp_path):
    """Killed at five moments while it rewrites a file for ever, the writer never leaves a mixture or half of it."""
    path = tmp_path / "a.txt"
    source = os.path.dirname(os.path.dirname(os.path.dirname(files.__file__)))
    for wait_s in (0.0, 0.003, 0.01, 0.02, 0.05):
        code = WRITER.format(source=source, path=str(path))
        writer = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(wait_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        text = path.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1


def test_a_name_is_given_once(tmp_path):
    assert files.create_bytes(tmp_path / "a", b"first")
    assert not files.create_bytes(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert names(tmp_path) == ["a"]
    with pytest.raises(FileNotFoundError):
        files.create_bytes(tmp_path / "none" / "a", b"x")


def test_a_lost_answer_is_no_loss(tmp_path, monkeypatch):
    """A network file system may make the link, lose its answer, and say at the second try that the name is taken."""
    link = os.link

    def lossy(source, target):
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", lossy)
    assert files.create_bytes(tmp_path / "a", b"x")
    assert names(tmp_path) == ["a"]


def test_a_table_runs_no_formula_and_keeps_its_cells(tmp_path):
    cells = ["=cmd()", "+x", "-1+1", "@x", "\tx", "plain, with comma", 'quo"te', "two\nlines", "", "a=b"]
    files.write_csv(tmp_path / "t.csv", ("name", "n"), ({"name": cell, "n": -2.5} for cell in cells))
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"'{cell}" if cell[:1] in "=+-@\t" and cell else cell for cell in cells]
    assert {row["n"] for row in rows} == {"-2.5"}
    files.write_csv(tmp_path / "n.csv", ("lat",), ({"lat": cell} for cell in ("-34.5", "+1", "-2e-05", "-1-")))
    assert (tmp_path / "n.csv").read_text().split() == ["lat", "-34.5", "+1", "-2e-05", "'-1-"]
    with pytest.raises(ValueError, match="other"):
        files.write_csv(tmp_path / "t.csv", ("name",), [{"name": "x", "other": 1}])
    assert len((tmp_path / "t.csv").read_text()) > 20


def test_names_that_are_no_utf8_survive(tmp_path):
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    files.write_csv(tmp_path / "t.csv", ("path",), [{"path": name}])
    assert b"caf\xe9.wav" in (tmp_path / "t.csv").read_bytes()


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [float("nan"), {"b": float("-inf")}, (1, 2.5)], "c": "é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, {"b": None}, [1, 2.5]], "c": "é"}


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
