"""The main job: recordings in, a pretrained encoder out, in a run folder that can be stopped and resumed any time."""

import contextlib
import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from birdjepa.core import config as configs
from birdjepa.core import failures, processes
from birdjepa.core.errors import UsageError
from birdjepa.core.failures import Failure
from birdjepa.core.processes import Processes
from birdjepa.core.provenance import provenance
from birdjepa.data.loader import Batches, labels_of
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import open_data, pinned, split_weight
from birdjepa.optim.groups import describe
from birdjepa.recipes import run_folder
from birdjepa.recipes.any_run import read_run
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.run_folder import Say
from birdjepa.train.engine import Engine
from birdjepa.train.engines import make_engine, require_usable
from birdjepa.train.loop import Trainer, autocast_dtype, pick_device
from birdjepa.train.signals import StopSignal
from birdjepa.train.sinks import require_extras
from birdjepa.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class PretrainResult:
    """What a finished run left behind."""

    folder: Path
    config: RunConfig
    refused: dict[str, Failure]


def start(config: RunConfig, say: Say) -> PretrainResult:
    """A new run in config.out.

    Raises:
      UsageError: if the folder holds something already.
      Interrupted, UserError: as `Trainer.run`.
    """
    config.check()
    require_extras(config.train.sinks)
    folder = config.out
    with _connected(config) as (device, own), StopSignal() as signal:
        say = say if own.is_first else _silence
        own.first(lambda: run_folder.require_free(folder, config))
        config = own.first(lambda: _pinned(config))
        sources = own.together(lambda: open_sources(config))
        with run_folder.only_one(folder):
            own.first(lambda: run_folder.require_free(folder, config))
            clips = own.together(lambda: config.open_clips(sources))
            found = origin(config, sources)
            own.first(lambda: run_folder.begin(folder, config, found))
            return _run(config, clips, folder, device, signal, say)


def resume(folder: Path, say: Say, *, engine: str | None = None) -> PretrainResult:
    """Goes on with a run from its newest intact checkpoint, or from the beginning if it was stopped before the first.

    Another engine or number of processes than before may do so: engine, where one is given, takes the place of the
    configuration's.

    Raises:
      UsageError: if there is no run, or the data has changed since it began.
      Interrupted, UserError: as `Trainer.run`.
    """
    config = read_run(folder)
    if engine:
        changes = {"engine": engine, **({} if engine == "deepspeed" else {"deepspeed_config": ""})}
        config = dataclasses.replace(config, train=configs.overlay(config.train, changes, where="train"))
    with _connected(config) as (device, own), run_folder.only_one(folder), StopSignal() as signal:
        say = say if own.is_first else _silence
        sources = own.together(lambda: open_sources(config))
        run_folder.compare_origin(folder, origin(config, sources), say)
        clips = own.together(lambda: config.open_clips(sources))
        return _run(config, clips, folder, device, signal, say)


@contextlib.contextmanager
def _connected(config: RunConfig) -> Generator[tuple[torch.device, Processes], None, None]:
    """This process's device, and the processes of the run.

    Raises:
      UsageError: if the batch cannot be shared out among them, or the engine cannot be used.
    """
    asked = processes.asked()
    config.require_shares(asked.world)
    device = pick_device(config.train.device, asked)
    require_usable(config.train, device, asked.world)
    with processes.joined(device) as own:
        yield device, own


def _pinned(config: RunConfig) -> RunConfig:
    """The configuration with its DATA as it is now, so that a resumed run reads the same."""
    data, exclude = (tuple(pinned(each) for each in named) for named in (config.data, config.exclude))
    return dataclasses.replace(config, data=data, exclude=exclude)


def _silence(_: str) -> None:
    """What processes say that are not the first."""


def origin(config: RunConfig, sources: list[Manifest]) -> dict[str, Any]:
    """`run_folder.origin`, with what else the run reads."""
    found = run_folder.origin(config.train.threads, sources)
    found["data"] |= config.inputs()
    return found


def open_sources(config: RunConfig) -> list[Manifest]:
    """Manifests of the run's DATA, without their weights, narrowed to its splits and to what is not excluded."""
    sources = [open_data(split_weight(data)[0], config.columns) for data in config.data]
    if config.splits:
        sources = _only_splits(config, sources)
    if config.exclude:
        sources = _without(config, sources)
    return [_only_labelled(source) for source in sources] if config.objective.needs_labels else sources


def _only_splits(config: RunConfig, sources: list[Manifest]) -> list[Manifest]:
    narrowed = []
    for source in sources:
        split = source.column("split")
        rows = [row for row, name in enumerate(split) if name in config.splits]
        if not rows:
            there = ", ".join(sorted(set(split)))
            raise UsageError(f"{source.name}: no rows with split {' or '.join(config.splits)}; there are {there}")
        narrowed.append(source.select(rows))
    return narrowed


def _without(config: RunConfig, sources: list[Manifest]) -> list[Manifest]:
    """What is not excluded, told by where the files lie; a source of which nothing is left is an error.

    Raises:
      UsageError: naming the source.
    """
    excluded = [open_data(data, config.columns) for data in config.exclude]
    held_out = {held.path(row).resolve() for held in excluded for row in range(len(held))}
    narrowed = []
    for source in sources:
        rows = [row for row in range(len(source)) if source.path(row).resolve() not in held_out]
        if not rows:
            raise UsageError(f"{source.name}: nothing is left without what --exclude names; leave it out of --data")
        narrowed.append(source.select(rows))
    return narrowed


def _only_labelled(source: Manifest) -> Manifest:
    rows = [row for row, labels in enumerate(labels_of(source)) if labels]
    if not rows:
        raise UsageError(f"{source.name}: no row has a label, and this objective learns from labels")
    return source.select(rows)


def make_state(config: RunConfig, clips: Batches, engine: Engine) -> TrainState:
    """The run's state at step 0.

    Raises:
      UsageError: as `RunConfig.make_objective`.
    """
    objective = config.make_objective(clips)
    return TrainState(
        objective,
        config.optim,
        config.train,
        n_classes=len(clips.classes),
        seed=config.seed,
        engine=engine,
        width_rates=config.width_rates(objective, clips),
    )


def _run(
    config: RunConfig, clips: Batches, folder: Path, device: torch.device, signal: StopSignal, say: Say
) -> PretrainResult:
    run_folder.stop_early(signal, folder, "pretrain")
    state = make_state(config, clips, make_engine(config.train, device))
    found = run_folder.newest(folder, say)
    if found:
        state.restore(found)
        say(f"going on from step {state.step} of {config.train.steps}")
    else:
        with state.engine.opened():
            _introduce(config, clips, state, device, say)
    malformed = [row for source in clips.sources for row in source.refused]
    state.refused |= {each.path: each for each in failures.left_out(malformed)}
    trainer = Trainer(
        state, config.train, config.schedule, folder, seed=config.seed, max_refused=config.loader.max_refused
    )
    with run_folder.listing_refused(folder, state.refused):
        run_folder.train(trainer, clips, config, signal, say, config.make_judge(state, clips, folder, say))
    export(config, state, folder, clips.n_recordings)
    return PretrainResult(folder, config, state.refused)


def export(config: RunConfig, state: TrainState, folder: Path, n_recordings: int) -> Path:
    """Writes what users get of the run."""
    weights = state.exported()
    found = {**provenance(), "run_hash": configs.fingerprint(config), "seed": config.seed, "steps": state.step}
    return state.engine.processes.first(lambda: config.export(weights, folder, found, n_recordings))


def _introduce(config: RunConfig, clips: Batches, state: TrainState, device: torch.device, say: Say) -> None:
    """What is about to happen, in a few lines: data, model, groups, fingerprint."""
    precision = autocast_dtype(config.train.precision, device)
    say(f"data: {clips.n_recordings} recordings, {clips.clips_per_epoch} clips of {config.loader.clip_s:g} s an epoch")
    for line in config.introduction(state.objective):
        say(line)
    for line in describe(state.optimiser, config.train.clip_norm, config.train.clip_by):
        say(line)
    for line in state.engine.notes:
        say(line)
    say(
        f"run {configs.fingerprint(config)}: {config.train.steps} steps of {config.train.batch_size} clips, "
        f"seed {config.seed}, {_place(state, device)}, {'bf16' if precision else 'fp32'}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _place(state: TrainState, device: torch.device) -> str:
    world = state.engine.world
    return str(device) if world == 1 else f"{world} processes on {device.type}"
