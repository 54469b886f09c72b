"""The 3 x 2 x 2 factorial: objective x optimiser x parameterisation, each over log-spaced learning rates.

    birdjepa sweep examples/factorial.py --out sweeps/factorial --probe-data synth --folds split

On the embedded data set as it stands; put your own manifest in DATA and behind --probe-data. All runs hear the training
split alone, so that the supervised ones have not met what the probe is tested on. With --slurm each run is a task of a
cluster's array; `--table` puts together what is finished.
"""

import dataclasses
from collections.abc import Iterator

from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.muon import MuonConfig
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.sweeping import grid, log_spaced

DATA = ("synth",)
STEPS = 300
BATCH = 64
OBJECTIVES = ("lejepa", "pixio", "supervised")
OPTIMISERS = (AdamWConfig(), MuonConfig())
BASE_WIDTHS = (0, 64)
"""0 is the standard parameterisation; muP keeps the rates that were best at width 64."""
RATES = log_spaced(3e-4, 3e-2, 5)


def configs() -> Iterator[PretrainConfig]:
    for name in OBJECTIVES:
        recipe = RECIPES[name]()
        train = dataclasses.replace(recipe.train, steps=STEPS, batch_size=BATCH)
        base = dataclasses.replace(recipe, data=DATA, splits=("train",), train=train, report=False)
        axes = {"optim": OPTIMISERS, "mup_base_width": BASE_WIDTHS, "optim.lr": RATES}
        yield from grid(base, axes)
