"""The section of curves: what metrics.jsonl logged, as small charts over the same steps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from birdjepa.objectives.curriculum import hard_probability
from birdjepa.report.charts import Line, line_chart, number
from birdjepa.report.contents import ReportContents
from birdjepa.report.html import Html, data_block, note, section, tag

MAX_POINTS = 800
"""Points of a line; of longer runs every k-th logged step is drawn."""
NOT_CURVES = frozenset(("step", "n_refused", "alarm"))


class _Known(NamedTuple):
    """How a quantity is presented."""

    title: str
    hint: str
    share: bool = False


TERMS = {
    "loss": _Known("Loss", "falls, then levels off"),
    "waveform": _Known("Waveform loss", "L1 between samples, before its weight: falls, but says little"),
    "stft": _Known("STFT loss", "of several resolutions, before its weight: falls"),
    "mel": _Known("Mel loss", "of several scales, before its weight: falls"),
    "feature": _Known("Feature matching", "how far the discriminators' features of real and made sound lie apart"),
    "adversarial": _Known("Adversarial loss", "of the vocoder: falls where the discriminators take its sound for real"),
    "discriminator": _Known("Discriminator loss", "no goal in itself, but 0 says that the vocoder has lost the game"),
    "invariance": _Known("Invariance", "distance between views of one clip: falls"),
    "sigreg_excess": _Known("SIGReg above its floor", "0 = embeddings look normal"),
    "source_excess": _Known(
        "Source prediction above its floor", "cross-entropy over recordings less its smoothing: falls"
    ),
    "train_accuracy": _Known("Accuracy in training", "of the head, on augmented training clips: not held out", True),
    "added_sigreg": _Known("Added SIGReg above its floor", "before its weight; 0 = embeddings look normal"),
    "added_variance": _Known("Added variance and covariance", "before its weight; 0 = spread out, uncorrelated"),
    "added_diet": _Known("Added source prediction above its floor", "before its weight: falls"),
}
WATCHED = {
    "sample_mel": _Known("Mel distance of the samples", "0 is a copy; the number to watch: falls"),
    "sample_mr_stft": _Known("STFT distance of the samples", "of several resolutions, 0 is a copy: falls"),
    "sample_si_sdr_db": _Known(
        "SI-SDR of the samples", "in dB, rises; a vocoder makes phases of its own, so it may stay below 0"
    ),
    "least_used": _Known("Least used levels", "of any dimension in a batch: well below 100% wastes bits", True),
    "level_bits": _Known("Bits of a code", "entropy within a batch, at most log2 of the levels"),
    "hidden_share": _Known("Hidden share", "of the frames, which must be predicted", True),
    "context_std": _Known("Context std", "over all frames of a batch: a fall to 0 is collapse"),
    "context_rank": _Known("Context rank", "dimensions that its frames use: a fall is collapse"),
    "teacher_std": _Known("Teacher std", "over all frames of a batch: a fall to 0 is collapse"),
    "teacher_rank": _Known("Teacher rank", "dimensions that its frames use: a fall is collapse"),
    "target_std": _Known("Target std", "of the teacher's embeddings over patches: a fall to 0 is collapse"),
    "visible_share": _Known("Visible share", "of the patches, which the encoder reads", True),
    "hard_probability": _Known("Probability of hard masks", "the curriculum, as configured", True),
    "context_share": _Known("Context share", "of the patches, which the context encoder reads", True),
    "target_share": _Known("Target share", "of the patches; fewer where masks are hard", True),
    "effective_rank": _Known("Effective rank", "dimensions in use: a fall is collapse"),
    "embedding_std": _Known("Embedding std", "mean over dimensions: 0 is collapse"),
    "knn_accuracy": _Known("kNN accuracy", "neighbours from other recordings, by label", True),
    "probe_accuracy": _Known("Online probe accuracy", "on training clips, not held out", True),
    "probe_loss": _Known("Online probe loss", "cross-entropy of the probe; does not train the encoder"),
    "lr": _Known("Learning rate", "the schedule as it was applied"),
    "grad_norm": _Known("Gradient norm", "before clipping: spikes are trouble"),
    "clips_per_s": _Known("Speed", "clips per second"),
    "step_s": _Known("Time of a step", "in seconds, waiting for its clips included"),
    "data_wait": _Known("Waiting for data", "share of the time: more than a little asks for more loader.workers", True),
}
KNOWN = TERMS | WATCHED
"""Order of the page; what an objective logs beyond these comes after the loss terms under its own name."""
ABOVE_A_FLOOR = ("sigreg_excess", "source_excess", "added_sigreg", "added_diet")


def curves_section(contents: ReportContents) -> Html:
    title = "Training"
    lead = "The loss should fall and level off while effective rank and std stay up; a red vertical line is an alarm."
    if contents.reconstructed is not None:
        lead = (
            "The distances of the samples should fall; the loss jumps where its adversarial terms begin, and says "
            "little from there on. Rank and std are those of codes, which do not learn; a red vertical line: an alarm."
        )
    rows = _with_curriculum(contents)
    lines = [line for line in (_line(name, rows, contents) for name in _names(rows)) if line is not None]
    if not lines:
        return section("curves", title, lead, note("No curves: metrics.jsonl is missing or holds no numbers yet."))
    steps = (int(rows[0]["step"]), int(rows[-1]["step"]))
    alarms = [(int(row["step"]), str(row["alarm"])) for row in rows if row.get("alarm")]
    figures = [_figure(line, steps, alarms) for line in lines]
    told = [note(tag("strong", {}, "Alarm "), f"at step {step}: {text}") for step, text in alarms[:5]]
    if len(alarms) > 5:
        told.append(note(f"... and {len(alarms) - 5} more alarms."))
    origin = f"From metrics.jsonl: {len(rows)} logged steps, {steps[0]} to {steps[1]}; point at a chart to read a step."
    if max(len(line.steps) for line in lines) < len(rows) and len(rows) > MAX_POINTS:
        origin += f" Drawn are at most {MAX_POINTS} of them, evenly spaced."
    if max(map(len, (line.steps for line in lines))) >= 80:
        origin += " Bold: running mean; faint: every logged value."
    missing = [
        KNOWN[name].title.lower()
        for name in (("effective_rank", "knn_accuracy", "probe_accuracy") if contents.reconstructed is None else ())
        if all(row.get(name) is None for row in rows)
    ]
    if missing:
        origin += f" Not logged in this run: {', '.join(missing)}."
    block = data_block(
        "curves-data",
        [{"steps": list(line.steps), "values": [_short(value) for value in line.values]} for line in lines],
    )
    return section("curves", title, lead, *told, tag("div", {"class": "charts"}, *figures), note(origin), block)


def _figure(line: Line, steps: tuple[int, int], alarms: Sequence[tuple[int, str]]) -> Html:
    last = number(line.values[-1], share=line.share)
    head = tag("div", {"class": "chart-head"}, tag("b", {}, line.title), tag("output", {"data-last": last}, last))
    chart = line_chart(line, steps, alarms)
    hint = line.hint
    if line.reference is not None and 'class="reference"' in chart:
        hint += f"; dashed: {line.reference[0]}"
    figure = {"class": "chart", "data-share": "1" if line.share else None}
    return tag("figure", figure, head, chart, tag("figcaption", {}, hint))


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Quantities in the order of the page."""
    logged = list(dict.fromkeys(name for row in rows for name in row if name not in NOT_CURVES))
    others = [name for name in logged if name not in KNOWN]
    return [name for name in TERMS if name in logged] + others + [name for name in WATCHED if name in logged]


def _with_curriculum(contents: ReportContents) -> Sequence[Mapping[str, Any]]:
    """The logged rows, and in each the probability of hard masks at that step where the masks follow a curriculum."""
    masks = _mapping(_mapping(contents.config.get("objective")).get("masks"))
    fork = _mapping(_mapping(contents.config.get("schedule")).get("fork"))
    n_steps = fork.get("planned") or _mapping(contents.config.get("train")).get("steps")
    if masks.get("kind") != "CurriculumConfig" or not n_steps:
        return contents.metrics
    pace, start = masks["pace"], float(masks["start"])
    return [
        {**row, "hard_probability": hard_probability(min(1.0, (int(row["step"]) - 1) / n_steps), pace, start)}
        for row in contents.metrics
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _line(name: str, rows: Sequence[Mapping[str, Any]], contents: ReportContents) -> Line | None:
    points = [(int(row["step"]), float(row[name])) for row in rows if _is_number(row.get(name))]
    if not points:
        return None
    every = math.ceil(len(points) / MAX_POINTS)
    points = [*points[:-1][::every], points[-1]]
    known = KNOWN.get(name, _Known(name.replace("_", " "), "a term of the objective, or a number it logs"))
    return Line(
        name=name,
        title=known.title,
        hint=known.hint,
        steps=[step for step, _ in points],
        values=[value for _, value in points],
        share=known.share,
        reference=_reference(name, contents),
    )


def _reference(name: str, contents: ReportContents) -> tuple[str, float] | None:
    if name in ABOVE_A_FLOOR:
        return "the floor", 0.0
    if name in ("knn_accuracy", "probe_accuracy"):
        labels: dict[str, int] = {}
        for source in contents.sources:
            for label, count in source.labels.items():
                labels[label] = labels.get(label, 0) + count
        if labels:
            return "share of the commonest label", max(labels.values()) / sum(labels.values())
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
