"""`birdjepa data list`, `birdjepa data describe` and `birdjepa data prepare`."""

import csv

import numpy as np
import pytest
import soundfile

from birdjepa import cli
from birdjepa.data.catalog import CATALOG


def write_digits(folder):
    """The whole of FSDD in little: six speakers, fifty takes of ten digits."""
    (folder / "recordings").mkdir(parents=True)
    soundfile.write(folder / "first.wav", np.tile([0.1, -0.1], 800), 8000)
    sound = (folder / "first.wav").read_bytes()
    for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
        for digit in range(10):
            for take in range(50):
                (folder / "recordings" / f"{digit}_{speaker}_{take}.wav").write_bytes(sound)


def test_list_and_describe(capsys):
    assert cli.main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    for dataset in CATALOG.values():
        assert f"{dataset.name} " in shown
        for told in (dataset.title, dataset.size, dataset.licence):
            assert told in shown
    assert cli.main(["data", "describe", "esc50"]) == 0
    assert capsys.readouterr().out == CATALOG["esc50"].describe() + "\n"


def test_prepare_tells_what_it_did_and_what_comes_next(tmp_path, monkeypatch, capsys):
    write_digits(tmp_path / "fsdd")
    monkeypatch.chdir(tmp_path)
    command = ["data", "prepare", "fsdd", "fsdd", "--out", "digits.csv"]
    assert cli.main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "fsdd: 3,000 rows in digits.csv\n"
        "  train: 2,700 rows, 10 classes\n"
        "  test: 300 rows, 10 classes\n"
        "next: birdjepa data scan digits.csv\n"
    )
    assert shown.err == ""
    assert cli.main(["data", "prepare", "fsdd", "fsdd", "--out", "test.csv", "--splits", "test"]) == 0
    assert capsys.readouterr().out.startswith("fsdd: 300 rows in test.csv\n  test: 300 rows, 10 classes\n")
    (tmp_path / "fsdd/recordings/3_theo_9.wav").unlink()
    assert cli.main(command) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "recordings/3_theo_9.wav" in shown.err
    assert cli.main([*command, "--partial"]) == 3
    shown = capsys.readouterr()
    assert "  train: 2,699 of 2,700 rows, 10 classes\n" in shown.out
    assert "split train has 2,699 rows instead of 2,700" in shown.err
    assert "1 files were left out; see failures.csv" in shown.err
    with (tmp_path / "failures.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"path": "recordings/3_theo_9.wav", "stage": "open", "offset_s": "0", "reason": "missing"}
        ]
    assert cli.main(["data", "scan", "test.csv", "--headers-only", "--workers", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["describe", "esc"], "'esc' is not in the catalog; it has esc50, "),
        (["prepare", "esc", "x", "--out", "x.csv"], "'esc' is not in the catalog"),
        (["prepare", "esc50", "absent", "--out", "x.csv"], "absent: no such folder"),
        (["prepare", "esc50", ".", "--out", "x.csv"], "not a download of esc50, for it has no meta/esc50.csv"),
        (["prepare", "esc50", ".", "--out", "x.txt"], "must end in .csv"),
        (["prepare", "esc50", ".", "--out", "x.csv", "--splits", "dev"], "esc50 has no split 'dev'; it has all"),
        (["prepare", "esc50", "."], "out"),
        (["list", "--all"], "--all"),
    ],
)
def test_usage(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
