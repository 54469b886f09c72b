"""`birdjepa pretrain RECIPE --data DATA --out RUN [--train.steps N]`, `--config FILE`, `--resume RUN`, and
`--fork RUN --at-step N --cooldown N [--out RUN]`; each of them with `--slurm`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.cli.runs import done, layered, named, resumed, take
from birdjepa.cli.slurm import clustered, submitted
from birdjepa.core import config as configs
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.core.processes import asked
from birdjepa.recipes import pretrain, slurm
from birdjepa.recipes.any_run import RUNS
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.fork import ForkArguments, fork
from birdjepa.recipes.named import RECIPES
from birdjepa.recipes.report import report
from birdjepa.recipes.run_folder import JOBS
from birdjepa.report.contents import ReportConfig

DESCRIPTION = (
    "Pretrains an encoder. Start from a recipe (birdjepa pretrain lejepa --data DATA --out RUN), from a file (--config "
    "FILE, a saved config.json or TOML laid over the recipe), go on with a stopped run (--resume RUN), or end one in a "
    "decay of its own (--fork RUN --at-step N --cooldown N [--out RUN]). --optim muon chooses another optimiser. Every "
    "setting below can be given; the run folder keeps the whole configuration. With --slurm it runs as a cluster job "
    "(birdjepa pretrain --slurm --help), with several processes by torchrun --nproc-per-node 4 -m birdjepa pretrain "
    "... --engine ddp."
)
ENGINE = "--train.engine"


def run(argv: Sequence[str]) -> int:
    rest, cluster = clustered(argv, prog="birdjepa pretrain")
    rest, engine = engine_to_resume_with(rest)
    rest, folder = ([], _fork(rest)) if _is_fork(rest) else resumed(rest)
    if cluster is not None:
        return submit(rest, folder, engine, cluster)
    result = pretrain.resume(folder, tell, engine=engine) if folder else pretrain.start(configure(rest), tell)
    if not asked().is_first:
        return EXIT_PARTIAL if result.refused else EXIT_DONE
    if result.config.report:
        report(result.folder, ReportConfig(), tell)
    print(result.folder / result.config.exports)
    return done(result.folder, len(result.refused))


def submit(argv: Sequence[str], folder: Path | None, engine: str | None, cluster: slurm.SlurmConfig) -> int:
    """Leaves the run to a cluster job."""
    if folder is None:
        config = configure(argv)
        folder, job = config.out, slurm.submit_pretraining(config, cluster)
    else:
        job = slurm.submit_resumed(folder, cluster, engine=engine)
    submitted([job], folder / JOBS)
    return EXIT_DONE


def _is_fork(argv: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] == "--fork" for argument in argv)


def _fork(argv: Sequence[str]) -> Path:
    told = "Leaves a run at one of its checkpoints and ends it in a decay of its own, in a new run folder."
    return fork(parse(ForkArguments, argv, prog="birdjepa pretrain --fork RUN", description=told), tell)


def engine_to_resume_with(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments, --engine in them written out, and the engine that goes on with a run: the one setting that
    --resume takes, for it changes who computes and not what.
    """
    given = [re.sub(r"^--engine(?==|$)", ENGINE, argument) for argument in argv]
    resumes = any(re.match(r"--resume(=|$)", argument) for argument in given)
    return take(given, ENGINE) if resumes else (given, None)


def configure(argv: Sequence[str]) -> RunConfig:
    """Recipe, then file, then command line: each over the one before. A file without a recipe may say what kind of run
    it is, as a saved config.json does.
    """
    name, rest, file = named(argv, f"a recipe ({', '.join(RECIPES)})")
    if name and name not in RECIPES:
        raise UsageError(f"{name!r} is not a recipe; there are {', '.join(RECIPES)}")
    kind = "" if name or file is None else configs.read_file(Path(file)).get("kind")
    default = RUNS[kind]() if kind in RUNS else RECIPES[name or "lejepa"]()  # pyright: ignore[reportCallIssue]
    there_are = ", ".join(default.optimisers)
    rest, optimiser = take(rest, "--optim", f"a name ({there_are})")
    if optimiser and optimiser not in default.optimisers:
        raise UsageError(f"--optim {optimiser}: there are {there_are}")
    kinds = {"optim": default.optimisers[optimiser].__name__} if optimiser else {}
    return layered(default, file, rest, prog="birdjepa pretrain RECIPE", description=DESCRIPTION, kinds=kinds)
