"""What a step of each objective costs, against a step of the same encoder on all tokens; and what drawing masks costs.

A full-token step is the encoder's forward and backward pass over every patch of the clips, with no objective around it.
Operations are counted by torch's FlopCounterMode (matrix products only), times are medians of steps in turns.

    python benchmarks/objectives.py --batch 64
"""

import functools
from collections.abc import Callable

import common
import torch
from torch.utils.flop_counter import FlopCounterMode

from birdjepa.core.batch import ClipBatch
from birdjepa.models.patch import patchify
from birdjepa.objectives.base import Chance, DataSize, Objective
from birdjepa.objectives.curriculum import CurriculumConfig
from birdjepa.recipes.named import RECIPES

NAMES = ("pixio", "ajepa", "lejepa", "supervised", "diet")
N_STEPS = 100


def make_batch(n_clips: int, clip_s: float, sampling_rate: int) -> ClipBatch:
    """Noise with labels: what is computed does not depend on what is heard."""
    generator = torch.Generator().manual_seed(0)
    clips = 0.1 * torch.randn(n_clips, round(clip_s * sampling_rate), generator=generator)
    numbers = torch.arange(n_clips)
    labels = torch.nn.functional.one_hot(numbers % 50, 50).bool()
    whole = torch.full((n_clips,), clips.shape[1])
    return ClipBatch(clips=clips, lengths=whole, label=numbers % 50, labels=labels, recording=numbers, refused=())


def objective_step(objective: Objective, batch: ClipBatch, step: int = N_STEPS - 1) -> None:
    objective.zero_grad(set_to_none=True)
    chance = Chance(0, step, N_STEPS)
    objective(batch, chance).loss.backward()
    objective.after_update(chance)


def full_step(objective: Objective, batch: ClipBatch) -> None:
    """All tokens through the encoder and back, with the front end as every objective pays it."""
    encoder = objective.encoder
    encoder.zero_grad(set_to_none=True)
    with torch.no_grad():
        frames = encoder.frames(batch.clips)
    tokens = patchify(frames, encoder.config.patch)
    output = encoder.vit(tokens, encoder.grid(frames.shape[1])[None])
    (output.patches.square().mean() + output.cls.square().mean()).backward()


def gflop(call: Callable[[], object]) -> float:
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    made = {}
    for name in NAMES:
        config = RECIPES[name]()
        encoder = config.encoder_config().build().initialise(0)
        made[name] = config.objective.build(encoder, 0, DataSize(2000, 50)).train()
    batch = make_batch(options.batch, 5.0, encoder.sampling_rate)
    calls = {"full tokens": functools.partial(full_step, made["pixio"], batch)}
    calls |= {name: functools.partial(objective_step, objective, batch) for name, objective in made.items()}
    counted = {name: gflop(call) for name, call in calls.items()}
    times = common.interleave(calls, options.repeats)
    full_s, full_gflop = times["full tokens"].median, counted["full tokens"]
    rows = [
        {
            "step": name,
            "s": times[name].median,
            "time over full": times[name].median / full_s,
            "GFLOP": counted[name],
            "GFLOP over full": counted[name] / full_gflop,
        }
        for name in calls
    ]
    columns = encoder.grid(encoder.front_end.config.n_frames(batch.clips.shape[1])).shape[0] // encoder.config.n_rows

    def masks() -> None:
        CurriculumConfig().draw(columns, encoder.config.n_rows, 256, 1.0, torch.Generator().manual_seed(0))

    masks_s = common.interleave({"masks": masks}, 9)["masks"].median
    step_s = times["ajepa"].median * 256 / options.batch
    notes = [
        f"CPU recipes, {columns} x {encoder.config.n_rows} patches of 5 s, batch {options.batch}, float32",
        f"masks of a batch of 256: {1000 * masks_s:.1f} ms, {masks_s / step_s:.2%} of an ajepa step of 256 clips "
        f"(its step of {options.batch} times {256 / options.batch:g}); goal: under 2 %",
        "goal: pixio and ajepa at 75 % masking visibly below 1; ajepa's teacher reads all tokens too, forward only",
    ]
    common.record("A step of each objective against a full-token step", rows, notes, options)


if __name__ == "__main__":
    main()
