"""Sweeps on nano runs: what a file yields, names by what differs, going on, failures, the table and its page."""

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_run import COMMAND, metrics, tiny, write_config, write_songs

from birdjepa.cli import main
from birdjepa.core import config as configs
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.recipes import apart, labels, pretrain, slurm, sweep
from birdjepa.recipes.run_folder import JOBS
from birdjepa.recipes.sweep import SweepConfig, planned
from birdjepa.recipes.sweeping import grid, log_spaced, replaced

FILE = """
import dataclasses, json
from birdjepa.core import config as configs
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.sweeping import grid

def configs_of(base):
    return grid(base, {axes})

def configs():
    with open("{base}") as file:
        base = configs_module.from_json(PretrainConfig, json.load(file))
    return configs_of(base)

configs_module = __import__("birdjepa.core.config").core.config
"""


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 12)


def write_file(folder, songs, axes, **train):
    folder.mkdir(exist_ok=True)
    base = write_config(tiny(songs, folder / "none", **{"steps": 2, "accumulate": 1, **train}), folder / "base.json")
    (folder / "file.py").write_text(FILE.replace("{axes}", repr(axes)).replace("{base}", str(base)))
    return folder / "file.py"


def inline(config, stop):
    """As `apart.train`, in this process."""
    if (config.out / "config.json").exists():
        apart.require_same(config)
        if apart.is_finished(config.out):
            return False
        pretrain.resume(config.out, lambda _: None)
    else:
        pretrain.start(config, lambda _: None)
    return True


@pytest.fixture(scope="module")
def finished(songs, tmp_path_factory):
    """Two learning rates that work and one that does not."""
    folder = tmp_path_factory.mktemp("sweep")
    file = write_file(folder, songs, {"optim.lr": [1e-3, 4e-3, 1e30]})
    config = SweepConfig(file=file, out=folder / "out", probe_data=str(songs), strengths=(1.0,))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(apart, "train", inline)
        said: list[str] = []
        found = sweep.sweep(config, said.append)
    return config, found, said


def test_each_is_trained_and_probed_and_a_failure_is_only_its_own(finished):
    config, found, said = finished
    assert [row.status for row in found.rows] == ["done", "done", "failed"]
    assert "loss nan" in found.rows[2].reason
    assert found.rows[2].loss is None
    assert any("failed, going on with the others" in line for line in said)
    for row in found.rows[:2]:
        assert row.accuracy is not None
        assert row.floor is not None
        assert row.accuracy.low <= row.accuracy.value <= row.accuracy.high
        assert row.loss == pytest.approx(metrics(config.out / row.folder.rpartition("/")[2])[-1]["loss"])
    assert [row.values for row in found.rows] == [{"optim.lr": "0.001"}, {"optim.lr": "0.004"}, {"optim.lr": "1e+30"}]
    assert found.rows[0].folder.rpartition("/")[2].startswith("lr0.001-")
    kept = json.loads((config.out / "sweep.json").read_text())
    assert [row["status"] for row in kept["rows"]] == ["done", "done", "failed"]


def test_the_page_draws_rate_against_probe_and_loss(finished):
    config, _, _ = finished
    page = (config.out / "sweep.html").read_text()
    assert page.count("<svg") == 2
    assert "Probe accuracy by learning rate" in page
    assert "Final loss, lejepa by learning rate" in page
    assert page.count("<circle") == 4 + page.count('<circle class="cursor"')
    assert "1e+30" in page


def test_the_same_command_goes_on(finished, monkeypatch, capsys):
    """Nothing that is finished is done again, what failed is tried again, by a process of its own that is quoted."""
    config, _, _ = finished
    arguments = [str(config.file), "--out", str(config.out), "--probe-data", config.probe_data, "--strengths", "1.0"]
    monkeypatch.setattr(sweep.probes, "probe", None)
    before = {path: path.stat().st_mtime_ns for path in config.out.glob("lr0.00*/**/*") if path.is_file()}
    assert main(["sweep", *arguments, "--json"]) == 1
    shown = capsys.readouterr()
    rows = json.loads(shown.out)["rows"]
    assert [row["status"] for row in rows] == ["done", "done", "failed"]
    assert "pretraining ended with exit code 1: step 2: loss nan" in rows[2]["reason"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert main(["sweep", *arguments, "--table"]) == 1
    assert "0.004" in capsys.readouterr().out
    assert main(["sweep", *arguments, "--index", "1"]) == 0
    assert capsys.readouterr().out.strip() == rows[1]["folder"]
    assert main(["sweep", *arguments, "--index", "3"]) == 2


def test_a_file_that_yields_more_keeps_the_folders_that_are_there(finished, songs, tmp_path):
    """Names say more once more differs, so the hash decides; a run that the file has no more is told."""
    config, found, _ = finished
    wider = write_file(tmp_path, songs, {"optim.lr": [1e-3, 4e-3], "seed": [3, 4]})
    (tmp_path / "file.py").write_text(wider.read_text().replace(str(tmp_path), str(config.file.parent)))
    runs = planned(wider, config.out)
    assert [run.config.out.name.rpartition("-")[0] for run in runs] == [
        "lr0.001", "seed4-lr0.001", "lr0.004", "seed4-lr0.004",
    ]  # fmt: skip
    assert [str(runs[i].config.out) for i in (0, 2)] == [row.folder for row in found.rows[:2]]
    said: list[str] = []
    shown = sweep.sweep(dataclasses.replace(config, file=wider, table=True, out=config.out), said.append)
    assert [row.status for row in shown.rows] == ["done", "not started", "done", "not started"]
    assert any("1 runs here are none of" in line and "lr1e+30" in line for line in said)


def test_a_folder_of_another_run_is_refused(finished):
    config, _, _ = finished
    run = planned(config.file, config.out)[0]
    other = dataclasses.replace(run.config, seed=99)
    with pytest.raises(UsageError, match=r"holds another run .*seed: 3 -> 99"):
        apart.require_same(other)


def test_a_run_that_was_stopped_is_resumed(songs, tmp_path, monkeypatch):
    file = write_file(tmp_path, songs, {"optim.lr": [1e-3]}, steps=4)
    config = SweepConfig(file=file, out=tmp_path / "out", index=0)
    run = planned(file, config.out)[0]
    monkeypatch.setattr(pretrain.StopSignal, "stop", lambda self: (run.config.out / "metrics.jsonl").exists())
    with pytest.raises(Interrupted):
        pretrain.start(run.config, lambda _: None)
    monkeypatch.undo()
    monkeypatch.setattr(apart, "train", inline)
    row = sweep.sweep_one(config, lambda _: None)
    assert row.status == "done"
    assert row.accuracy is None
    assert [each["step"] for each in metrics(run.config.out)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_signal_reaches_the_run_and_the_same_command_goes_on(songs, tmp_path):
    file = write_file(tmp_path, songs, {"optim.lr": [1e-3, 2e-3]}, steps=120, checkpoint_every=1000)
    command = [*COMMAND, "sweep", str(file), "--out", str(tmp_path / "out"), "--index", "1"]
    run = planned(file, tmp_path / "out")[1].config.out
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 75, said
    assert "the same command goes on" in said.splitlines()[-1]
    assert len(list((run / "checkpoints").glob("step-*"))) == 1
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    assert [row["step"] for row in metrics(run)] == list(range(1, 121))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "defines no function configs"),
        ("def configs():\n    return []", "yields nothing"),
        ("def configs():\n    return [3]", "must yield RunConfig, got int as 0"),
        ("def configs():\n    return 1 / 0", "file.py, line 2: ZeroDivisionError: division by zero"),
        ("import absent_module", "line 1: ModuleNotFoundError"),
        ("from birdjepa.recipes.named import lejepa\ndef configs():\n    yield lejepa()", "0: --data is missing"),
    ],
)
def test_files_that_cannot_be_used_are_told_in_a_line(tmp_path, text, told):
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(UsageError, match=told) as error:
        planned(tmp_path / "file.py", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_a_configuration_yielded_twice_is_refused(songs, tmp_path):
    with pytest.raises(UsageError, match="configurations 0 and 1 are the same"):
        planned(write_file(tmp_path, songs, {"seed": [3, 3]}), tmp_path / "out")
    with pytest.raises(UsageError, match="not found"):
        planned(tmp_path / "absent.py", tmp_path / "out")


def test_bad_options_are_refused_before_anything_is_trained(songs, tmp_path):
    file = write_file(tmp_path, songs, {"seed": [3]})
    for changes, told in (
        ({"table": True, "index": 0}, "give one of them"),
        ({"folds": "fold"}, "--probe-data, which is missing"),
        ({"probe_data": str(songs), "folds": "absent"}, "absent"),
    ):
        with pytest.raises((UsageError, UserError), match=told):
            sweep.sweep(SweepConfig(file=file, out=tmp_path / "out", **changes), lambda _: None)
    assert not (tmp_path / "out").exists()


def test_each_run_becomes_a_task_of_an_array(songs, tmp_path, monkeypatch, capsys):
    file = write_file(tmp_path, songs, {"seed": [3, 4]})
    submitted = []

    def submit(commands, folder, asked):
        submitted.append((list(commands), folder, asked.hours))
        return [SimpleNamespace(job_id="7_0"), SimpleNamespace(job_id="7_1")]

    monkeypatch.setattr(slurm, "submit_array", submit)
    command = ["sweep", str(file), "--out", str(tmp_path / "out"), "--slurm", "--slurm.hours", "2"]
    assert main(command) == 0
    ((commands, folder, hours),) = submitted
    asked = ("sweep", str(file), "--out", str(tmp_path / "out"), "--index")
    assert [each[-6:] for each in commands] == [(*asked, "0"), (*asked, "1")]
    assert (folder, hours) == (tmp_path / "out" / JOBS, 2.0)
    assert capsys.readouterr().out == "7_0\n7_1\n"
    assert main([*command, "--table"]) == 2
    assert main([*command, "--slurm.tasks-per-node", "2"]) == 2
    assert len(submitted) == 1
    for n_done, run in enumerate(planned(file, tmp_path / "out"), start=1):
        (run.config.out / "encoder").mkdir(parents=True)
        (run.config.out / "encoder" / "config.json").touch()
        capsys.readouterr()
        assert main(command) == 0
        assert [each[-1] for each in submitted[-1][0]] == ["1"]
        assert ("all runs are done" in capsys.readouterr().err) == (n_done == 2)
    assert len(submitted) == 2


def test_the_factorial_is_sixty_runs(tmp_path):
    runs = planned(Path(__file__).parents[2] / "examples" / "factorial.py", tmp_path)
    assert len(runs) == 3 * 2 * 2 * 5
    assert len({run.line for run in runs}) == 12
    assert runs[-1].line == "supervised-muon-mup_base_width64"


def test_rates_at_equal_ratios():
    assert log_spaced(1e-4, 1e-1, 4) == [1e-4, 1e-3, 1e-2, 1e-1]
    assert log_spaced(1e-3, 1e-2, 3) == [0.001, 0.00316, 0.01]
    with pytest.raises(ValueError, match="0 < low < high"):
        log_spaced(1.0, 1.0, 3)


def test_a_grid_varies_its_last_axis_fastest(tmp_path):
    base = tiny(tmp_path, tmp_path)
    made = grid(base, {"objective": [PixioConfig(), base.objective], "optim.lr": [1.0, 2.0]})
    assert [(each.objective.name, each.optim.lr) for each in made] == [
        ("pixio", 1.0), ("pixio", 2.0), ("lejepa", 1.0), ("lejepa", 2.0),
    ]  # fmt: skip
    assert dataclasses.replace(made[3], optim=base.optim) == base
    for name, told in (("optim.rate", "AdamWConfig has no setting 'rate'"), ("seed.x", "int has no setting 'x'")):
        with pytest.raises(ValueError, match=told):
            replaced(base, name, 1.0)
    with pytest.raises(ValueError, match="need lr > 0"):
        replaced(base, "optim.lr", -1.0)
    with pytest.raises(ValueError, match="no values for seed"):
        grid(base, {"seed": []})


def test_labels_say_what_differs_and_no_more(tmp_path):
    """What follows from an objective's kind is not said again; what differs within a kind is."""
    base = tiny(tmp_path, tmp_path)
    pixio = dataclasses.replace(base, objective=PixioConfig(), optim=AdamWConfig(lr=0.002))
    described = [configs.to_json(each) for each in (base, pixio)]
    assert labels.differing(described, leave_out=("out",)) == ["objective.kind", "optim.lr"]
    named = [labels.label(labels.values_of(each, ["objective.kind", "optim.lr"])) for each in described]
    assert named == ["lejepa-lr0.001", "pixio-lr0.002"]
    more = [*described, configs.to_json(replaced(pixio, "objective.share", 0.5))]
    assert labels.differing(more, leave_out=("out",)) == ["objective.kind", "optim.lr", "objective.share"]
    assert labels.label({"a.lr": "1", "b.lr": "2"}) == "a.lr1-b.lr2"
    assert labels.label({}) == "run"
    assert labels.label({"data": "x/y z"}) == "datax_y_z"
