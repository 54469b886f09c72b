"""Muon against AdamW on real audio: both tuned over one grid of learning rates with one budget, then three seeds each.

LeJEPA with the tiny encoder, mean pooling, pretrained on the shared sets without labels; a linear probe on ESC-10 in
its official folds. An optimiser's best rate is the one of the lowest loss (mean over the last steps) with the first
seed; the probe has no say in it. Finished cells of --out are kept, so the same command goes on where it was stopped.

    python benchmarks/optimisers.py --out /tmp/optimisers --steps 120 --batch 32
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import common
import torch

from birdjepa.benchmark.evaluate import evaluate
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.data.sources import open_data
from birdjepa.embed.embedders import Pooled
from birdjepa.embed.rows import embed_rows
from birdjepa.models.loading import load
from birdjepa.optim import OPTIMISERS
from birdjepa.recipes import pretrain
from birdjepa.recipes.compare import over_seeds
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.probe import ProbeConfig, labelled_rows, make_folds
from birdjepa.train.config import MonitorConfig, OnlineProbeConfig

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
SOURCES = ("esc10@2", "birds_species", "birdsong_syllables", "soundscapes", "music_speech")
NAMES = tuple(OPTIMISERS)
N_LAST = 20
"""Steps whose mean loss is the final one."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run."""

    optimiser: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.optimiser}-{self.lr:g}-seed{self.seed}"


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--objective", default="lejepa", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or Path(tempfile.mkdtemp())
    grid = [Cell(name, lr, 0) for lr in RATES for name in OPTIMISERS]
    done = {cell: run(cell, out, options) for cell in grid}
    of = {name: [cell for cell in grid if cell.optimiser == name] for name in NAMES}
    best = {name: min(cells, key=lambda cell: done[cell]["loss"]) for name, cells in of.items()}
    repeated = [dataclasses.replace(best[name], seed=seed) for seed in range(options.seeds) for name in NAMES]
    done |= {cell: run(cell, out, options) for cell in repeated}
    rows = [
        {
            "optimiser": cell.optimiser,
            "lr": f"{cell.lr:g}",
            "seed": cell.seed,
            "final loss": its["loss"],
            "ESC-10 accuracy": its["accuracy"],
            "ms a step": its["step_ms"],
        }
        for cell, its in sorted(done.items(), key=lambda item: dataclasses.astuple(item[0]))
    ]
    chosen = ", ".join(f"{name} {cell.lr:g}{' (an edge of the grid)' * is_edge(cell)}" for name, cell in best.items())
    top = [max(cells, key=lambda cell: done[cell]["accuracy"]) for cells in of.values()]
    notes = [
        f"{options.objective}, {options.steps} steps of {options.batch} clips of 5 s, tiny encoder, mean pooling, on "
        f"{', '.join(SOURCES)}; ESC-10 is heard without its labels; {options.threads} thread, other work beside it",
        f"final loss: mean of the last {N_LAST} steps; each optimiser's best rate by it, seed 0: {chosen}",
        *(
            compared(title, [[done[c][key] for c in repeated if c.optimiser == name] for name in NAMES])
            for title, key in (("final loss", "loss"), ("ESC-10 accuracy", "accuracy"))
        ),
        "highest probe of the grid, seed 0: "
        + ", ".join(f"{cell.optimiser} {done[cell]['accuracy']:.3f} at {cell.lr:g}" for cell in top),
    ]
    common.record("Muon against AdamW, one grid of learning rates", rows, notes, options)


def is_edge(cell: Cell) -> bool:
    """Whether the optimum may lie outside the grid."""
    return cell.lr in (RATES[0], RATES[-1])


def compared(title: str, values: list[list[float]]) -> str:
    """Means over seeds with Student's intervals, and what they differ by, paired by seed."""
    each = "; ".join(f"{name} {over_seeds(mine)}" for name, mine in zip(NAMES, values, strict=True))
    apart = [after - before for before, after in zip(*values, strict=True)]
    difference = f"{NAMES[1]} minus {NAMES[0]}: {over_seeds(apart)}"
    return f"{title} at the best rate, mean and interval over seeds: {each}; {difference}"


def run(cell: Cell, out: Path, options: argparse.Namespace) -> dict[str, float]:
    """Loss, accuracy and time of a step of one run, which is done unless it has been."""
    kept = out / f"{cell.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    config = configuration(cell, out / cell.name, options)
    is_begun = (config.out / "config.json").exists()
    result = pretrain.resume(config.out, print) if is_begun else pretrain.start(config, print)
    metrics = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    measured = {
        "loss": statistics.fmean(row["loss"] for row in metrics[-N_LAST:]),
        "accuracy": probed(result.folder / "encoder", options),
        "step_ms": 1000 * statistics.median(row["step_s"] for row in metrics[1:]),
    }
    files.write_json(kept, measured)
    print(cell.name, measured, flush=True)
    return measured


def configuration(cell: Cell, folder: Path, options: argparse.Namespace) -> PretrainConfig:
    recipe = RECIPES[options.objective]()
    data = []
    for source in SOURCES:
        name, at, weight = source.partition("@")
        data.append(f"{options.shared / name / 'metadata.csv'}{at}{weight}")
    train = dataclasses.replace(
        recipe.train,
        steps=options.steps,
        batch_size=options.batch,
        threads=options.threads,
        checkpoint_every=40,
        log_every=1,
        probe=OnlineProbeConfig(enabled=False),
        monitor=MonitorConfig(every=60),
    )
    made = configs.overlay(recipe, {"optim": {"kind": OPTIMISERS[cell.optimiser].__name__, "lr": cell.lr}})
    return dataclasses.replace(
        made,
        data=tuple(data),
        out=folder,
        seed=cell.seed,
        pooling="mean",
        loader=dataclasses.replace(recipe.loader, workers=0),
        train=train,
        report=False,
    )


def probed(encoder: Path, options: argparse.Namespace) -> float:
    """Accuracy of a linear probe on ESC-10 in its folds."""
    asked = ProbeConfig(data=str(options.shared / "esc10" / "metadata.csv"), folds="split")
    labelled = labelled_rows(open_data(asked.data, asked.columns), asked.folds)
    embedded = embed_rows([Pooled(load(encoder), "mean")], labelled, progress=lambda *_: None)
    kept = labelled.select(embedded.rows)
    score = evaluate(
        embedded.tables[0], kept.columns["label"], kept.columns["group"], make_folds(kept, asked), LinearProbe(), seed=0
    )
    return score.accuracy.value


if __name__ == "__main__":
    main()
