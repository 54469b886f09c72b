"""`birdjepa finetune ENCODER --data DATA --out RUN [--folds COLUMN ...]`, `--config FILE`, `--resume RUN`."""

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from birdjepa.benchmark.evaluate import Score
from birdjepa.benchmark.multilabel import MultiLabelScore
from birdjepa.cli import tell
from birdjepa.cli.runs import done, layered, named, resumed
from birdjepa.recipes import finetune
from birdjepa.recipes.finetune_config import FinetuneConfig, for_encoder
from birdjepa.recipes.finetune_run import SCORE, FinetuneResult

DESCRIPTION = (
    "Fine-tunes an encoder and a head on labels (birdjepa finetune runs/first/encoder --data DATA --folds COLUMN --out "
    "RUN), from a file (--config FILE, a saved config.json or TOML), or goes on with a stopped run (--resume RUN). "
    "With --folds and no --test each fold is held out in turn. --json prints the score as one JSON object."
)


def run(argv: Sequence[str]) -> int:
    as_json = "--json" in argv
    rest, folder = resumed([argument for argument in argv if argument != "--json"])
    result = finetune.resume(folder, tell) if folder else finetune.start(configure(rest), tell)
    if as_json:
        print(jsonlib.dumps(result.described))
    else:
        show(result)
    return done(result.folder, len(result.refused))


def configure(argv: Sequence[str]) -> FinetuneConfig:
    """The encoder's recipe, then the file, then the command line: each over the one before."""
    name, rest, file = named(argv, "an encoder folder (runs/first/encoder)")
    default = for_encoder(Path(name)) if name else FinetuneConfig()
    return layered(default, file, rest, prog="birdjepa finetune ENCODER", description=DESCRIPTION)


def show(result: FinetuneResult) -> None:
    """The score with its intervals, if anything was tested, and where the model is, or the score of all folds."""
    score = result.score
    if isinstance(score, Score):
        names = ("accuracy", "macro F1", "balanced accuracy")
        estimates = (score.accuracy, score.macro_f1, score.balanced_accuracy)
    elif isinstance(score, MultiLabelScore):
        names, estimates = ("cmAP", "AUROC", "top-1"), (score.cmap, score.auroc, score.top1)
    else:
        names, estimates = (), ()
    if score is not None:
        title = f"{result.config.data}: {score.n_examples} examples, {score.n_classes} classes, {score.n_groups} groups"
        table = Table("", *names, title=title)
        table.add_row("fine-tuned", *(f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in estimates))
        for fold in score.folds if isinstance(score, Score) and len(score.folds) > 1 else ():
            table.add_row(fold.name, f"{fold.accuracy:.3f}")
        console = Console()
        console.print(table)
        for note in score.notes if isinstance(score, Score) else ():
            console.print(f"note: {note}", markup=False, highlight=False)
    print(result.described.get("model", result.folder / SCORE))
