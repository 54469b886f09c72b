"""What the loop costs beside the work, at ViT-S; and how long a run on real recordings waits for its data.

The loop's own is all that is not waiting for data, views, forward, backward and optimiser: gradients cleared, buffers
kept, bank, online probe, monitors, a row of metrics, a checkpoint, each by how often it happens.

python benchmarks/overhead.py [--batch 8 --steps 10 --wait-steps 40 --threads 2] [--no-record]
"""

import argparse
import dataclasses
import functools
import itertools
import json
import tempfile
from pathlib import Path

import common
import torch

from birdjepa.data.loader import batches
from birdjepa.models.vit import VitConfig
from birdjepa.recipes import pretrain, profile
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import lejepa, small
from birdjepa.recipes.profile_memory import make_trainer, noise

GOAL_OVERHEAD = 0.03
GOAL_WAIT = 0.01
RECORDINGS = "birds_species"


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = [overhead(options), waiting(options)]
    notes = [
        f"Overhead: the `small` recipe (ViT-S, 2 global and 6 local views) with batches of {options.batch} on a CPU, "
        f"{options.steps} steps, medians by part: {rows[0]['parts']}. A larger batch only makes the share smaller.",
        f"Waiting: the `lejepa` recipe (tiny ViT) with batches of {options.wait_batch} on recordings of {RECORDINGS}, "
        f"loader.workers=2, {options.wait_steps} steps; the share of all time but for the first logged row, in which "
        "the workers start. `data_wait` of metrics.jsonl, as every run logs it.",
        f"Goals: overhead below {GOAL_OVERHEAD:.0%}, waiting below {GOAL_WAIT:.0%}.",
    ]
    shown = [{name: value for name, value in row.items() if name != "parts"} for row in rows]
    common.record("The loop beside the work", shown, notes, options)


def overhead(options: argparse.Namespace) -> dict[str, object]:
    """Share of a step of the ViT-S recipe that is the loop's own."""
    base = small()
    config = dataclasses.replace(
        base,
        data=(str(options.shared / RECORDINGS),),
        encoder=VitConfig(size="small"),
        loader=dataclasses.replace(base.loader, workers=2, pin_memory=False),
        train=dataclasses.replace(base.train, batch_size=options.batch, device="cpu"),
    )
    clips = config.open_clips(pretrain.open_sources(config))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(profile.shortened(config, profile.N_WARM + options.steps), clips, Path(folder))
        profile.count_flops(trainer, config, noise(config, clips))
        steps = profile.time_steps(trainer, functools.partial(batches, clips))
    seconds = profile.by_part(steps, config)
    total = sum(seconds.values())
    own = sum(seconds[part] for part in profile.OVERHEAD)
    parts = ", ".join(f"{part} {1000 * value:,.1f} ms" for part, value in seconds.items())
    return row("the loop's own, ViT-S", 1000 * total, own / total, GOAL_OVERHEAD) | {"parts": parts}


def waiting(options: argparse.Namespace) -> dict[str, object]:
    """Share of a run's time that it waits for two workers, on real recordings."""
    base = lejepa()
    with tempfile.TemporaryDirectory() as folder:
        config: PretrainConfig = dataclasses.replace(
            base,
            data=(str(options.shared / RECORDINGS),),
            out=Path(folder) / "run",
            loader=dataclasses.replace(base.loader, workers=2),
            train=dataclasses.replace(
                base.train,
                steps=options.wait_steps,
                batch_size=options.wait_batch,
                log_every=5,
                threads=options.threads,
                device="cpu",
            ),
            report=False,
        )
        pretrain.start(config, print)
        lines = (config.out / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    counted = [(after["step"] - before["step"], after["data_wait"]) for before, after in itertools.pairwise(rows)]
    share = sum(steps * wait for steps, wait in counted) / sum(steps for steps, _ in counted)
    rate = sorted(each["clips_per_s"] for each in rows[1:])[len(rows[1:]) // 2]
    return row("waiting for data, 2 workers", 1000 * options.wait_batch / rate, share, GOAL_WAIT) | {"parts": ""}


def row(what: str, step_ms: float, share: float, goal: float) -> dict[str, object]:
    return {"what": what, "ms a step": step_ms, "share %": 100 * share, "goal %": 100 * goal}


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--wait-batch", type=int, default=64)
    parser.add_argument("--wait-steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
