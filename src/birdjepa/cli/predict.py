"""`birdjepa predict MODEL DATA --out FOLDER [--threshold 0.5]`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.cli.embed import Teller
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.models.classifier import load_classifier
from birdjepa.recipes.predict import PredictConfig, predict
from birdjepa.train.loop import pick_device
from birdjepa.train.signals import StopSignal

N_SHOWN = 10
"""Classes that are told with their number of windows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictArguments:
    model: tyro.conf.Positional[Path]
    """Folder of a fine-tuned classifier, such as runs/finetuned/model."""
    data: tyro.conf.Positional[str]
    """A folder, a manifest, shards, hub:OWNER/NAME, or synth. Rows with onset_s and offset_s get one score each, other
    recordings one per window."""
    out: Path = Path("predictions")
    """Folder for scores.csv, raven/, audacity/ and logits.parquet. Run the same command again to go on after an
    interruption, or with another threshold."""
    device: str = "auto"
    """auto takes a GPU if there is one."""
    config: tyro.conf.OmitArgPrefixes[PredictConfig] = dataclasses.field(default_factory=PredictConfig)
    columns: ColumnConfig = ColumnConfig()
    json: bool = False
    """Print one JSON object instead of the folder."""


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        PredictArguments,
        argv,
        prog="birdjepa predict",
        description="Scores a folder or manifest with a fine-tuned classifier; writes a table, and label files for "
        "Raven and Audacity.",
    )
    classifier = load_classifier(arguments.model, device=pick_device(arguments.device))
    manifest = open_data(arguments.data, arguments.columns)
    with StopSignal() as signal:
        result = predict(
            classifier,
            manifest,
            arguments.out,
            arguments.config,
            progress=Teller(),
            stop=signal.stop,
        )
    summary, found = result.summary, result.n_found
    tell(f"{summary.n_embedded} of {summary.n_examples} recordings or segments scored, {result.n_windows} windows")
    shown = ", ".join(f"{name} {count}" for name, count in list(found.items())[:N_SHOWN])
    more = f" and {len(found) - N_SHOWN} more classes" if len(found) > N_SHOWN else ""
    tell(f"windows of {arguments.config.threshold:g} or more: {shown or 'none'}{more}")
    print(jsonlib.dumps(result.to_json()) if arguments.json else result.out)
    if summary.n_refused:
        tell(f"{summary.n_refused} were refused; see {summary.failures}")
        return EXIT_PARTIAL
    return EXIT_DONE
