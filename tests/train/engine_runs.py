"""Runs that tests train by one process and by two, and the driver that torchrun starts for the latter.

    torchrun --nproc-per-node 2 engine_runs.py SONGS OUT

All that needs two processes happens in one launch, for their start is what takes the time.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tiny_run import tiny
from torch import Tensor, nn

from birdjepa.core import processes
from birdjepa.core.errors import UserError
from birdjepa.core.processes import ALONE, require_exchange
from birdjepa.data.loader import Clips
from birdjepa.data.sources import open_data
from birdjepa.models.predictor import PredictorConfig
from birdjepa.nn import sigreg, synced
from birdjepa.nn.regularised import RegularisedMaskingConfig
from birdjepa.objectives.added import AddedConfig, AddedSigregConfig, AddedVarianceConfig
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.lejepa import Lejepa
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.objectives.views import ViewsConfig
from birdjepa.optim import muon
from birdjepa.optim.muon import MuonConfig
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.pretrain import make_state
from birdjepa.recipes.run_folder import newest
from birdjepa.train.engines import make_engine
from birdjepa.train.loop import Trainer
from birdjepa.train.selftest import require_own_clips

ENGINES = ("ddp", "fsdp")
STEPS = 20
PATIENCE_S = 900
"""For a launch: half a minute on a machine with nothing else to do; with ZeRO-3 twice as long."""
HALF = 3
"""Steps after which a run of twice as many is saved, and another engine goes on."""
HANDED_OVER = (("ddp", "ddp"), ("fsdp", "fsdp"), ("fsdp", "ddp"), ("single", "fsdp"))


def configurations(songs: Path, out: Path) -> dict[str, PretrainConfig]:
    """Objective -> its run, with all that draws: mixing, stochastic depth, masks on a curriculum, mixup."""
    small = PredictorConfig(width=32, depth=1, heads=2)
    base = tiny(songs, out, steps=STEPS, batch_size=16, accumulate=1, precision="fp32", checkpoint_every=100)
    # What a BatchNorm takes away again (biases before it) has no gradient but rounding, which AdamW with its usual eps
    # blows up to steps of full size: without effect on any output, but not the same numbers.
    base = dataclasses.replace(base, optim=dataclasses.replace(base.optim, eps=1e-4))
    bare = dataclasses.replace(base.encoder, n_registers=0)
    twice = dataclasses.replace(base.train, batch_size=8, accumulate=2)
    added = AddedConfig(sigreg=AddedSigregConfig(weight=0.1), variance=AddedVarianceConfig(weight=0.1))
    views = ViewsConfig(global_s=0.48, local_s=0.24)
    made = {
        "lejepa": (base.objective, base.encoder, base.train, AddedConfig()),
        "ajepa": (AjepaConfig(predictor=small, momentum=(0.5, 1.0)), bare, twice, AddedConfig()),
        "pixio": (
            PixioConfig(decoder=small),
            base.encoder,
            dataclasses.replace(base.train, batch_size=4),
            AddedConfig(),
        ),
        "diet": (DietConfig(views=views), bare, base.train, added),
        "supervised": (
            SupervisedConfig(mixup=0.3, masking=RegularisedMaskingConfig(share=0.2)),
            base.encoder,
            base.train,
            AddedConfig(),
        ),
    }
    configs = {
        name: dataclasses.replace(base, objective=objective, encoder=encoder, train=train, added=added)
        for name, (objective, encoder, train, added) in made.items()
    }
    return {**configs, "muon": dataclasses.replace(configs["pixio"], optim=MuonConfig(eps=1e-4))}


def begin(config: PretrainConfig, engine: str, folder: Path) -> tuple[Trainer, Clips]:
    """A trainer at step 0 for as many processes as are connected, and its clips."""
    clips = config.open_clips([open_data(config.data[0])])
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, engine=engine))
    state = make_state(config, clips, make_engine(config.train, torch.device("cpu")))
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(state, config.train, config.schedule, folder, seed=config.seed, max_refused=0.5), clips


def advance(trainer: Trainer, clips: Clips, n_steps: int) -> list[dict[str, float]]:
    """So many steps in float32, Muon's too; loss, terms and gradient norm of each."""
    seen = []
    for _ in range(n_steps):
        first = trainer.state.step * trainer.config.accumulate
        with mock.patch.object(muon, "has_bf16", return_value=False):
            update = trainer.update([clips.batch(first + micro) for micro in range(trainer.config.accumulate)])
        row = trainer.watch(update, 1.0)
        seen.append({"loss": update.loss, "grad_norm": update.grad_norm, **update.terms})
        seen[-1] |= {name: row[name] for name in ("probe_loss", "effective_rank") if name in row}
    return seen


def trained_by_one(
    config: PretrainConfig, folder: Path, n_steps: int, noise: float
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Rows and tensors of one process, its first weights moved by so much."""
    trainer, clips = begin(config, "single", folder)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.state.objective.parameters() if noise else ():
            parameter.mul_(1 + noise * torch.randn(parameter.shape, generator=chance))
    rows = advance(trainer, clips, n_steps)
    return rows, {key: tensor.detach().clone() for key, tensor in trainer.state.tensors().items()}


def launched(script: str, songs: Path, folder: Path, *arguments: str) -> Path:
    """Leaves one process's checkpoint in a folder, lets two processes run a script there, and returns it. What they
    said is in its stdout and stderr.
    """
    trainer, clips = begin(to_hand_over(songs, folder), "single", folder / "single-half")
    advance(trainer, clips, HALF)
    trainer.save()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    source = str(Path(__file__).parents[2] / "src")
    with (folder / "stdout").open("w") as said, (folder / "stderr").open("w") as errors:
        started = subprocess.Popen(
            [*command, script, str(songs), str(folder), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{source}:{os.environ.get('PYTHONPATH', '')}"},
            stdout=said,
            stderr=errors,
        )
        try:
            started.wait(timeout=0.9 * PATIENCE_S)
        finally:
            started.terminate()  # torchrun ends its processes with itself
    assert started.returncode == 0, (folder / "stderr").read_text()[-4000:]
    return folder


def n_steps(name: str) -> int:
    """Of the comparison of one objective."""
    return STEPS if name in ("lejepa", "ajepa", "pixio") else 3


class Results:
    """What the first process leaves for the test."""

    def __init__(self, out: Path) -> None:
        self.out, self.rows = out, {}

    def keep(self, name: str, rows: list[dict[str, float]], tensors: dict[str, Tensor]) -> None:
        self.rows[name] = rows
        if processes.here().is_first:
            torch.save({key: tensor.clone() for key, tensor in tensors.items()}, self.out / f"{name}.pt")

    def tell(self, name: str, act: Callable[[], object]) -> None:
        """The error of each process."""
        try:
            act()
            told = ""
        except UserError as error:
            told = str(error)
        self.rows[name] = processes.here().objects(told)


@contextmanager
def alone(module: Any) -> Iterator[None]:
    """Lets a module believe that its process is the only one."""
    with mock.patch.object(module, "processes", mock.Mock(here=lambda: ALONE)):
        yield


@contextmanager
def rank_local_draws() -> Iterator[None]:
    chance = Trainer.chance

    def local(self: Trainer, micro: int = 0) -> Any:
        return dataclasses.replace(chance(self, micro), rank=0, world=1)

    with mock.patch.object(Trainer, "chance", local):
        yield


FAULTS = {
    "batch_norm": lambda: mock.patch.object(synced.BatchNorm, "forward", nn.BatchNorm1d.forward),
    "sigreg": lambda: alone(sigreg),
    "draws": rank_local_draws,
}
"""What turns the comparison red: each leaves out one thing that goes over all processes."""


class PoisonedOnOne(Lejepa):
    """A loss that is no number in the third step, on the second process only."""

    def forward(self, batch: Any, chance: Any) -> Any:
        output = super().forward(batch, chance)
        bad = chance.step == 2 and chance.rank == 1
        return output._replace(loss=output.loss * float("nan")) if bad else output


def compare_engines(songs: Path, results: Results, out: Path) -> None:
    for engine in ENGINES:
        for name, config in configurations(songs, out).items():
            trainer, clips = begin(config, engine, out / f"{engine}-{name}")
            results.keep(f"{engine}-{name}", advance(trainer, clips, n_steps(name)), trainer.state.tensors())


def hand_over(songs: Path, results: Results, out: Path) -> None:
    """Saves and goes on: each engine from its own checkpoint, from the other's and from one process's."""
    config = to_hand_over(songs, out)
    for engine in ENGINES:
        trainer, clips = begin(config, engine, out / f"{engine}-half")
        advance(trainer, clips, HALF)
        trainer.save()
        results.keep(f"{engine}-whole", advance(trainer, clips, HALF), trainer.state.tensors())
    for origin, engine in HANDED_OVER:
        trainer, clips = begin(config, engine, out / "resumed")
        go_on(trainer, out / f"{origin}-half")
        results.keep(f"{origin}-then-{engine}", advance(trainer, clips, HALF), trainer.state.tensors())


def to_hand_over(songs: Path, out: Path) -> PretrainConfig:
    """A run of all that a state may hold: a teacher, BatchNorms, averaged weights, a probe."""
    config = configurations(songs, out)["ajepa"]
    config = dataclasses.replace(config, added=AddedConfig(sigreg=AddedSigregConfig(weight=0.1)))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2 * HALF, batch_size=16))


def go_on(trainer: Trainer, folder: Path) -> None:
    found = newest(folder, print)
    assert found is not None
    trainer.state.restore(found)


def plant_faults(songs: Path, results: Results, out: Path) -> None:
    config = configurations(songs, out)["lejepa"]
    for fault, planted in FAULTS.items():
        with planted():
            trainer, clips = begin(config, "ddp", out / fault)
            results.keep(f"fault-{fault}", advance(trainer, clips, 3), trainer.state.tensors())
    rank = processes.here().rank
    trainer, clips = begin(config, "ddp", out / "weights")
    advance(trainer, clips, 1)
    with torch.no_grad():
        trainer.state.objective.encoder.vit.norm.bias[3] += 1e-7 * rank
    results.tell("other weights", trainer.save)
    results.tell("other seeds", lambda: begin(dataclasses.replace(config, seed=rank), "ddp", out / "seeds"))
    clips.rank = 0
    results.tell("same clips", lambda: require_own_clips([clips.batch(0)]))
    with mock.patch.object(torch.distributed, "all_reduce", lambda total: total.mul_(3 + rank)):
        results.tell("wrong sums", lambda: require_exchange(torch.device("cpu")))
    trainer, clips = begin(config, "fsdp", out / "poisoned")
    trainer.state.objective.__class__ = type("Bad", (PoisonedOnOne, trainer.state.objective.__class__), {})
    results.tell("no number", lambda: advance(trainer, clips, 4))
    if processes.here().is_first:
        results.rows["no number saved"] = sorted(path.name for path in (out / "poisoned" / "checkpoints").iterdir())


def main(songs: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")) as own:
        results = Results(out)
        compare_engines(songs, results, out)
        hand_over(songs, results, out)
        plant_faults(songs, results, out)
        if own.is_first:
            (out / "rows.json").write_text(json.dumps(results.rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
