"""`--slurm [FILE]` and `--slurm.X VALUE` of the verbs that train: run it as a cluster job instead of here.

Taken out before anything else is parsed, so that a run's configuration does not know where it is computed.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import config as configs
from birdjepa.recipes.slurm import SlurmConfig

DESCRIPTION = (
    "Runs the command as a job of a SLURM cluster: asks for resources, saves at a signal before the time limit or at a "
    "preemption, is requeued and goes on, until it is finished. --slurm FILE.toml holds these settings; flags are "
    "laid over it."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmArguments:
    """For the prefix of the flags."""

    slurm: SlurmConfig = SlurmConfig()


def clustered(argv: Sequence[str], *, prog: str) -> tuple[list[str], SlurmConfig | None]:
    """The arguments that are not the cluster's, and what is asked of it; None where the command is to run here.

    Raises:
      UsageError: naming the setting that is unknown or outside its limits.
    """
    rest, flags, file = _split(argv)
    if len(rest) == len(argv):
        return rest, None
    flags += [argument for argument in rest if argument in ("-h", "--help")]
    slurm = SlurmConfig()
    if file is not None:
        slurm = configs.overlay(slurm, configs.read_file(Path(file)), where=file)
    default = SlurmArguments(slurm=slurm)
    parsed = parse(SlurmArguments, flags, prog=f"{prog} --slurm", description=DESCRIPTION, default=default)
    return rest, parsed.slurm


def submitted(jobs: Sequence[Any], folder: Path) -> None:
    """Prints the jobs' numbers, and tells where their logs are."""
    tell(f"submitted; logs are {folder}/JOB_0_log.out, one for each process")
    print("\n".join(str(job.job_id) for job in jobs))


def _split(argv: Sequence[str]) -> tuple[list[str], list[str], str | None]:
    """The others' arguments, the cluster's, and the file of --slurm, which is told by its ending."""
    rest, flags, file, into_flags = [], [], None, False
    given = list(argv)
    while given:
        argument = given.pop(0)
        name, equals, value = argument.partition("=")
        if name == "--slurm":
            into_flags = False
            if equals:
                file = value
            elif given and given[0].endswith((".toml", ".json")):
                file = given.pop(0)
        elif argument.startswith("--slurm."):
            into_flags = True
            flags.append(argument)
        elif argument.startswith("-"):
            into_flags = False
            rest.append(argument)
        else:
            (flags if into_flags else rest).append(argument)
    return rest, flags, file
