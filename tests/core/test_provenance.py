"""Provenance says with what a result was made, and nothing of who made it where."""

import getpass
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from birdjepa.core import provenance


def test_holds_versions_and_machine():
    found = provenance.provenance()
    assert found["packages"]["torch"]
    assert set(found) == {"birdjepa", "commit", "command", "python", "platform", "cpu", "n_cores", "packages"}
    json.dumps(found)


def test_names_no_user_and_no_host(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["birdjepa", "pretrain", "--data", str(Path.home() / "birds"), "--seed", "1"])
    found = provenance.provenance()
    assert found["command"] == ["birdjepa", "pretrain", "--data", "~/birds", "--seed", "1"]
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert socket.gethostname() not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_commit_is_this_codes_own(tmp_path, monkeypatch):
    """Installed inside another project's checkout, that project's commit is not ours."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    module = tmp_path / "venv" / "provenance.py"
    module.parent.mkdir()
    module.write_text("")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    commit = [*identity, "commit", "-q", "--allow-empty", "-m", "m"]
    subprocess.run(["git", "-C", str(tmp_path), *commit], check=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.commit() == ""
    subprocess.run(["git", "-C", str(tmp_path), "add", "venv/provenance.py"], check=True)
    assert provenance.commit().removesuffix("-dirty") != ""
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == ""


def test_absent_packages_are_told(monkeypatch):
    def missing(name):
        raise provenance.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.metadata, "version", missing)
    assert set(provenance.versions().values()) == {"not installed"}
