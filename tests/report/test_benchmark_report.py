"""`birdjepa report` on results: what a path means, the files that it writes, and what it refuses."""

import csv
from pathlib import Path

import pytest
from benchmark_examples import multi_label_scores, result

from birdjepa.benchmark.results import Store
from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.recipes.benchmark_report import benchmark_report, results_of


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.sqlite"
    with Store.open(path, spool=False) as store:
        for task in ("pow", "per"):
            for model in ("ours", "=2+3"):
                made = result(task, 0.4, model=model)
                kept = store.write_scores(made.key, multi_label_scores(50, 5), 10**6)
                store.add(result(task, 0.4, model=model, scores=kept))
    return path


def test_a_page_and_two_tables_are_written_beside_the_results(results: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(results)]) == 0
    shown = capsys.readouterr()
    folder = results.parent / "results.sqlite.report"
    assert shown.out.splitlines()[-1] == str(folder / "report.html")
    assert "BirdSet: cmAP in percent" in shown.out
    assert "40.0" in shown.out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "highest wrong class" in page
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["task"] for row in rows] == ["per", "per", "pow", "pow"]
    assert {row["model"] for row in rows} == {"ours", "'=2+3"}  # no formula for a spreadsheet
    assert sorted(each.name for each in folder.iterdir()) == ["leaderboard.csv", "report.html", "results.csv"]


def test_a_folder_with_results_means_them_and_out_says_where_to(results: Path, tmp_path: Path):
    assert main(["report", str(results.parent), "--out", str(tmp_path / "shown")]) == 0
    assert (tmp_path / "shown" / "report.html").exists()


def test_scores_that_are_gone_leave_a_page(results: Path):
    for each in (results.parent / "results.sqlite.scores").iterdir():
        each.unlink()
    page = benchmark_report(results, None).page.read_text(encoding="utf-8")
    assert "scores cannot be read" in page


def test_an_empty_store_is_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Store.open(tmp_path / "none.sqlite", spool=False).close()
    assert main(["report", str(tmp_path / "none.sqlite")]) == 0
    assert "there are no results yet" in capsys.readouterr().err


def test_what_a_path_means(results: Path, tmp_path: Path):
    assert results_of(results.parent) == results
    assert results_of(Path("x.sqlite.spool")) == Path("x.sqlite")
    run = tmp_path / "run"
    run.mkdir()
    assert results_of(run) is None
    (run / "results.sqlite").touch()
    (run / "config.json").touch()
    assert results_of(run) is None  # a run stays a run
    (tmp_path / "other.sqlite.spool").mkdir()
    with pytest.raises(UsageError, match=r"several files of results; name one: other.sqlite, results.sqlite"):
        results_of(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("missing.sqlite",), "there are no results"),
        (("results.sqlite", "--n-clips", "2"), "are for runs"),
        (("run", "--out", "x"), "--out and --resamples are for results"),
        (("results.sqlite", "--out", "results.sqlite"), "cannot be made"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    arguments: tuple[str, ...],
    told: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(results.parent)
    assert main(["report", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (results.parent / "missing.sqlite").exists()
