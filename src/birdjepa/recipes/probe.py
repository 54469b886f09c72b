"""The probe job: how much a frozen encoder knows about labels.

Beside it, always, what log-mel statistics and random weights know in the same folds.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from birdjepa.benchmark.evaluate import Score, compare, evaluate
from birdjepa.benchmark.folds import TEST_SPLITS, TRAINING_SPLITS, Folds, folds_by_group, folds_from_column, holdout
from birdjepa.benchmark.knn import KnnProbe
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.core import failures, files
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.core.failures import Failure
from birdjepa.core.provenance import provenance
from birdjepa.core.telling import tenths
from birdjepa.data.manifest import ColumnConfig, Manifest
from birdjepa.data.sources import open_data
from birdjepa.embed.embedders import AllLayers, Embedder, LogMelStatistics, Pooled, random_twin
from birdjepa.embed.rows import embed_rows
from birdjepa.models.loading import load
from birdjepa.models.pool import Pooling
from birdjepa.models.sound_encoder import SoundEncoder

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is probed and how."""

    data: str
    """DATA with a label column."""
    folds: str = ""
    """Column with the folds, or with train / val / test. Without it folds are made that share no group."""
    n_folds: int = 5
    """Folds to make when no column is given."""
    classifier: Literal["linear", "knn"] = "linear"
    linear: LinearProbe = LinearProbe()
    knn: KnnProbe = KnnProbe()
    pooling: Pooling | None = None
    """How tokens become one embedding; by default as the encoder was made."""
    layers: bool = False
    """Probe the output of every block too."""
    seed: int = 0
    """Of the random floor's weights, the folds made here and the bootstrap."""
    columns: ColumnConfig = ColumnConfig()


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Scores on the same examples and folds; `to_json` is what `birdjepa probe --json` prints."""

    score: Score
    floors: dict[str, Score]
    layers: tuple[Score, ...]
    refused: tuple[Failure, ...]
    described: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        floors = {
            name: {**floor.to_json(), "difference": compare(self.score, floor).to_json()}
            for name, floor in self.floors.items()
        }
        return {
            **self.score.to_json(),
            "floors": floors,
            "layers": [score.to_json() for score in self.layers],
            "refused": [{"path": each.path, "reason": each.reason} for each in self.refused],
            **self.described,
        }


def probe(folder: Path, config: ProbeConfig, say: Say) -> ProbeResult:
    """Embeds the labelled rows once for the encoder and both floors, and scores all of them in the same folds.

    Raises:
      UsageError: if the data has no labels or the folds cannot be used.
    """
    encoder = load(folder)
    labelled = labelled_rows(open_data(config.data, config.columns), config.folds)
    pooling = config.pooling or encoder.config.pooling
    say(f"embedding {len(labelled)} labelled rows of {config.data}")
    embedders, sweep = _embedders(encoder, pooling, config)
    embedded = embed_rows(list(embedders.values()), labelled, progress=tenths(say, "rows embedded"))
    kept = labelled.select(embedded.rows)
    tables = dict(zip(embedders, embedded.tables, strict=True))
    folds = make_folds(kept, config)

    def score(table: np.ndarray) -> Score:
        classifier = config.linear if config.classifier == "linear" else config.knn
        return evaluate(table, kept.columns["label"], kept.columns["group"], folds, classifier, seed=config.seed)

    swept = tuple(score(table) for table in sweep.split(tables["layers"])) if sweep else ()
    ours = score(tables["encoder"])
    floors = {name: score(tables[name]) for name in ("logmel", "random")}
    described = {
        "data": config.data,
        "data_fingerprint": labelled.fingerprint(),
        "encoder": str(folder),
        "classifier": config.classifier,
        "pooling": pooling,
        "embedding_width": int(tables["encoder"].shape[1]),
        "fold_column": config.folds or f"made: {config.n_folds} folds that share no group",
        "provenance": provenance(),
    }
    refused = [
        Failure(labelled.keys[row], stage, error.offset_s, error.reason)
        for row, error in embedded.refused
        for stage in ("label" if isinstance(error, LabelError) else "decode",)
    ]
    return ProbeResult(ours, floors, swept, (*failures.left_out(labelled.refused), *refused), described)


def write(result: ProbeResult, encoder_folder: Path) -> Path | None:
    """Keeps the result in the run that the encoder belongs to, for its report; None for an encoder without a run."""
    run = encoder_folder.resolve().parent
    if not (run / "metrics.jsonl").exists():
        return None
    described = result.described
    name = re.sub(
        r"[^A-Za-z0-9]+", "-", f"{Path(described['data']).parent.name} {described['classifier']} {described['pooling']}"
    ).strip("-")
    files.write_json(run / "probes" / f"{name}.json", result.to_json())
    return run / "probes" / f"{name}.json"


def labelled_rows(manifest: Manifest, fold_column: str) -> Manifest:
    """Rows with a label, and with a fold where a column of folds is named."""
    labels = manifest.column("label")
    folds = manifest.column(fold_column) if fold_column else labels
    rows = [row for row, (label, fold) in enumerate(zip(labels, folds, strict=True)) if label and fold]
    if len({labels[row] for row in rows}) < 2:
        raise UsageError(f"{manifest.name}: needs at least two labels among the rows that are probed")
    return manifest.select(rows)


def make_folds(manifest: Manifest, config: ProbeConfig) -> Folds:
    """Folds of a column, a train/test split of a column, or folds that share no group."""
    if not config.folds:
        return folds_by_group(manifest.columns["label"], manifest.columns["group"], config.n_folds, config.seed)
    return folds_of_column(manifest.column(config.folds))


def folds_of_column(values: Sequence[str]) -> Folds:
    """One hold-out where the values are train and test (and val), else a fold for each value."""
    is_split = set(values) & set(TRAINING_SPLITS) and set(values) & set(TEST_SPLITS)
    return holdout(values) if is_split else folds_from_column(values)


def _embedders(
    encoder: SoundEncoder, pooling: Pooling, config: ProbeConfig
) -> tuple[dict[str, Embedder], AllLayers | None]:
    """Everything that hears the rows in one pass, by name, and the layer sweep where there is one."""
    embedders: dict[str, Embedder] = {
        "encoder": Pooled(encoder, pooling),
        "logmel": LogMelStatistics(encoder.config, encoder.device),
        "random": Pooled(random_twin(encoder, config.seed), pooling),
    }
    sweep = AllLayers(encoder, pooling) if config.layers else None
    return ({**embedders, "layers": sweep} if sweep else embedders), sweep


def summary_lines(result: ProbeResult) -> Sequence[tuple[str, Score, str]]:
    """(name, score, verdict) of the encoder and its floors, for a table."""
    lines = [("encoder", result.score, "")]
    for name, floor in result.floors.items():
        difference = compare(result.score, floor).accuracy
        beaten = "beaten" if difference.low > 0 else "not beaten"
        lines.append(
            (name, floor, f"{beaten}: {difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]")
        )
    return lines
