"""Forks: a run that leaves another one at a checkpoint, to end in a decay of the learning rate of its own.

The new run's configuration is its parent's but for its length and `schedule.fork`, and describes the whole run: started
from nothing it would come to the same numbers, for up to the fork it is its parent. The fork only saves those steps, by
taking over the parent's checkpoint and its logged rows.
"""

import dataclasses
import json
from pathlib import Path

from birdjepa.checkpoint import store
from birdjepa.core import config as configs
from birdjepa.core import files, processes
from birdjepa.core.errors import UsageError
from birdjepa.optim.schedules import ForkConfig
from birdjepa.recipes import pretrain, run_folder
from birdjepa.recipes.any_run import read_run
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.run_folder import Say
from birdjepa.train.sinks import METRICS, read_metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForkArguments:
    """Which run is left, where, and how long the new one goes on. Every other setting is the parent's."""

    fork: Path
    """Run folder that is left as it is."""
    at_step: int
    """Updates that the parent had done; it must have a checkpoint of exactly this step."""
    cooldown: int
    """Updates of the decay, from the rate at the fork to schedule.final, in the schedule's decay_shape."""
    out: Path | None = None
    """Folder of the new run, which must not exist yet; by default beside the parent, named by the step and cooldown."""


def fork(asked: ForkArguments, say: Say) -> Path:
    """Makes the run folder of a fork, whole or not at all, and returns it: `pretrain.resume` takes it to its end.

    Raises:
      UsageError: if the parent has no such checkpoint, or cannot be forked there; if the data has changed since it
        began; if the new folder exists; under torchrun.
      CheckpointError: if the checkpoint is damaged.
    """
    if (world := processes.asked().world) > 1:
        raise UsageError(
            f"a fork is made by one process, not by {world}: stop it after its first steps, and go on with --resume"
        )
    parent = read_run(asked.fork)
    name = f"{asked.fork.absolute().name}-at-{asked.at_step}-cooldown-{asked.cooldown}"
    config = forked(parent, asked, asked.out or asked.fork.absolute().parent / name)
    run_folder.require_free(config.out, config)
    checkpoints = asked.fork / "checkpoints"
    if asked.at_step not in (there := store.steps(checkpoints)):
        kept, listed = parent.train.retention.keep_every, ", ".join(map(str, there)) or "none"
        raise UsageError(
            f"{asked.fork} has no checkpoint of step {asked.at_step}; there are {listed}. "
            f"Multiples of train.retention.keep-every, {kept or 'here 0: off'}, are kept for ever"
        )
    found = pretrain.origin(config, pretrain.open_sources(config))
    run_folder.compare_origin(asked.fork, found, say)
    checkpoint = store.of_step(checkpoints, asked.at_step)
    origin = {"run": str(asked.fork), "hash": configs.fingerprint(parent), "step": asked.at_step}
    with files.whole_folder(config.out) as folder:
        store.save(
            folder / "checkpoints",
            checkpoint.step,
            checkpoint.tensors,
            checkpoint.meta,
            retention=parent.train.retention,
        )
        rows = [row for row in read_metrics(asked.fork / METRICS) if row["step"] <= checkpoint.step]
        files.write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
        run_folder.begin(folder, config, {**found, "forked_from": origin})
    say(f"{config.out}: forked from {asked.fork} at step {asked.at_step}, to decay over {asked.cooldown} steps")
    return config.out


def forked(parent: RunConfig, asked: ForkArguments, out: Path) -> RunConfig:
    """The whole configuration of a fork.

    Raises:
      UsageError: if the parent cannot be forked there.
    """
    if asked.cooldown < 1:
        raise UsageError(f"--cooldown must be at least 1 step, got {asked.cooldown}")
    if not 1 <= asked.at_step <= parent.train.steps:
        raise UsageError(f"--at-step must be one of the parent's steps, 1 to {parent.train.steps}, got {asked.at_step}")
    before = parent.schedule.fork
    if before and asked.at_step > before.step:
        raise UsageError(
            f"{asked.fork} is itself a fork that decays after step {before.step}: fork it there or before, or fork its "
            "parent"
        )
    planned = before.planned if before else parent.train.steps
    config = dataclasses.replace(
        parent,
        out=out,
        schedule=dataclasses.replace(parent.schedule, fork=ForkConfig(step=asked.at_step, planned=planned)),
        train=dataclasses.replace(parent.train, steps=asked.at_step + asked.cooldown),
    )
    config.check()
    return config
