"""`--slurm` on the command line: what is taken out, and what is left for the verb."""

import pytest

from birdjepa import cli
from birdjepa.cli import pretrain
from birdjepa.cli.slurm import clustered
from birdjepa.recipes.slurm import SlurmConfig


def split(*argv):
    return clustered(argv, prog="birdjepa pretrain")


def test_without_it_nothing_is_taken():
    assert split("lejepa", "--data", "x", "--slurmish", "y") == (["lejepa", "--data", "x", "--slurmish", "y"], None)


def test_the_clusters_settings_are_taken_wherever_they_stand(tmp_path):
    file = tmp_path / "gpu.toml"
    file.write_text('partition = "gpu"\nhours = 12\nsetup = ["module load cuda"]\n')
    rest, slurm = split("lejepa", "--slurm", str(file), "--data", "x", "--slurm.hours", "3", "--seed", "1")
    assert rest == ["lejepa", "--data", "x", "--seed", "1"]
    assert slurm == SlurmConfig(partition="gpu", hours=3.0, setup=("module load cuda",))
    rest, slurm = split("lejepa", "--slurm.setup", "module load a", "b=1", "--data", "x", "--slurm.extra=gres=gpu:2")
    assert rest == ["lejepa", "--data", "x"]
    assert slurm == SlurmConfig(setup=("module load a", "b=1"), extra=("gres=gpu:2",))
    assert split("--resume", "runs/x", "--slurm") == (["--resume", "runs/x"], SlurmConfig())
    assert split("--slurm", "lejepa") == (["lejepa"], SlurmConfig())
    assert split(f"--slurm={file}")[1] == SlurmConfig(partition="gpu", hours=12.0, setup=("module load cuda",))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--slurm.partitoin", "gpu"], "did you mean --slurm.partition?"),
        (["--slurm.hours", "x"], "--slurm.hours: could not convert"),
        (["--slurm.hours", "0"], "must be longer than slurm.signal_before_s"),
        (["--slurm", "absent.toml"], "absent.toml: cannot be read"),
        (["--slurm", "--resume", "absent"], "no run here"),
        (["--slurm", "--resume", "x", "--seed", "1"], "leave out --seed 1"),
        (["lejepa", "--slurm"], "--data is missing"),
        (["--slurm.executor", "local", "lejepa"], "Unrecognized options: lejepa"),
    ],
)
def test_usage_errors_are_one_line(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["pretrain", *arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_tells_the_clusters_settings(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["pretrain", "--slurm", "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "--slurm.signal-before-s" in shown
    assert "--train.steps" not in shown


def test_the_jobs_number_is_printed(monkeypatch, capsys):
    class Job:
        job_id = 41

    asked = []
    monkeypatch.setattr(pretrain.slurm, "submit_resumed", lambda folder, slurm, engine: asked.append(engine) or Job)
    assert cli.main(["pretrain", "--resume", "runs/x", "--slurm.partition", "gpu", "--engine", "ddp"]) == 0
    assert asked == ["ddp"]
    shown = capsys.readouterr()
    assert shown.out == "41\n"
    assert shown.err == "birdjepa: submitted; logs are runs/x/slurm/JOB_0_log.out, one for each process\n"
