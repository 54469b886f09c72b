"""`birdjepa pretrain RECIPE --data DATA --out RUN [--train.steps N ...]`, `--config FILE`, `--resume RUN`."""

import re
from collections.abc import Sequence

from birdjepa.cli import tell
from birdjepa.cli.runs import done, layered, named, resumed, take
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.core.processes import asked
from birdjepa.recipes import pretrain
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.report import report
from birdjepa.report.contents import ReportConfig

DESCRIPTION = (
    "Pretrains an encoder. Start from a recipe (birdjepa pretrain lejepa --data DATA --out RUN), from a file (--config "
    "FILE, a saved config.json or TOML laid over the recipe), or go on with a stopped run (--resume RUN). Every "
    "setting below can be given; the run folder keeps the whole configuration. With several processes: torchrun "
    "--nproc-per-node 4 -m birdjepa pretrain ... --engine ddp."
)
ENGINE = "--train.engine"


def run(argv: Sequence[str]) -> int:
    given, engine = engine_to_resume_with(argv)
    rest, folder = resumed(given)
    result = pretrain.resume(folder, tell, engine=engine) if folder else pretrain.start(configure(rest), tell)
    if not asked().is_first:
        return EXIT_PARTIAL if result.refused else EXIT_DONE
    if result.config.report:
        report(result.folder, ReportConfig(), tell)
    print(result.folder / "encoder")
    return done(result.folder, len(result.refused))


def engine_to_resume_with(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments, --engine in them written out, and the engine that goes on with a run: the one setting that
    --resume takes, for it changes who computes and not what.
    """
    given = [re.sub(r"^--engine(?==|$)", ENGINE, argument) for argument in argv]
    resumes = any(re.match(r"--resume(=|$)", argument) for argument in given)
    return take(given, ENGINE) if resumes else (given, None)


def configure(argv: Sequence[str]) -> PretrainConfig:
    """Recipe, then file, then command line: each over the one before."""
    name, rest, file = named(argv, f"a recipe ({', '.join(RECIPES)})")
    if name and name not in RECIPES:
        raise UsageError(f"{name!r} is not a recipe; there are {', '.join(RECIPES)}")
    default = RECIPES[name or "lejepa"]()
    return layered(default, file, rest, prog="birdjepa pretrain RECIPE", description=DESCRIPTION)
