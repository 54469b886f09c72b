"""The prediction job: a classifier and recordings in, scores and label files out, resumable at any moment.

The work is that of embedding: logits go to `logits.parquet` in parts, exactly once. All other files follow from that
one in a single pass, so other thresholds cost nothing more: run the same command again with them.

Axes: n windows | c classes
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.labels import Label, label_names, write_audacity, write_raven
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.core.provenance import provenance
from birdjepa.data.manifest import Manifest
from birdjepa.embed.collection import EmbedConfig, EmbedSummary, Progress, embed_by, encoder_identity, weights_sha256
from birdjepa.embed.embedders import Logits, Precision
from birdjepa.embed.parts import utf8
from birdjepa.embed.reading import ReadConfig
from birdjepa.models.classifier import Classifier, probabilities

HEADER = ("path", "start_s", "end_s", "label", "score")
_AT_ONCE = 4096
"""Windows held in memory while files are written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How recordings are scored, and what of it is written."""

    threshold: float = 0.5
    """Probability from which on a class is written into the label files, and into scores.csv in any case."""
    top_k: int = 1
    """Best classes of each window that scores.csv lists, however low they score."""
    least_score: float = 1.0
    """scores.csv lists classes from this probability on, too, where it is below the threshold; 0 lists them all."""
    clip_s: float = 0.0
    """Length of a window in seconds; 0 takes that of the clips that the classifier was trained on."""
    hop_s: float = 0.0
    """Distance between window starts in seconds, below their length for windows that overlap; 0 takes the classifier's,
    or the length where that is given."""
    precision: Precision = "float32"
    """bf16 runs the transformer under autocast: faster on most hardware, about three digits."""
    batch_size: int = 16
    reading: ReadConfig = dataclasses.field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or not 0 <= self.least_score <= 1:
            raise ValueError(
                f"threshold and least_score must be probabilities, got {self.threshold} and {self.least_score}"
            )
        if self.top_k < 0 or self.batch_size < 1 or min(self.clip_s, self.hop_s) < 0:
            raise ValueError(
                "need top_k >= 0, batch_size >= 1, clip_s >= 0, hop_s >= 0; got "
                f"{self.top_k}, {self.batch_size}, {self.clip_s}, {self.hop_s}"
            )

    def windows(self, trained: ClipConfig) -> ClipConfig:
        """How recordings are cut for a classifier that was trained on such clips.

        Raises:
          UsageError: if windows would not meet.
        """
        clip_s = self.clip_s or trained.clip_s
        try:
            return ClipConfig(clip_s=clip_s, hop_s=self.hop_s or (self.clip_s or trained.hop_s))
        except ValueError as error:
            raise UsageError(str(error)) from None


@dataclasses.dataclass(frozen=True)
class PredictResult:
    """What became of a collection."""

    out: Path
    summary: EmbedSummary
    n_windows: int
    n_found: dict[str, int]
    """Windows from the threshold on, by class; classes without any are left out."""

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "n_recordings_or_segments": self.summary.n_examples,
            "n_refused": self.summary.n_refused,
            "n_windows": self.n_windows,
            "n_found": self.n_found,
        }


class Window(NamedTuple):
    """Scores of one window."""

    path: str
    start_s: float
    end_s: float
    score: Float[np.ndarray, " c"]


def predict(
    classifier: Classifier,
    manifest: Manifest,
    out: Path,
    config: PredictConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PredictResult:
    """Scores a manifest into the folder `out`: logits.parquet, scores.csv, raven/, audacity/, failures.csv.

    A manifest's labelled segments are scored inside their bounds, other recordings window by window. Every recording
    that could be read has its label files, without a label where nothing was found.

    Raises:
      UsageError: if `out` belongs to another classifier, data or windows.
      Interrupted: when stop() says so; finished parts are kept.
    """
    ordered = manifest.select(_rows_by_recording(manifest.keys))
    identity = {
        **encoder_identity(classifier.encoder),
        "head": {"config": configs.to_json(classifier.head_config), "weights_sha256": weights_sha256(classifier.head)},
        "classes": list(classifier.classes),
        "activation": classifier.activation,
    }
    summary = embed_by(
        Logits(classifier.encoder, classifier.head, config.precision),
        identity,
        ordered,
        out / "logits.parquet",
        EmbedConfig(
            clips=config.windows(classifier.encoder.config.clips),
            precision=config.precision,
            batch_size=config.batch_size,
            reading=config.reading,
        ),
        provenance=provenance(),
        progress=progress,
        stop=stop,
    )
    names = label_names([utf8(key) for key in ordered.keys])
    found: Counter[str] = Counter()
    n_windows = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal n_windows
        windows = read_windows(out / "logits.parquet", classifier)
        for path, group in itertools.groupby(windows, key=lambda window: window.path):
            labels: list[Label] = []
            for window in group:
                n_windows += 1
                over = labels_over(window, classifier.classes, config.threshold)
                found.update(label.label for label in over)
                labels += over
                yield from _listed(window, classifier.classes, config)
            nyquist_hz = classifier.encoder.sampling_rate / 2
            where = names[path]
            write_raven(
                out / "raven" / f"{where}.Table.1.selections.txt",
                labels,
                begin_file=PurePath(path).name,
                nyquist_hz=nyquist_hz,
            )
            write_audacity(out / "audacity" / f"{where}.txt", labels)

    files.write_csv(out / "scores.csv", HEADER, rows())
    return PredictResult(out, summary, n_windows, dict(found.most_common()))


def read_windows(path: Path, classifier: Classifier) -> Iterator[Window]:
    """Probabilities of each window in a table of logits, in its order, few in memory at a time."""
    for batch in pq.ParquetFile(path).iter_batches(_AT_ONCE, columns=["path", "start_s", "end_s", "embedding"]):
        columns = {name: batch.column(name) for name in ("path", "start_s", "end_s")}
        logits = batch.column("embedding").flatten().to_numpy().reshape(len(batch), len(classifier.classes))
        scores = probabilities(torch.from_numpy(logits.astype(np.float64)), classifier.activation).numpy()
        values = (columns[name].to_pylist() for name in ("path", "start_s", "end_s"))
        for name, start_s, end_s, score in zip(*values, scores, strict=True):
            yield Window(name, start_s, end_s, score)


def labels_over(window: Window, classes: tuple[str, ...], threshold: float) -> list[Label]:
    """Labels of the classes that score at least the threshold, best first."""
    order = np.argsort(-window.score, kind="stable")
    return [
        Label(window.start_s, window.end_s, classes[column], float(window.score[column]))
        for column in order.tolist()
        if window.score[column] >= threshold
    ]


def _listed(window: Window, classes: tuple[str, ...], config: PredictConfig) -> Iterator[dict[str, Any]]:
    """The window's rows of scores.csv, best class first."""
    least = min(config.threshold, config.least_score)
    for rank, column in enumerate(np.argsort(-window.score, kind="stable").tolist()):
        if rank >= config.top_k and window.score[column] < least:
            return
        yield {
            "path": window.path,
            "start_s": f"{window.start_s:.6f}",
            "end_s": f"{window.end_s:.6f}",
            "label": classes[column],
            "score": f"{window.score[column]:.6f}",
        }


def _rows_by_recording(keys: Sequence[str]) -> list[int]:
    """Rows in the manifest's order, but all of one recording together, at the place of its first."""
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return sorted(range(len(keys)), key=lambda row: place[keys[row]])
