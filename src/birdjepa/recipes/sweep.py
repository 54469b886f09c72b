"""The sweep job: the configurations that a Python file yields, each trained and probed, as a table and a plot.

The file defines `configs()`, which returns or yields whole RunConfigs: a loop over recipes, `dataclasses.replace`,
and what `recipes.sweeping` offers. Each becomes a run folder, named by what differs and a hash of the configuration
(all but where it lies), so that the same command goes on: what is finished is not done again, what was stopped is
resumed, what failed is tried again, and configurations that the file yields only now are added.
"""

import dataclasses
import importlib.util
import json
import math
import statistics
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.core import config as configs
from birdjepa.core import files, processes
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.core.provenance import provenance
from birdjepa.data.sources import open_data
from birdjepa.recipes import apart, labels
from birdjepa.recipes import probe as probes
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.probe import ProbeConfig
from birdjepa.recipes.run_folder import Say, read_refused
from birdjepa.report.sweep import Swept, sweep_page
from birdjepa.train.signals import StopSignal

LR = "optim.lr"
"""The setting that goes on the axis of the plots."""
NOT_A_LINE = (LR, "seed")
"""Settings that do not make a line of the plots."""
SETTLED = 0.1
"""Share of the logged steps, the last ones, whose mean is the final loss."""
PROBED = "swept.json"
"""The probe of a run folder, as the sweep asked for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Which configurations, where, and how they are judged."""

    file: tyro.conf.Positional[Path]
    """Python file with a function configs()."""
    out: Path = Path("runs/sweep")
    """Folder for all runs, sweep.json and sweep.html. The same command again goes on."""
    probe_data: str = ""
    """DATA with labels for a linear probe of each run; empty for none."""
    folds: str = ""
    """Column of its folds, as for birdjepa probe."""
    strengths: tuple[float, ...] = LinearProbe().strengths
    """Candidates for the probe's C."""
    index: int | None = None
    """Train and probe this configuration only, by its place in the file (the first is 0), and make no table: for the
    tasks of a cluster's array."""
    table: bool = False
    """Train nothing: put together what is there."""

    def check(self) -> None:
        """Refuses what contradicts itself.

        Raises:
          UsageError: naming the options.
        """
        if self.table and self.index is not None:
            raise UsageError("--table puts all runs together, --index trains one: give one of them")
        if self.folds and not self.probe_data:
            raise UsageError("--folds is a column of --probe-data, which is missing")
        if (world := processes.asked().world) > 1:
            raise UsageError(f"{world} processes were started for this, but each run of a sweep is trained by one")


@dataclasses.dataclass(frozen=True)
class Planned:
    """One configuration of a sweep."""

    index: int
    config: RunConfig
    """Its `out` is the run's folder in the sweep."""
    values: dict[str, str]
    """What tells it from the others, by dotted name."""
    line: str
    """What is the same along a line of the plots."""

    @property
    def label(self) -> str:
        return labels.label(self.values)


@dataclasses.dataclass(frozen=True)
class Sweep:
    rows: tuple[Swept, ...]
    described: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows], **self.described}


def sweep(config: SweepConfig, say: Say) -> Sweep:
    """Trains and probes whatever is not done yet, and writes sweep.json and sweep.html. A run that fails is noted with
    its reason, and the next one begins.

    Raises:
      UsageError: if the file or what it yields cannot be used, or a folder holds another run.
      Interrupted: a run was stopped by a signal; the same command goes on.
    """
    config.check()
    runs = planned(config.file, config.out)
    _check_probe(config)
    with StopSignal() as signal:
        for run in () if config.table else runs:
            say(f"run {run.index + 1} of {len(runs)}: {run.label}, {run.config.train.steps} steps")
            try:
                _train_and_probe(run, config, signal, say)
            except (Interrupted, UsageError):
                raise
            except UserError as error:
                say(f"{run.label}: failed, going on with the others: {error}")
    return _put_together(runs, config, say)


def sweep_one(config: SweepConfig, say: Say) -> Swept:
    """Trains and probes the configuration number config.index, from where it stands.

    Raises:
      UsageError: as `sweep`, or if there is no such number.
      Interrupted, UserError: as `apart.train`.
    """
    config.check()
    runs = planned(config.file, config.out)
    if config.index is None or not 0 <= config.index < len(runs):
        raise UsageError(f"--index must be 0 to {len(runs) - 1}, for {config.file} yields {len(runs)}")
    _check_probe(config)
    with StopSignal() as signal:
        _train_and_probe(runs[config.index], config, signal, say)
    return _row(runs[config.index], config)


def planned(file: Path, out: Path) -> list[Planned]:
    """The configurations of a file in its order, each with its folder in out. Nothing is written.

    Raises:
      UsageError: if the file cannot be run, yields nothing, something else, one twice, or one that cannot be trained.
    """
    made = _load(file)
    described = []
    for number, config in enumerate(made):
        if not isinstance(config, RunConfig):
            raise UsageError(f"{file}: configs() must yield RunConfig, got {type(config).__name__} as {number}")
        try:
            config.check()
        except UsageError as error:
            raise UsageError(f"{file}: configuration {number}: {error}") from None
        described.append(configs.to_json(dataclasses.replace(config, out=Path())))
    hashes = [configs.fingerprint(each)[:8] for each in described]
    for number, name in enumerate(hashes):
        if name in hashes[:number]:
            raise UsageError(f"{file}: configurations {hashes.index(name)} and {number} are the same")
    names = labels.differing(described, leave_out=("out",))
    runs = []
    for number, (config, each, name) in enumerate(zip(made, described, hashes, strict=True)):
        values = labels.values_of(each, names)
        line = labels.label({key: value for key, value in values.items() if key not in NOT_A_LINE})
        folder = _folder(out, labels.label(values), name)
        runs.append(Planned(number, dataclasses.replace(config, out=folder), values, line))
    return runs


def is_done(run: Planned, config: SweepConfig) -> bool:
    """Whether a run is trained, and probed as is asked for now."""
    return apart.is_finished(run.config.out) and (not config.probe_data or _probe_of(run, config) is not None)


def _folder(out: Path, label: str, name: str) -> Path:
    """The folder that a configuration has already, whatever it was called when fewer differed; else a new name."""
    there = sorted(path for path in out.glob(f"*-{name}") if path.is_dir()) if out.is_dir() else []
    return there[0] if there else out / f"{label}-{name}"


def _load(file: Path) -> list[Any]:
    """What the file's configs() yields."""
    if not file.is_file():
        raise UsageError(f"{file}: not found; give a Python file with a function configs()")
    spec = importlib.util.spec_from_file_location("birdjepa_sweep", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file}: is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look themselves up
    sys.path.insert(0, str(file.parent.absolute()))
    try:
        spec.loader.exec_module(module)
        found = getattr(module, "configs", None)
        if not callable(found):
            raise UsageError(f"{file}: defines no function configs()")
        yielded = found()
        made = list(yielded) if isinstance(yielded, Iterable) else [yielded]
    except UserError:
        raise
    except Exception as error:
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"{file}{where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.parent.absolute()))
    if not made:
        raise UsageError(f"{file}: configs() yields nothing")
    return made


def _check_probe(config: SweepConfig) -> None:
    """Data that no run could be probed on is refused before anything is trained."""
    if config.probe_data:
        asked = _probe_config(config, 0)
        probes.make_folds(probes.labelled_rows(open_data(asked.data, asked.columns), asked.folds), asked)


def _probe_config(config: SweepConfig, seed: int) -> ProbeConfig:
    linear = LinearProbe(strengths=config.strengths)
    return ProbeConfig(data=config.probe_data, folds=config.folds, seed=seed, linear=linear)


def _train_and_probe(run: Planned, config: SweepConfig, signal: StopSignal, say: Say) -> None:
    failure = _failure(run)
    failure.unlink(missing_ok=True)
    try:
        if apart.train(run.config, signal):
            say(f"{run.label}: trained")
        if config.probe_data and _probe_of(run, config) is None:
            _probe(run, config, say)
    except (Interrupted, UsageError):
        raise
    except UserError as error:
        files.write_json(failure, {"reason": str(error)})
        raise
    if signal.stop():
        raise Interrupted(f"stopped after {run.config.out}; the same command goes on")


def _failure(run: Planned) -> Path:
    """Beside the run's folder, which may not have been made."""
    return run.config.out.with_name(f"{run.config.out.name}.failed.json")


def _probe(run: Planned, config: SweepConfig, say: Say) -> None:
    asked = _probe_config(config, run.config.seed)
    result = probes.probe(run.config.out / "encoder", asked, say)
    probes.write(result, run.config.out / "encoder")
    accuracy = {
        "encoder": result.score.accuracy.to_json(),
        **{name: floor.accuracy.to_json() for name, floor in result.floors.items()},
    }
    files.write_json(run.config.out / PROBED, {"asked": configs.to_json(asked), "accuracy": accuracy})


def _probe_of(run: Planned, config: SweepConfig) -> dict[str, Estimate] | None:
    """Accuracies of the encoder and the floors, where the run was probed as is asked for now."""
    path = run.config.out / PROBED
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["asked"] != json.loads(json.dumps(configs.to_json(_probe_config(config, run.config.seed)))):
        return None
    nan = float("nan")
    return {
        name: Estimate(*(nan if each[bound] is None else each[bound] for bound in ("value", "low", "high")))
        for name, each in kept["accuracy"].items()
    }


def _row(run: Planned, config: SweepConfig) -> Swept:
    """How a run stands, read from its folder."""
    folder = run.config.out
    losses = [loss for _, loss in apart.loss_curve(folder)]
    step_s = apart.step_seconds(folder)
    settled = losses[-max(1, round(SETTLED * len(losses))) :]
    finished = apart.is_finished(folder)
    failed = _failure(run)
    reason = str(configs.read_file(failed).get("reason", "")) if failed.exists() else ""
    status = "failed" if reason else "done" if finished else "unfinished" if losses else "not started"
    probed = _probe_of(run, config) if finished and config.probe_data else None
    return Swept(
        index=run.index,
        values=run.values,
        line=run.line,
        objective=run.config.objective.name,
        lr=run.config.optim.lr,
        status=status,
        reason=reason,
        folder=str(folder),
        loss=statistics.fmean(settled) if finished and settled else None,
        accuracy=probed["encoder"] if probed else None,
        floor=probed["random"] if probed else None,
        step_s=None if math.isnan(step_s) else step_s,
        n_refused=len(read_refused(folder)),
    )


def _put_together(runs: Sequence[Planned], config: SweepConfig, say: Say) -> Sweep:
    rows = tuple(_row(run, config) for run in runs)
    mine = {run.config.out.name for run in runs}
    others = sorted(path.parent.name for path in config.out.glob("*/config.json") if path.parent.name not in mine)
    if others:
        say(f"{config.out}: {len(others)} runs here are none of {config.file} any more: {', '.join(others[:3])}")
    described = {
        "file": str(config.file),
        "probe_data": config.probe_data,
        "folds": config.folds,
        "steps": sorted({run.config.train.steps for run in runs}),
        "provenance": provenance(),
    }
    made = Sweep(rows, described)
    files.write_json(config.out / "sweep.json", made.to_json())
    files.write_text(config.out / "sweep.html", sweep_page(rows, described), durable=False)
    return made
