"""`birdjepa sweep FILE.py --out FOLDER [--probe-data DATA --folds COLUMN] [--index K | --table] [--slurm]`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.cli.slurm import clustered, submitted
from birdjepa.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL, UsageError
from birdjepa.recipes import slurm
from birdjepa.recipes.run_folder import JOBS
from birdjepa.recipes.sweep import SweepConfig, is_done, planned, sweep, sweep_one
from birdjepa.report.sweep import Swept, cells_of, header_of

DESCRIPTION = (
    "Trains and probes every configuration that a Python file yields (a function configs()), and writes a table and a "
    "plot of learning rate against probe and loss. With --slurm each is a task of an array; --table puts together "
    "what they left."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepArguments:
    sweep: tyro.conf.OmitArgPrefixes[SweepConfig]
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: Sequence[str]) -> int:
    rest, cluster = clustered(argv, prog="birdjepa sweep")
    arguments = parse(SweepArguments, rest, prog="birdjepa sweep", description=DESCRIPTION)
    config = arguments.sweep
    if cluster is not None:
        return submit(config, rest, cluster)
    if config.index is not None:
        row = sweep_one(config, tell)
        print(jsonlib.dumps(row.to_json()) if arguments.json else row.folder)
        return exit_code([row])
    found = sweep(config, tell)
    if arguments.json:
        print(jsonlib.dumps(found.to_json()))
    else:
        show(found.rows, f"{config.file}: {len(found.rows)} runs")
    tell(f"written: {config.out / 'sweep.html'} and sweep.json")
    return exit_code(found.rows)


def submit(config: SweepConfig, argv: Sequence[str], cluster: slurm.SlurmConfig) -> int:
    """Leaves each run that is not done to a task of a cluster's array."""
    if config.index is not None or config.table:
        raise UsageError("--slurm submits every run of the sweep: leave out --index and --table")
    if (world := cluster.nodes * cluster.tasks_per_node) > 1:
        raise UsageError(f"slurm asks for {world} processes, but each run of a sweep is trained by one")
    config.check()
    left = [run for run in planned(config.file, config.out) if not is_done(run, config)]
    if not left:
        tell(f"{config.out}: all runs are done; --table puts them together")
        return EXIT_DONE
    commands = [slurm.birdjepa("sweep", *argv, "--index", str(run.index)) for run in left]
    submitted(slurm.submit_array(commands, config.out / JOBS, cluster), config.out / JOBS)
    return EXIT_DONE


def exit_code(rows: Sequence[Swept]) -> int:
    """1 where a run failed, 3 where recordings were refused."""
    if any(row.status == "failed" for row in rows):
        return EXIT_FAILED
    return EXIT_PARTIAL if any(row.n_refused for row in rows) else EXIT_DONE


def show(rows: Sequence[Swept], title: str) -> None:
    """The table for people."""
    table = Table(*header_of(rows), title=title)
    for row in rows:
        table.add_row(*cells_of(row, rows))
    Console().print(table, markup=False)
