"""Cluster jobs: what is asked of SLURM, and real jobs that are signalled, requeued and finished.

Jobs run through submitit's local executor, or through its SLURM executor on a cluster of one machine made of scripts.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission
from tiny_run import differences, metrics, tiny, write_songs

from birdjepa.core import config as configs
from birdjepa.core.errors import MissingExtraError, UsageError, UserError
from birdjepa.recipes import pretrain, run_folder, slurm_job
from birdjepa.recipes.slurm import SlurmConfig, birdjepa, submit_array, submit_pretraining, submit_resumed

CHILD = (sys.executable, str(Path(__file__).parent / "cluster_child.py"))
STEPS = 16


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8, damaged=1)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster of one machine."""
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    return fake


class Watched:
    """A job whose command is cluster_child.py."""

    def __init__(self, folder: Path, *behaviours: str, settings: SlurmConfig) -> None:
        self.notes = folder / "notes"
        self.notes.touch()
        self.logs = folder / "logs"
        (self.job,) = submit_array([(*CHILD, str(self.notes), *behaviours)], self.logs, settings)

    @property
    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()

    @property
    def events(self) -> list[str]:
        """Without process ids."""
        return [" ".join(word for word in line.split() if not word.isdigit()) for line in self.noted]

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.logs.glob("*_log.out")))

    def wait_for(self, text: str, n: int = 1) -> None:
        """Returns when so many lines of the notes begin with a text."""
        until(lambda: sum(line.startswith(text) for line in self.noted) >= n, lambda: f"{self.noted}\n{self.log}")

    def wait(self) -> None:
        """Returns when the job is over."""
        until(lambda: self.job._process.poll() is not None, lambda: self.log)


def until(is_true, told=str):
    end = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < end, told()
        time.sleep(0.01)


def tasks(job):
    """Process ids of a local job's tasks, the children of its controller."""
    return [int(pid) for pid in Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()]


def signal_tasks(job, name):
    """As submitit's controller does before the time limit, and SLURM with all tasks of a step."""
    for pid in tasks(job):
        os.kill(pid, name)


def signal_job(job, name):
    """SIGTERM to the controller, which passes it on to the tasks: a preemption."""
    os.kill(int(job.job_id), name)


LOCAL = SlurmConfig(executor="local", signal_before_s=12, hours=1.0)
"""Kills a command that does not stop within six seconds."""


def test_a_run_signalled_twice_equals_an_undisturbed_one(songs, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    pretrain.start(tiny(songs, whole, steps=STEPS), lambda _: None)
    config = tiny(songs, run, steps=STEPS, checkpoint_every=1000)
    job = submit_pretraining(config, SlurmConfig(executor="local", hours=1.0))
    logged = lambda: len(metrics(run)) if (run / "metrics.jsonl").exists() else 0  # noqa: E731
    log = run / "slurm" / f"{job.job_id}_0_log.out"
    until(lambda: logged() >= 2)
    signal_tasks(job, signal.SIGUSR2)
    until(lambda: "going on from step" in log.read_text(), log.read_text)
    stopped_at = logged()
    until(lambda: logged() >= stopped_at + 2)
    signal_job(job, signal.SIGTERM)
    assert job.result() == 3, log.read_text()
    said = log.read_text()
    assert said.count("Requeued job") == said.count("going on from step") == 2
    assert "requeue 2 of at most 100" in said
    assert [row["step"] for row in metrics(run)] == list(range(1, STEPS + 1))
    saved = json.loads((run / "config.json").read_text())
    assert saved["hash"] == configs.fingerprint(config)
    assert differences(whole, run) == []


def test_signals_of_all_kinds_at_bad_moments(tmp_path):
    """Before the command listens; twice; to a command that does not stop; and at last it is left in peace."""
    watched = Watched(tmp_path, "early", "slow", "deaf", "refused", settings=LOCAL)
    watched.wait_for("0 begun early")
    signal_tasks(watched.job, signal.SIGUSR1)
    watched.wait_for("0 begun slow")
    signal_tasks(watched.job, signal.SIGUSR2)
    time.sleep(0.3)
    signal_job(watched.job, signal.SIGTERM)
    watched.wait_for("0 begun deaf")
    signal_job(watched.job, signal.SIGTERM)
    assert watched.job.result() == 3, watched.log
    assert watched.events == ["begun early", "begun slow", "saved after SIGTERM", "begun deaf", "begun refused"]


@pytest.mark.parametrize(("behaviour", "told"), [("fail", "exit code 1"), ("killed", "signal SIGKILL")])
def test_a_command_that_fails_is_not_requeued(tmp_path, behaviour, told):
    watched = Watched(tmp_path, behaviour, "finish", settings=LOCAL)
    with pytest.raises(UncompletedJobError, match=f"ended with {told}; not requeued"):
        watched.job.result()
    assert watched.events == [f"begun {behaviour}"]


def test_a_job_is_requeued_so_often_and_no_more(tmp_path):
    watched = Watched(tmp_path, "wait", "wait", "finish", settings=dataclasses.replace(LOCAL, max_requeues=1))
    for n in (1, 2):
        watched.wait_for("0 begun", n)
        signal_job(watched.job, signal.SIGTERM)
    with pytest.raises(UncompletedJobError, match=r"stopped and saved, but requeued 1 times already \(slurm.max_req"):
        watched.job.result()
    assert watched.events == ["begun wait", "saved after SIGTERM"] * 2


@pytest.mark.slow
def test_the_time_limit_is_a_signal_like_another(tmp_path):
    """Submitit's controller sends it for real, ten seconds after the job began."""
    settings = dataclasses.replace(LOCAL, signal_before_s=20, hours=30 / 3600)
    watched = Watched(tmp_path, "wait", "finish", settings=settings)
    assert watched.job.result() == 0, watched.log
    assert watched.events == ["begun wait", "saved after SIGTERM", "begun finish"]


def ranks(address):
    return [f"{rank} LOCAL_RANK={rank} WORLD_SIZE=2 MASTER_ADDR={address}" for rank in (0, 1)]


def test_all_ranks_stop_and_one_requeues(tmp_path):
    watched = Watched(tmp_path, "wait", "ranks", settings=dataclasses.replace(LOCAL, tasks_per_node=2))
    watched.wait_for("0 begun wait")
    watched.wait_for("1 begun wait")
    signal_job(watched.job, signal.SIGTERM)
    assert watched.job.results() == [0, 0]
    assert watched.log.count("Requeued job") == watched.log.count("requeue 1 of at most 100") == 1
    saved = [f"{rank} saved after SIGTERM" for rank in (0, 1)]
    assert sorted(line for line in watched.noted if "begun" not in line) == sorted([*saved, *ranks("localhost")])


SETTINGS = SlurmConfig(
    partition="gpu",
    account="birds",
    qos="low",
    constraint="a100",
    nodes=2,
    tasks_per_node=4,
    gpus_per_node=4,
    cpus_per_task=8,
    mem_gb=64,
    hours=1.51,
    signal_before_s=240,
    setup=("module load cuda", "export A=1"),
    extra=("gres=gpu:a100:4", "mail-type=FAIL", "exclusive"),
)

SUBMITTED = """
--account=birds --constraint=a100 --cpus-per-task=8 --exclusive --gpus-per-node=4 --gres=gpu:a100:4
--job-name=birdjepa-run --mail-type=FAIL --mem=64G --nodes=2 --ntasks-per-node=4 --open-mode=append
--partition=gpu --qos=low --requeue --signal=USR2@240 --time=91
"""


def test_what_the_cluster_is_asked_for(songs, tmp_path, cluster):
    config = tiny(songs, tmp_path / "run", engine="ddp")
    assert submit_pretraining(config, SETTINGS).job_id == "41"
    logs = tmp_path / "run" / "slurm"
    asked = [line.removeprefix("#SBATCH ") for line in cluster.script if line.startswith("#SBATCH")]
    assert asked == sorted([*SUBMITTED.split(), f"--output={logs}/%j_0_log.out"])
    assert [line for line in cluster.script if line in ("module load cuda", "export A=1")] == list(SETTINGS.setup)
    assert "export SUBMITIT_PREEMPT_SIGNAL=USR2" in cluster.script
    (srun,) = (line for line in cluster.script if line.startswith("srun"))
    assert f"--output {logs}/%j_%t_log.out --kill-on-bad-exit=0 --wait=0 --cpus-per-task=8 {sys.executable}" in srun
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["slurm"]
    assert configs.fingerprint(config) == json.loads((logs / "config.json").read_text())["hash"]
    assert submit_pretraining(config, SlurmConfig()).job_id == "41"  # a first job that failed is no hindrance
    plain = {line.split("=")[0] for line in cluster.script if line.startswith("#SBATCH")}
    assert not plain & {
        f"#SBATCH --{name}" for name in ("partition", "account", "qos", "mem", "gpus-per-node", "wckey")
    }


def test_an_array_asks_for_one_task_for_each_command(tmp_path, cluster):
    commands = [birdjepa("sweep", "f.py", "--index", str(index)) for index in (2, 5, 6)]
    jobs = submit_array(commands, tmp_path / "jobs", SlurmConfig(array_at_once=2))
    assert [job.job_id for job in jobs] == ["41_0", "41_1", "41_2"]
    assert "#SBATCH --array=0-2%2" in cluster.script
    pickles = sorted((tmp_path / "jobs").glob("41_*_submitted.pkl"))
    loaded = [DelayedSubmission.load(path).function for path in pickles]
    assert [job.command() for job in loaded] == [tuple(command) for command in commands]


def test_a_step_on_a_cluster_stops_as_one_and_is_requeued_once(tmp_path, cluster):
    watched = Watched(tmp_path, "wait", "ranks", settings=SlurmConfig(tasks_per_node=2))
    with cluster.running(n_tasks=2) as send:
        watched.wait_for("0 begun wait")
        watched.wait_for("1 begun wait")
        send(signal.SIGUSR2)
    assert cluster.asked == ["requeue 41"], watched.log
    with cluster.running(n_tasks=2, restarts=1):
        pass
    assert sorted(line for line in watched.noted if "RANK" in line) == ranks("node07")
    assert cluster.asked == ["requeue 41"]


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_sigterm_is_a_preemption_while_the_job_runs_and_else_its_end(tmp_path, cluster, state, requeued):
    watched = Watched(tmp_path, "wait", "finish", settings=SlurmConfig())
    cluster.state(state)
    with cluster.running() as send:
        watched.wait_for("0 begun wait")
        send(signal.SIGTERM)
    assert cluster.asked == ["--oneliner show job 41", *(["requeue 41"] if requeued else [])]
    assert watched.events == ["begun wait", "saved after SIGTERM"]
    assert ("SLURM is ending this job (COMPLETING), and requeues it or not" in watched.log) is not requeued


def job(tmp_path, *, n_requeued=0):
    return slurm_job.Job(
        first=("first",),
        again=("again",),
        begun="config.json",
        folder=str(tmp_path),
        max_requeues=2,
        patience_s=1.0,
        n_requeued=n_requeued,
    )


def test_a_job_goes_on_with_what_has_begun(tmp_path, monkeypatch):
    """However it was requeued; and a run that is there before the first attempt is somebody else's."""
    requeued = job(tmp_path).checkpoint().function
    assert requeued == job(tmp_path, n_requeued=1)
    assert job(tmp_path, n_requeued=2).checkpoint() is None
    assert requeued.command() == ("first",)
    (tmp_path / "config.json").touch()
    assert requeued.command() == ("again",)
    assert job(tmp_path).command() == ("first",)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert job(tmp_path).command() == ("again",)


def test_a_controller_that_is_too_busy_is_asked_again(monkeypatch, capsys):
    answers = iter([subprocess.CalledProcessError(1, "scontrol"), subprocess.TimeoutExpired("scontrol", 60)])
    pauses = []

    def handler(number, frame):
        raise next(answers, SystemExit(-1))

    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(SystemExit):
        slurm_job._requeue(handler, "requeued")
    assert pauses == [0.0, 5.0, 20.0]
    assert capsys.readouterr().err.startswith("requeued\nbirdjepa: Command 'scontrol' returned non-zero exit status 1")


def test_a_stopped_run_is_submitted_as_it_is(songs, tmp_path, cluster, monkeypatch):
    config = tiny(songs, tmp_path / "run")
    with pytest.raises(UsageError, match="no run here"):
        submit_resumed(tmp_path / "run", SlurmConfig())
    run_folder.begin(tmp_path / "run", config, {})
    submit_resumed(tmp_path / "run", SlurmConfig())
    (path,) = (tmp_path / "run" / "slurm").glob("*_submitted.pkl")
    loaded = DelayedSubmission.load(path).function
    resume = birdjepa("pretrain", "--resume", str(tmp_path / "run"))
    assert loaded.first == loaded.again == resume
    with pytest.raises(UsageError, match=r"slurm asks for 2 processes, and train\.engine=single is for one"):
        submit_resumed(tmp_path / "run", SlurmConfig(tasks_per_node=2))
    submit_resumed(tmp_path / "run", SlurmConfig(tasks_per_node=2), engine="ddp")
    assert DelayedSubmission.load(path).function.again == (*resume, "--engine", "ddp")


def test_what_cannot_start_is_not_submitted(songs, tmp_path, cluster):
    config = tiny(songs, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(UsageError, match="exists already"):
        submit_pretraining(config, SlurmConfig())
    with pytest.raises(UsageError, match=r"train\.engine=single is for one"):
        submit_pretraining(dataclasses.replace(config, out=tmp_path / "new"), SlurmConfig(nodes=2))
    with pytest.raises(UsageError, match="not found"):
        submit_pretraining(dataclasses.replace(config, data=("absent",), out=tmp_path / "new"), SlurmConfig())
    assert not (tmp_path / "new").exists()
    assert not (cluster.bin / "script.sh").exists()


def test_a_cluster_that_says_no(songs, tmp_path, cluster):
    cluster.refuse("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(UserError, match="the cluster refused the job: sbatch: error: invalid partition"):
        submit_pretraining(tiny(songs, tmp_path / "run"), SlurmConfig())


def test_without_a_cluster_or_without_submitit(songs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no srun here: submit from a cluster's login node"):
        submit_pretraining(tiny(songs, tmp_path / "run"), SlurmConfig())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match=r"needs submitit.*birdjepa\[slurm\]"):
        submit_pretraining(tiny(songs, tmp_path / "run"), SlurmConfig())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"nodes": 0}, "slurm.nodes must be at least 1"),
        ({"gpus_per_node": -1}, "slurm.gpus_per_node must not be negative"),
        ({"hours": 0.05}, "must be longer than slurm.signal_before_s=300 s"),
        ({"executor": "local", "nodes": 2}, "slurm.nodes=2: the local executor has one"),
        ({"extra": ("partition=gpu",)}, "partition is set by slurm.partition"),
        ({"extra": ("signal=TERM@3",)}, "signal is set by slurm.signal_before_s"),
        ({"extra": ("output=x",)}, "output is set by birdjepa"),
        ({"extra": ("--gres=gpu:1",)}, "without dashes"),
        ({"extra": ("comment=a\nrm -r x",)}, "without dashes"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        SlurmConfig(**settings)
