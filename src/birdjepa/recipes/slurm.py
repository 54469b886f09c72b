"""Jobs for a SLURM cluster, submitted through submitit: resources, a signal before the time limit, requeues.

Where a run is computed is no part of its configuration, so its hash is the same everywhere. What happens inside the job
is in `slurm_job`.
"""

import dataclasses
import math
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import MissingExtraError, UsageError, UserError
from birdjepa.recipes import pretrain, run_folder
from birdjepa.recipes.any_run import read_run
from birdjepa.recipes.apart import COMMAND
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.slurm_job import Job
from birdjepa.train.sinks import require_extras

OWN = {
    **{name: f"slurm.{name}" for name in ("partition", "account", "qos", "constraint", "nodes")},
    "ntasks-per-node": "slurm.tasks_per_node",
    "gpus-per-node": "slurm.gpus_per_node",
    "cpus-per-task": "slurm.cpus_per_task",
    "mem": "slurm.mem_gb",
    "time": "slurm.hours",
    "signal": "slurm.signal_before_s",
    "array": "slurm.array_at_once",
    **dict.fromkeys(("requeue", "no-requeue", "output", "error", "open-mode", "job-name"), "birdjepa"),
}
"""sbatch options that are not extra, and what sets them."""

PREEMPT_SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"
"""submitit's variable for the signal that it asks SLURM for; its default has changed more than once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What a job asks of the cluster. Where nothing is said (0, an empty text) the cluster's own default holds."""

    executor: Literal["slurm", "local"] = "slurm"
    """local runs the same job on this machine, to try it out; it heeds tasks, GPUs, hours, the signal and setup."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 1
    tasks_per_node: int = 1
    """Processes on each node, one for each GPU; more than one in all needs an engine for several processes."""
    gpus_per_node: int = 0
    cpus_per_task: int = 4
    mem_gb: int = 0
    """Memory of a node in GB."""
    hours: float = 24.0
    """Time limit of one go; a run that needs longer is requeued. SLURM counts in whole minutes, so it is rounded up."""
    signal_before_s: int = 300
    """How long before the time limit the run is told to save; it is killed, and requeued, if it takes most of that."""
    max_requeues: int = 100
    """How often a job may be requeued. The local executor ends after 5, submitit's own limit."""
    array_at_once: int = 16
    """Tasks of an array that run at the same time at most. The local executor runs all at once."""
    setup: tuple[str, ...] = ()
    """Shell lines before the run: modules to load, variables to set."""
    extra: tuple[str, ...] = ()
    """More options of sbatch: "gres=gpu:a100:2", "mail-type=FAIL", "exclusive"."""

    def __post_init__(self) -> None:
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "signal_before_s", "array_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"slurm.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gpus_per_node", "mem_gb", "max_requeues"):
            if getattr(self, name) < 0:
                raise ValueError(f"slurm.{name} must not be negative, got {getattr(self, name)}")
        if self.hours * 3600 <= self.signal_before_s:
            raise ValueError(
                f"slurm.hours={self.hours:g} must be longer than slurm.signal_before_s={self.signal_before_s} s"
            )
        if self.executor == "local" and self.nodes > 1:
            raise ValueError(f"slurm.nodes={self.nodes}: the local executor has one")
        for option in self.extra:
            self._check_extra(option)

    def _check_extra(self, option: str) -> None:
        name = option.partition("=")[0]
        if not re.fullmatch(r"[a-z][a-z-]*(=[^\n]+)?", option):
            raise ValueError(
                f'slurm.extra takes "option=value" of sbatch\'s long options without dashes, got {option!r}'
            )
        if name in OWN:
            raise ValueError(f"slurm.extra: {name} is set by {OWN[name]}")

    @property
    def patience_s(self) -> float:
        """How long a save may take after the signal; what is left of the time is for the requeue."""
        return max(self.signal_before_s / 2, self.signal_before_s - 60.0)


def submit_pretraining(config: RunConfig, slurm: SlurmConfig) -> Any:
    """Submits a new run, checked as far as it can be here; returns submitit's job, which has its number (`job_id`).

    Raises:
      UsageError: as `pretrain.start`, before anything is submitted.
      UserError: if the cluster refuses the job.
    """
    config.check()
    require_extras(config.train.sinks)
    run_folder.require_free(config.out, config)
    pretrain.open_sources(config)
    _require_engine(config.train.engine, slurm)
    require_submitit(slurm)
    saved = config.out / run_folder.JOBS / "config.json"
    files.write_json(saved, {"hash": configs.fingerprint(config), "config": configs.to_json(config)})
    again = birdjepa("pretrain", "--resume", str(config.out))
    return _submit_run(birdjepa("pretrain", "--config", str(saved)), again, config.out, slurm)


def submit_resumed(folder: Path, slurm: SlurmConfig, *, engine: str | None = None) -> Any:
    """Submits a job that goes on with a stopped run, with another engine where one is given; returns submitit's job.

    Raises:
      UsageError: if there is no run.
      UserError: if the cluster refuses the job.
    """
    config = read_run(folder)
    _require_engine(engine or config.train.engine, slurm)
    require_submitit(slurm)
    again = birdjepa("pretrain", "--resume", str(folder), *(("--engine", engine) if engine else ()))
    return _submit_run(again, again, folder, slurm)


def submit_array(commands: Sequence[Sequence[str]], folder: Path, slurm: SlurmConfig) -> list[Any]:
    """Submits command lines (of `birdjepa`) as the tasks of one array; returns submitit's jobs.

    A task that is requeued runs its command again, which must therefore go on where it stopped. Logs lie in folder.

    Raises:
      UserError: if the cluster refuses the array.
    """
    jobs = [_job(command, command, folder, slurm) for command in map(tuple, commands)]
    return _submit(jobs, folder, slurm)


def birdjepa(*arguments: str) -> tuple[str, ...]:
    """A command line of this installation."""
    return (*COMMAND, *arguments)


def require_submitit(slurm: SlurmConfig) -> None:
    """Refuses what cannot be submitted from here.

    Raises:
      MissingExtraError: if submitit is not installed.
      UsageError: if this machine is not part of a cluster.
    """
    os.environ.setdefault(PREEMPT_SIGNAL, "USR2")
    try:
        import submitit
    except ImportError:
        raise MissingExtraError("submitit", "slurm") from None
    if slurm.executor == "slurm" and submitit.SlurmExecutor.affinity() < 0:
        raise UsageError("there is no srun here: submit from a cluster's login node, or try --slurm.executor local")


def _require_engine(engine: str, slurm: SlurmConfig) -> None:
    world = slurm.nodes * slurm.tasks_per_node
    if world > 1 and engine == "single":
        raise UsageError(f"slurm asks for {world} processes, and train.engine=single is for one: give another --engine")


def _submit_run(first: tuple[str, ...], again: tuple[str, ...], folder: Path, slurm: SlurmConfig) -> Any:
    (job,) = _submit([_job(first, again, folder / "config.json", slurm)], folder / run_folder.JOBS, slurm)
    return job


def _job(first: tuple[str, ...], again: tuple[str, ...], begun: Path, slurm: SlurmConfig) -> Job:
    return Job(
        first=first,
        again=again,
        begun=str(begun),
        folder=str(Path.cwd()),
        max_requeues=slurm.max_requeues,
        patience_s=slurm.patience_s,
    )


def _submit(jobs: list[Job], folder: Path, slurm: SlurmConfig) -> list[Any]:
    require_submitit(slurm)
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    try:
        return _executor(folder, slurm).submit_array(jobs)
    except (UncompletedJobError, FailedSubmissionError) as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise UserError(f"the cluster refused the job: {lines[-1]}") from error


def _executor(folder: Path, slurm: SlurmConfig) -> Any:
    import submitit

    if slurm.executor == "local":
        executor = submitit.LocalExecutor(folder, max_num_timeout=slurm.max_requeues)
        executor.update_parameters(
            timeout_min=slurm.hours * 60,
            tasks_per_node=slurm.tasks_per_node,
            gpus_per_node=slurm.gpus_per_node,
            signal_delay_s=slurm.signal_before_s,
            stderr_to_stdout=True,
            setup=slurm.setup,
        )
        return executor
    executor = submitit.SlurmExecutor(folder, max_num_timeout=slurm.max_requeues)
    name = folder.parent.name if folder.name == run_folder.JOBS else folder.name
    executor.update_parameters(
        job_name=f"birdjepa-{name}",
        time=math.ceil(slurm.hours * 60),
        partition=slurm.partition or None,
        account=slurm.account or None,
        qos=slurm.qos or None,
        constraint=slurm.constraint or None,
        nodes=slurm.nodes,
        ntasks_per_node=slurm.tasks_per_node,
        gpus_per_node=slurm.gpus_per_node or None,
        cpus_per_task=slurm.cpus_per_task,
        mem=f"{slurm.mem_gb}G" if slurm.mem_gb else None,
        wckey=None,
        signal_delay_s=slurm.signal_before_s,
        array_parallelism=slurm.array_at_once,
        stderr_to_stdout=True,
        setup=[f"export {PREEMPT_SIGNAL}={shlex.quote(os.environ[PREEMPT_SIGNAL])}", *slurm.setup],
        srun_args=srun_arguments(slurm),
        additional_parameters={"requeue": True, **sbatch_options(slurm.extra)},
    )
    return executor


def sbatch_options(extra: Sequence[str]) -> dict[str, str | bool]:
    """ "name=value" by name; an option without a value is a flag."""
    split = [option.partition("=") for option in extra]
    return {name: value if equals else True for name, equals, value in split}


def srun_arguments(slurm: SlurmConfig) -> list[str]:
    """A rank that failed must not have the others killed, for to them that looks like a preemption; they learn of it
    when they wait for it. And srun forgets the processors that sbatch was asked for since SLURM 22.05.
    """
    return ["--kill-on-bad-exit=0", "--wait=0", f"--cpus-per-task={slurm.cpus_per_task}"]
