"""`birdjepa pretrain RECIPE --data DATA --out RUN [--train.steps N ...]`, `--config FILE`, `--resume RUN`."""

from collections.abc import Sequence
from pathlib import Path

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import config as configs
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.recipes import pretrain
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.report import report
from birdjepa.report.contents import ReportConfig

DESCRIPTION = (
    "Pretrains an encoder. Start from a recipe (birdjepa pretrain lejepa --data DATA --out RUN), from a file (--config "
    "FILE, a saved config.json or TOML laid over the recipe), or go on with a stopped run (--resume RUN). Every "
    "setting below can be given; the run folder keeps the whole configuration."
)


def run(argv: Sequence[str]) -> int:
    rest, folder = take(argv, "--resume")
    if folder is not None:
        if rest:
            raise UsageError(f"--resume goes on with exactly the run's own configuration; leave out {' '.join(rest)}")
        result = pretrain.resume(Path(folder), tell)
    else:
        result = pretrain.start(configure(rest), tell)
    if result.config.report:
        report(result.folder, ReportConfig(), tell)
    print(result.folder / "encoder")
    if result.refused:
        tell(f"{len(result.refused)} recordings were refused; see {result.folder / 'failures.csv'}")
        return EXIT_PARTIAL
    return EXIT_DONE


def configure(argv: Sequence[str]) -> PretrainConfig:
    """Recipe, then file, then command line: each over the one before."""
    rest, file = take(argv, "--config")
    named = bool(rest) and not rest[0].startswith("-")
    if not named and file is None and not {"-h", "--help"} & set(rest):
        raise UsageError(f"name a recipe ({', '.join(RECIPES)}), or give --config FILE or --resume RUN")
    if named and rest[0] not in RECIPES:
        raise UsageError(f"{rest[0]!r} is not a recipe; there are {', '.join(RECIPES)}")
    default = RECIPES[rest[0] if named else "lejepa"]()
    if file is not None:
        default = configs.overlay(default, configs.read_file(Path(file)), where=file)
    return parse(
        PretrainConfig,
        rest[1:] if named else rest,
        prog="birdjepa pretrain RECIPE",
        description=DESCRIPTION,
        default=default,
    )


def take(argv: Sequence[str], flag: str) -> tuple[list[str], str | None]:
    """The arguments without one flag, and the flag's value.

    Raises:
      UsageError: if the flag has no value.
    """
    rest, value, given = [], None, iter(argv)
    for argument in given:
        name, equals, inline = argument.partition("=")
        if name != flag:
            rest.append(argument)
            continue
        value = inline if equals else next(given, None)
        if not value:
            raise UsageError(f"{flag} needs a path")
    return rest, value
