"""`birdjepa benchmark --task pow --model birdjepa --classifier linear --n-train 100`, and every list of these."""

import dataclasses
import json as jsonlib
from collections import Counter
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.cli.slurm import clustered, submitted
from birdjepa.core import failures
from birdjepa.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL, EXIT_USAGE, UsageError
from birdjepa.recipes import benchmark as benchmarks
from birdjepa.recipes import slurm
from birdjepa.recipes.benchmark import Benchmarked, Line
from birdjepa.recipes.benchmark_config import BenchmarkConfig, Named, read_named

DESCRIPTION = (
    "Scores models on tasks with frozen or fine-tuned classifiers: every combination of the values given, each once, "
    "into one SQLite file that `birdjepa report results.sqlite` shows. Without --task it lists what there is."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkArguments:
    benchmark: tyro.conf.OmitArgPrefixes[BenchmarkConfig]
    dry_run: bool = False
    """Tell what would run, what is stored, and why the rest cannot be run; compute nothing."""
    json: bool = False
    """Print one JSON object for each experiment instead of a table."""


def run(argv: Sequence[str]) -> int:
    rest, cluster = clustered(argv, prog="birdjepa benchmark")
    arguments = parse(BenchmarkArguments, rest, prog="birdjepa benchmark", description=DESCRIPTION)
    config = arguments.benchmark
    if not config.task:
        show_named(read_named(config.config))
        return EXIT_DONE
    if cluster is not None:
        return submit(config, rest, cluster)
    done = benchmarks.benchmark(config, tell, dry_run=arguments.dry_run)
    if arguments.json:
        for line in done.lines:
            print(jsonlib.dumps(to_json(line)))
    else:
        show(done)
    return exit_code(done, config)


def submit(config: BenchmarkConfig, argv: Sequence[str], cluster: slurm.SlurmConfig) -> int:
    """A task of a cluster's array for each task and model, whose experiments share features."""
    if cluster.nodes * cluster.tasks_per_node > 1:
        raise UsageError("an experiment is one process: leave slurm.nodes and slurm.tasks_per_node at 1")
    read_named(config.config)
    kept = _without(argv, ("--task", "--model"))
    commands = [
        slurm.birdjepa("benchmark", *kept, "--task", task, "--model", model)
        for task in config.task
        for model in config.model
    ]
    folder = config.results.with_name(f"{config.results.name}.jobs")
    submitted(slurm.submit_array(commands, folder, cluster), folder)
    return EXIT_DONE


def _without(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without some options and their values."""
    kept, inside = [], False
    for argument in argv:
        if argument.startswith("--"):
            inside = argument.partition("=")[0] in names
        if not inside:
            kept.append(argument)
    return kept


def exit_code(done: Benchmarked, config: BenchmarkConfig) -> int:
    """1 where an experiment failed, 2 where nothing could be run for want of data or models, 3 where recordings could
    not be read."""
    statuses = {line.status for line in done.lines}
    for reason, n in Counter(line.reason for line in done.lines if line.status in ("no data", "no model")).items():
        tell(f"{n} experiment(s) not run: {reason}")
    if done.refused:
        path = benchmarks.results_beside(config.results)
        failures.write(path, done.refused)
        tell(f"{len(done.refused)} recordings could not be read; see {path}")
    if "failed" in statuses:
        return EXIT_FAILED
    if statuses & {"no data", "no model"}:
        return EXIT_FAILED if statuses & {"ran", "stored", "would run"} else EXIT_USAGE
    return EXIT_PARTIAL if done.refused else EXIT_DONE


def to_json(line: Line) -> dict[str, object]:
    """One experiment as JSON: its coordinates, status and metrics."""
    metrics = {name: each.to_json() for name, each in line.result.metrics.items()} if line.result else {}
    counts = line.result.counts if line.result else {}
    about = {"status": line.status, "reason": line.reason, "metrics": metrics, "counts": counts}
    return {**dataclasses.asdict(line.at), **about}


def show(done: Benchmarked) -> None:
    """The table for people."""
    table = Table("task", "model", "classifier", "n_train", "seed", "layer", "", "score")
    for line in done.lines:
        at = line.at
        score = "" if line.status in ("no data", "no model") else line.reason  # that is told once, below the table
        if line.result is not None:
            score = f"{line.result.metric} {line.result.metrics[line.result.metric]}"
        n_train = "all" if at.n_train is None else str(at.n_train)
        layer = "last" if at.layer is None else str(at.layer)
        table.add_row(at.task, at.model, at.classifier, n_train, str(at.seed), layer, line.status, score)
    Console().print(table, markup=False)


def show_named(named: Named) -> None:
    """What there is to choose from."""
    console = Console()
    tasks = Table("task", "suite", "metric", "", title="tasks (--task)")
    for task in named.tasks.values():
        tasks.add_row(task.name, task.suite, task.metric, task.title)
    console.print(tasks, markup=False)
    console.print(f"models (--model): {', '.join(named.models)}, or an encoder folder", markup=False, highlight=False)
    console.print(f"classifiers (--classifier): {', '.join(named.classifiers)}", markup=False, highlight=False)
