"""What a report says, as plain data: gathered at one place, laid out at another.

Axes: t frames | m mel bands | s audio samples | n points | c classes
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.core.failures import Failure


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """How much a report holds. Its size grows with the number of clips that can be heard."""

    n_clips: int = 3
    """Training clips shown with what the encoder saw of them, or with what a codec made of them."""
    n_drawn: int = 192
    """Clips on which predictions in embedding space are turned back into spectrograms (A-JEPA); 0 draws none."""
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
        if self.n_drawn < 0:
            raise ValueError(f"n_drawn must be 0 (off) or a number of clips, got {self.n_drawn}")


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


class Outline(NamedTuple):
    """A rectangle on a picture, in shares of its width (from the left) and of its height (from the bottom)."""

    left: float
    right: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SeenPanel:
    """One picture of what became of a clip: a view, what was hidden, what was predicted."""

    name: str
    """Such as G1, visible or targets."""
    caption: str
    """Few words on what is to be seen; empty where the name says it."""
    start_s: float
    """From the clip's start."""
    duration_s: float
    is_window: bool
    """Shows a part of the clip: a view."""
    frames: Float[np.ndarray, "w m"]
    """Log-mel power in dB, as the encoder got it or as it was drawn; NaN where hidden."""
    outlines: tuple[Outline, ...] = ()
    """Blocks that were asked for one by one."""

    @property
    def is_local(self) -> bool:
        """A short view, by the name that views give it."""
        return self.name.startswith("L")


@dataclasses.dataclass(frozen=True, eq=False)
class SeenMoment:
    """What was shown and asked of a clip at one step of the run, the first one being 1."""

    step: int
    panels: tuple[SeenPanel, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class SeenClip:
    """A training clip, and what the encoder saw of it."""

    clip: HeardClip
    moments: tuple[SeenMoment, ...]
    """By step."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Drawing:
    """How well spectrograms can be drawn from predicted embeddings, on clips that the drawing decoder never saw."""

    scores: Mapping[str, Estimate]
    """R^2 of drawn target patches, by what they were drawn from; the trained predictor's first."""
    lead: Estimate
    """R^2 of the trained predictor's minus the untrained one's, on the same resampled recordings."""
    n_fitted: int
    """Clips that the decoders were fitted to."""
    n_held: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """What the encoder saw, and what it had to predict."""

    objective: str
    """The objective's name, as recipes spell it."""
    n_steps: int
    """Updates of the whole run."""
    trained: int | Absent
    """Step of the checkpoint whose weights drew and predicted, or why they are untrained."""
    clips: tuple[SeenClip, ...]
    drawing: Drawing | Absent | None
    """None where predictions are no embeddings."""


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """What a codec made of a clip after so many steps."""

    step: int
    clip: HeardClip
    mel: float
    """Mel distance to the original; 0 is a copy."""


@dataclasses.dataclass(frozen=True, eq=False)
class SampleClip:
    original: HeardClip
    looks: tuple[Look, ...]
    """By step."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CodeUse:
    """How much of its codes a codec uses on some clips."""

    n_clips: int
    levels_used: float
    """Share of the levels that came up, mean over dimensions."""
    summary: Mapping[str, float]
    """As `CodeCounts.summary` has it."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Reconstructed:
    """What a codec in training sounds like, and what its codes cost."""

    clips: tuple[SampleClip, ...] | Absent
    rates: Mapping[str, float]
    """As `codec.usage.rates` has them."""
    levels: tuple[int, ...]
    """Of each dimension."""
    used: CodeUse | Absent


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
    seen: Seen | Absent
    reconstructed: Reconstructed | Absent | None
    """None where the run learns no codec."""
    map: EmbeddingMap | Absent
    queries: tuple[Query, ...] | Absent
    heard: tuple[HeardClip, ...]
    """Clips of the map and the neighbours; their number is their place here."""
    sources: tuple[SourceSummary, ...]
    failures: tuple[Failure, ...]
