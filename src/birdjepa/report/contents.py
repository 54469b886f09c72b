"""What a report says, as plain data: gathered at one place, laid out at another.

Axes: t frames | m mel bands | s audio samples | n points | c classes
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark.bootstrap import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How much a report holds. Its size grows with the number of clips that can be heard."""

    n_clips: int = 3
    """Training clips shown with their views."""
    n_points: int = 1500
    """Rows embedded for the map and the neighbours, drawn at random where there are more."""
    n_queries: int = 8
    """Recordings whose neighbours are shown."""
    n_neighbours: int = 5
    """Neighbours of each."""

    def __post_init__(self) -> None:
        if min(self.n_clips, self.n_points, self.n_queries, self.n_neighbours) < 1:
            raise ValueError(
                "n_clips, n_points, n_queries and n_neighbours must be at least 1, got "
                f"{self.n_clips}, {self.n_points}, {self.n_queries}, {self.n_neighbours}"
            )


@dataclasses.dataclass(frozen=True)
class Absent:
    """A part that is empty, and why."""

    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Axes of every spectrogram in the report."""

    frame_rate: float
    """Frames per second."""
    band_hz: Float[np.ndarray, " m"]
    """Centre frequency of each mel band."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HeardClip:
    """A stretch of a recording that can be seen and heard."""

    samples: Float[np.ndarray, " s"]
    sampling_rate: int
    frames: Float[np.ndarray, "t m"]
    """Log-mel power in dB."""
    label: str
    """Empty where there is none."""
    source: str
    recording: str
    """Path as the manifest spells it."""
    start_s: float | None
    """Where in the recording it begins; None where nobody noted it."""
    licence: str
    attribution: str

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sampling_rate


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SeenView:
    """A view as the encoder saw it."""

    name: str
    """G1, G2... for global ones, L1... for local ones."""
    start_s: float
    """From the clip's start."""
    duration_s: float
    frames: Float[np.ndarray, "w m"]
    """Log-mel power in dB, augmented."""

    @property
    def is_global(self) -> bool:
        return self.name.startswith("G")


@dataclasses.dataclass(frozen=True, eq=False)
class SeenClip:
    """A training clip and its views."""

    clip: HeardClip
    views: tuple[SeenView, ...]


@dataclasses.dataclass(frozen=True)
class ProbeScore:
    """One embedding's row of a probe: the encoder's, or a floor's."""

    name: str
    accuracy: Estimate | None
    macro_f1: Estimate | None
    balanced_accuracy: Estimate | None
    ahead: Estimate | None
    """The encoder's accuracy minus this floor's on the same resampled recordings; None for the encoder itself, or where
    nobody computed it."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ProbeResult:
    """What `birdjepa probe --json` printed."""

    file: str
    """Name of the file it was read from."""
    settings: Mapping[str, str]
    """Data, classifier, pooling, folds, seed... as far as the file tells."""
    scores: tuple[ProbeScore, ...]
    """The encoder first."""
    n_examples: int | None
    confidence: float
    chance: float | None
    """1 / number of classes."""
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "c c"] | None
    """Row = truth, column = prediction."""
    layers: tuple[Estimate, ...]
    """Accuracy after each block of the encoder, the first one first; empty where no sweep was made."""
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Agreement:
    """How often the nearest neighbour from another group has the same label."""

    rate: Estimate
    chance: float
    """What neighbours drawn at random would reach."""
    n: int
    """Rows whose label also occurs in another group: the others have nobody to find."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EmbeddingMap:
    """Embeddings in two dimensions."""

    xy: Float[np.ndarray, "n 2"]
    explained: tuple[float, float]
    """Shares of the variance on the two axes."""
    labels: tuple[str, ...]
    recordings: tuple[str, ...]
    heard: tuple[int | None, ...]
    """Which of the report's heard clips is a point's own."""
    n_rows: int
    """Rows there were to draw from."""
    n_refused: int
    """Drawn rows that could not be embedded."""
    pooling: str
    agreement: Agreement | None


@dataclasses.dataclass(frozen=True)
class Hit:
    """A neighbour: number of its heard clip, and cosine of the standardised embeddings."""

    heard: int
    similarity: float
    same: bool | None
    """Whether it has the query's label; None where one of them has none."""


@dataclasses.dataclass(frozen=True)
class Query:
    heard: int
    hits: tuple[Hit, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSummary:
    """One source of recordings."""

    name: str
    fingerprint: str
    n_recordings: int
    n_rows: int
    """More than recordings where the manifest lists segments."""
    hours: float
    hours_known: bool
    """False where `hours` was scaled up from the recordings that were looked at."""
    labels: Mapping[str, int]
    """Rows per label, the commonest first."""
    sampling_rates: Mapping[int, int]
    """Recordings per rate in Hz, of `n_looked`."""
    n_looked: int
    licences: Mapping[str, int]
    """Recordings per licence; empty where the manifest has no such column."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A recording that was refused."""

    path: str
    stage: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ReportContents:
    """All of a report. `build_report` is a pure function of it."""

    name: str
    config_hash: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    started: str
    """Date and time (UTC); empty where unknown."""
    finished: str
    metrics: tuple[Mapping[str, Any], ...]
    """Rows of metrics.jsonl, ascending, a step once."""
    probes: tuple[ProbeResult, ...]
    scale: Scale | None
    seen: tuple[SeenClip, ...] | Absent
    map: EmbeddingMap | Absent
    queries: tuple[Query, ...] | Absent
    heard: tuple[HeardClip, ...]
    """Clips of the map and the neighbours; their number is their place here."""
    sources: tuple[SourceSummary, ...]
    failures: tuple[Failure, ...]
