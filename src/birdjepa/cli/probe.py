"""`birdjepa probe ENCODER --data DATA [--folds COLUMN] [--classifier linear|knn] [--json]`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import failures
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL
from birdjepa.recipes import probe
from birdjepa.recipes.probe import ProbeConfig, ProbeResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeArguments:
    encoder: tyro.conf.Positional[Path]
    """Encoder folder, such as runs/first/encoder."""
    probe: tyro.conf.OmitArgPrefixes[ProbeConfig]
    json: bool = False
    """Print one JSON object instead of a table."""


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        ProbeArguments,
        argv,
        prog="birdjepa probe",
        description="Scores a frozen encoder on labels, beside two floors: log-mel statistics and random weights.",
    )
    result = probe.probe(arguments.encoder, arguments.probe, tell)
    written = probe.write(result, arguments.encoder)
    if arguments.json:
        print(jsonlib.dumps(result.to_json()))
    else:
        show(result)
    if written:
        tell(f"kept in {written}")
    if result.refused:
        failures.write(Path(failures.NAME), result.refused)
        tell(f"{len(result.refused)} rows were refused; see failures.csv")
        return EXIT_PARTIAL
    return EXIT_DONE


def show(result: ProbeResult) -> None:
    """Scores with their intervals, and whether the encoder is above each floor by more than the interval."""
    score = result.score
    title = (
        f"{result.described['data']}: {score.n_examples} examples, {score.n_classes} classes, "
        f"{score.n_groups} groups, {len(score.folds)} folds"
    )
    table = Table("", "accuracy", "macro F1", "balanced accuracy", "encoder minus floor", title=title)
    for name, each, verdict in probe.summary_lines(result):
        estimates = (each.accuracy, each.macro_f1, each.balanced_accuracy)
        table.add_row(name, *(f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in estimates), verdict)
    for number, each in enumerate(result.layers, start=1):
        table.add_row(
            f"block {number}", f"{each.accuracy.value:.3f} [{each.accuracy.low:.3f}, {each.accuracy.high:.3f}]"
        )
    console = Console()
    console.print(table)
    for note in score.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
