"""`birdjepa doctor` fits one screen and names no user."""

import socket
from pathlib import Path

from birdjepa import cli


def test_one_screen(capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    names = [line[:14].strip() for line in shown.splitlines()]
    assert {"birdjepa", "python", "processor", "accelerator", "precision", "audio", "free disk here"} <= set(names)
    assert len(names) < 24
    assert "FLAC yes" in shown
    assert str(Path.home()) not in shown
    assert socket.gethostname() not in shown


def test_it_takes_no_arguments(capsys):
    assert cli.main(["doctor", "now"]) == 2
    assert "takes no arguments" in capsys.readouterr().err
