"""The comparison job: several objectives on equal terms, as a table of probes with intervals over seeds.

Equal terms: the same recordings in the same order, front end, patches, encoder, pooling, batch and schedule, the same
number of steps or the same minutes, and the same probe in the same folds. What still differs between two recipes is
listed beside the table. Each run is a process of its own, so that its memory can be told, and a run folder like any
other: it can be stopped, and what is finished is not done again.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from birdjepa.benchmark.bootstrap import Estimate, interval
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.core.provenance import provenance
from birdjepa.data.sources import split_weight
from birdjepa.recipes import apart
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.probe import ProbeConfig, probe
from birdjepa.recipes.run_folder import Say
from birdjepa.report.comparison import Compared, comparison_page
from birdjepa.train.signals import StopSignal

CALIBRATION_STEPS = 6
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom."""
MAY_DIFFER = tuple(
    f"config.{name}" for name in ("objective", "added", "optim", "schedule.final_weight_decay", "data", "exclude")
)
"""What belongs to an objective, or follows from its need of labels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared, on what, for how long."""

    objectives: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes by name, or files (.toml, config.json) that hold a whole configuration or name one by `recipe`."""
    data: tuple[str, ...] = ()
    """DATA to learn from, without labels but for objectives that need them."""
    out: Path = Path("runs/compare")
    """Folder for all runs, compare.json and compare.html. The same command again goes on."""
    config: Path | None = None
    """Settings laid over every recipe (.toml), such as a smaller batch or encoder."""
    steps: int = 0
    """Updates of each run."""
    minutes: float = 0.0
    """Instead of steps: training time of each run; its number of steps follows from a few timed ones."""
    n_seeds: int = 3
    """Runs of each objective."""
    seed: int = 0
    """The first seed; runs of one seed see the same recordings in the same order."""
    probe_data: str = ""
    """DATA with labels, for the probe. Objectives that learn from labels never hear its recordings."""
    folds: str = ""
    """Column of its folds, as for birdjepa probe."""
    strengths: tuple[float, ...] = LinearProbe().strengths
    """Candidates for the linear probe's C."""

    def check(self) -> None:
        """Refuses a comparison that cannot be made.

        Raises:
          UsageError: naming the option.
        """
        if not self.data or not self.probe_data:
            raise UsageError("--data and --probe-data are missing: what to learn from, and what to probe")
        if (self.steps > 0) == (self.minutes > 0) or self.steps < 0 or self.minutes < 0:
            raise UsageError("give either --steps or --minutes, a positive number")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UsageError(f"name each objective once, and at least one of {', '.join(RECIPES)}")
        if self.n_seeds < 2:
            raise UsageError(f"--n-seeds must be at least 2, for intervals over seeds; got {self.n_seeds}")


@dataclasses.dataclass(frozen=True)
class Run:
    """One objective with one seed."""

    name: str
    seed: int
    folder: Path
    config: RunConfig


@dataclasses.dataclass(frozen=True)
class Comparison:
    rows: tuple[Compared, ...]
    """Objectives in the order asked for, then the floors."""
    differences: tuple[str, ...]
    """Settings other than the objective's own that two recipes do not share."""
    described: dict[str, Any]
    curves: dict[str, tuple[tuple[int, float], ...]]
    """Loss of each objective's first seed by step."""

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows], "differences": self.differences, **self.described}


def compare(config: CompareConfig, say: Say) -> Comparison:
    """Trains and probes whatever is not done yet, puts the table together, and writes compare.json and compare.html.

    Raises:
      UsageError: if a setting is missing, a recipe is unknown, or the folder holds another comparison.
      Interrupted: a run was stopped by a signal; the same command goes on.
    """
    config.check()
    config.out.mkdir(parents=True, exist_ok=True)
    recipes = {name: _configuration(name, config) for name in map(_short, config.objectives)}
    with StopSignal() as signal:
        steps = _steps(recipes, config, signal, say)
        runs = [
            _run_of(name, recipe, steps[name], seed, config)
            for seed in _seeds(config)
            for name, recipe in recipes.items()
        ]
        for number, run in enumerate(runs, start=1):
            say(f"run {number} of {len(runs)}: {run.name}, seed {run.seed}, {run.config.train.steps} steps")
            _train(run, signal, say)
            _probe(run, config, say)
            if signal.stop():
                raise Interrupted(f"stopped after {run.folder}; the same command goes on")
    compared = _put_together(runs, list(recipes), config)
    files.write_json(config.out / "compare.json", compared.to_json())
    page = comparison_page(compared.rows, compared.differences, compared.described, compared.curves)
    files.write_text(config.out / "compare.html", page, durable=False)
    return compared


def _seeds(config: CompareConfig) -> range:
    return range(config.seed, config.seed + config.n_seeds)


def _short(objective: str) -> str:
    """A recipe's name, or a file's path."""
    if objective in RECIPES or Path(objective).is_file():
        return objective
    raise UsageError(f"{objective!r} is neither a recipe ({', '.join(RECIPES)}) nor a file")


def _configuration(name: str, config: CompareConfig) -> RunConfig:
    """A recipe with the common settings over it."""
    if name in RECIPES:
        made = RECIPES[name]()
    else:
        settings = dict(configs.read_file(Path(name)))
        recipe = settings.pop("recipe", "lejepa")
        if recipe not in RECIPES:
            raise UsageError(f"{name}: recipe {recipe!r} is unknown; there are {', '.join(RECIPES)}")
        made = configs.overlay(RECIPES[recipe](), settings, where=name)
    if config.config is not None:
        made = configs.overlay(made, configs.read_file(config.config), where=str(config.config))
    if made.exports != "encoder":
        raise UsageError(f"{name}: learns no encoder, which is what is compared; leave it out")
    probed = Path(config.probe_data).resolve()
    data, exclude = config.data, ()
    if made.objective.needs_labels:
        data = tuple(each for each in data if Path(split_weight(each)[0]).resolve() != probed)
        exclude = (config.probe_data,)
    made = dataclasses.replace(made, data=data, exclude=exclude, report=False)
    made.check()
    return made


def _run_of(name: str, recipe: RunConfig, steps: int, seed: int, config: CompareConfig) -> Run:
    stem = name if name in RECIPES else Path(name).stem
    folder = config.out / f"{stem}-seed{seed}"
    probe_off = dataclasses.replace(recipe.train.probe, enabled=False)
    train = dataclasses.replace(recipe.train, steps=steps, probe=probe_off)
    return Run(name, seed, folder, dataclasses.replace(recipe, out=folder, seed=seed, train=train))


def _steps(recipes: dict[str, RunConfig], config: CompareConfig, signal: StopSignal, say: Say) -> dict[str, int]:
    """Updates of each objective; those found by timing are kept, so that going on means the same runs."""
    if config.steps:
        return dict.fromkeys(recipes, config.steps)
    kept = config.out / "steps.json"
    found = configs.read_file(kept) if kept.exists() else {}
    for name, recipe in recipes.items():
        if name not in found:
            say(f"timing {CALIBRATION_STEPS} steps of {name}")
            timed = _run_of(name, recipe, CALIBRATION_STEPS, config.seed, config)
            folder = config.out / f".timing-{Path(name).stem}"
            every = dataclasses.replace(timed.config.train, log_every=1)
            timed_config = dataclasses.replace(timed.config, out=folder, train=every)
            _train(dataclasses.replace(timed, folder=folder, config=timed_config), signal, say)
            seconds = apart.step_seconds(folder)
            found[name] = max(1, round(config.minutes * 60 / seconds))
            files.write_json(kept, found)
    return {name: int(found[name]) for name in recipes}


def _train(run: Run, signal: StopSignal, say: Say) -> None:
    if apart.train(run.config, signal):
        say(f"{run.name}, seed {run.seed}: trained")


def _probe(run: Run, config: CompareConfig, say: Say) -> None:
    """Probes the run's encoder and both floors, and keeps every prediction."""
    kept = run.folder / "compared.json"
    if kept.exists():
        return
    linear = LinearProbe(strengths=config.strengths)
    asked = ProbeConfig(data=config.probe_data, folds=config.folds, seed=run.seed, linear=linear)
    result = probe(run.folder / "encoder", asked, say)
    scores = {"encoder": result.score, **result.floors}
    right = {name: (score.truth == score.predicted).astype(int).tolist() for name, score in scores.items()}
    files.write_json(kept, {"groups": result.score.groups, "right": right, "n_classes": result.score.n_classes})


def _put_together(runs: Sequence[Run], names: Sequence[str], config: CompareConfig) -> Comparison:
    kept = {(run.name, run.seed): json.loads((run.folder / "compared.json").read_text()) for run in runs}
    groups = next(iter(kept.values()))["groups"]
    if any(each["groups"] != groups for each in kept.values()):
        raise UserError(f"{config.out}: runs were probed on different examples, for some could not be read")

    def right(name: str, what: str) -> np.ndarray:
        """Whether each example is predicted rightly, a row for each seed."""
        return np.array([kept[name, seed]["right"][what] for seed in _seeds(config)], dtype=np.float64)

    rows = []
    for name in names:
        ours = right(name, "encoder")
        mine = [run for run in runs if run.name == name]
        difference = ours.mean(0) - right(name, "random").mean(0)
        step_s = statistics.median(apart.step_seconds(run.folder) for run in mine)
        memory = max(apart.peak_memory_mib(run.folder) for run in mine)
        rows.append(
            Compared(
                name if name in RECIPES else Path(name).stem,
                over_seeds(ours.mean(1).tolist()),
                interval(lambda draws, d=difference: draws.total(d) / draws.size, groups, seed=config.seed),
                tuple(ours.mean(1).tolist()),
                mine[0].config.train.steps,
                step_s,
                memory,
            )
        )
    nan = float("nan")
    of_seeds = right(names[0], "random").mean(1).tolist()
    rows.append(Compared("random weights", over_seeds(of_seeds), None, tuple(of_seeds), 0, nan, nan))
    logmel = right(names[0], "logmel")[0]
    estimate = interval(lambda draws: draws.total(logmel) / draws.size, groups, seed=config.seed)
    rows.append(Compared("log-mel statistics", estimate, None, (float(logmel.mean()),), 0, nan, nan))
    described = {
        "data": list(config.data),
        "probe_data": config.probe_data,
        "folds": config.folds,
        "n_seeds": config.n_seeds,
        "seed": config.seed,
        "budget": f"{config.steps} steps" if config.steps else f"{config.minutes:g} minutes of training",
        "n_examples": len(groups),
        "n_groups": len(set(groups)),
        "batch_size": runs[0].config.train.batch_size,
        "encoder": configs.to_json(runs[0].config.encoder),
        "provenance": provenance(),
    }
    curves = {run.name: tuple(apart.loss_curve(run.folder)) for run in runs if run.seed == config.seed}
    return Comparison(tuple(rows), tuple(_differences(runs)), described, curves)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and its 95 % interval by Student's t: what training once more with another seed would give on average."""
    mean, n = statistics.fmean(values), len(values)
    quantile = STUDENT[n - 2] if n - 2 < len(STUDENT) else 1.96
    half = quantile * statistics.stdev(values) / n**0.5
    return Estimate(mean, mean - half, mean + half)


def _differences(runs: Sequence[Run]) -> Iterator[str]:
    """What two recipes do not share besides objective, optimiser and added terms."""
    first = configs.to_json(runs[0].config)
    for run in {run.name: run for run in reversed(runs)}.values():
        for line in configs.difference(first, configs.to_json(run.config), where="config"):
            where = line.partition(":")[0]
            same_run = where in ("config.out", "config.seed", "config.train.steps")
            if not same_run and not where.startswith(MAY_DIFFER):
                yield f"{run.name} against {runs[0].name}: {line}"
