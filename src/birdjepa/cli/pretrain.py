"""`birdjepa pretrain RECIPE --data DATA --out RUN [--train.steps N ...]`, `--config FILE`, `--resume RUN`."""

from collections.abc import Sequence

from birdjepa.cli import tell
from birdjepa.cli.runs import done, layered, named, resumed, take
from birdjepa.core.errors import UsageError
from birdjepa.optim import OPTIMISERS
from birdjepa.recipes import pretrain
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.report import report
from birdjepa.report.contents import ReportConfig

DESCRIPTION = (
    "Pretrains an encoder. Start from a recipe (birdjepa pretrain lejepa --data DATA --out RUN), from a file (--config "
    "FILE, a saved config.json or TOML laid over the recipe), or go on with a stopped run (--resume RUN). --optim muon "
    "chooses another optimiser. Every setting below can be given; the run folder keeps the whole configuration."
)


def run(argv: Sequence[str]) -> int:
    rest, folder = resumed(argv)
    result = pretrain.resume(folder, tell) if folder else pretrain.start(configure(rest), tell)
    if result.config.report:
        report(result.folder, ReportConfig(), tell)
    print(result.folder / "encoder")
    return done(result.folder, len(result.refused))


def configure(argv: Sequence[str]) -> PretrainConfig:
    """Recipe, then file, then command line: each over the one before."""
    name, rest, file = named(argv, f"a recipe ({', '.join(RECIPES)})")
    if name and name not in RECIPES:
        raise UsageError(f"{name!r} is not a recipe; there are {', '.join(RECIPES)}")
    rest, optimiser = take(rest, "--optim", f"a name ({', '.join(OPTIMISERS)})")
    if optimiser and optimiser not in OPTIMISERS:
        raise UsageError(f"--optim {optimiser}: there are {', '.join(OPTIMISERS)}")
    kinds = {"optim": OPTIMISERS[optimiser].__name__} if optimiser else {}
    default = RECIPES[name or "lejepa"]()
    return layered(default, file, rest, prog="birdjepa pretrain RECIPE", description=DESCRIPTION, kinds=kinds)
