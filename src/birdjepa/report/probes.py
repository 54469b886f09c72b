"""The section of probes: what a frozen encoder knows about labels, beside its floors, with intervals.

Axes: c classes
"""

import math

import numpy as np
from jaxtyping import Int

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.charts import interval_chart
from birdjepa.report.contents import ProbeResult, ProbeScore, ReportContents
from birdjepa.report.html import Html, join, note, section, table, tag

MAX_MATRIX = 40
"""Classes of a confusion matrix that is drawn; of larger ones only the commonest confusions are listed."""
MAX_COUNTS = 16
"""Classes up to which cells hold their counts."""


def probes_section(contents: ReportContents) -> Html:
    title, lead = "Probe", "The encoder is useful where its accuracy lies above both floors by more than the intervals."
    if not contents.probes:
        command = tag("code", {}, "birdjepa probe RUN/encoder --data DATA")
        reason = ("No probe was run on this encoder: ", command, " and a new report fill this part.")
        return section("probe", title, lead, note(*reason))
    return section(
        "probe", title, lead, *(_result(probe, several=len(contents.probes) > 1) for probe in contents.probes)
    )


def verdict(probe: ProbeResult, *, with_rates: bool = False) -> str:
    """How the encoder stands to each floor, in words that the intervals allow."""
    ours, *floors = probe.scores
    if not floors:
        return "no floors to compare with"
    told = {"ahead": [], "behind": [], "level": []}
    for floor in floors:
        told[_standing(ours, floor)].append(f"{floor.name} {rate(floor.accuracy)}" if with_rates else floor.name)
    words = {"ahead": "above", "behind": "below", "level": "not clearly different from"}
    return "; ".join(f"{words[key]} {' and '.join(names)}" for key, names in told.items() if names)


def rate(estimate: Estimate | None) -> str:
    """A share with its interval: 0.825 [0.790, 0.860]."""
    if estimate is None:
        return "not given"
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _standing(ours: ProbeScore, floor: ProbeScore) -> str:
    """By the paired difference where there is one, else by whether the two intervals overlap."""
    ahead = floor.ahead
    if ahead is not None and math.isfinite(ahead.low):
        return "ahead" if ahead.low > 0 else "behind" if ahead.high < 0 else "level"
    one, other = ours.accuracy, floor.accuracy
    if one is not None and other is not None and math.isfinite(one.low) and math.isfinite(other.low):
        return "ahead" if one.low > other.high else "behind" if one.high < other.low else "level"
    return "level"


def _result(probe: ProbeResult, *, several: bool) -> Html:
    drawn = [(score.name, score.accuracy) for score in probe.scores if score.accuracy is not None]
    heading = [tag("h3", {}, probe.settings.get("data", probe.file))] if several else []
    share = f"{probe.confidence:.0%}"
    drawing = interval_chart(drawn, chance=probe.chance)
    level = "dashed" if 'class="reference"' in drawing else "left of the picture"
    chance = f" Chance (1 / classes) is {probe.chance:.1%}, {level}." if probe.chance else ""
    chart = tag(
        "figure", {}, drawing, tag("figcaption", {}, f"Accuracy with {share} intervals over recordings.{chance}")
    )
    return tag(
        "div", {"class": "probe"}, *heading, tag("p", {"class": "finding"}, f"The encoder is {verdict(probe)}."),
        chart, _scores(probe), *_layers(probe), *_confusion(probe), *(note(text) for text in probe.notes),
        _origin(probe),
    )  # fmt: skip


def _scores(probe: ProbeResult) -> Html:
    header = ["", "accuracy", "macro-F1", "balanced accuracy", "encoder's lead in accuracy"]
    rows = []
    for i, score in enumerate(probe.scores):
        lead = "" if i == 0 else rate(score.ahead) if score.ahead is not None else "not given"
        name = tag("strong", {}, score.name) if i == 0 else score.name
        rows.append([name, rate(score.accuracy), rate(score.macro_f1), rate(score.balanced_accuracy), lead])
    return table(header, rows, numeric=(1, 2, 3, 4))


def _layers(probe: ProbeResult) -> list[Html]:
    if not probe.layers:
        return []
    told = "; ".join(f"{number}: {rate(accuracy)}" for number, accuracy in enumerate(probe.layers, start=1))
    return [note(f"Accuracy after each block of the encoder: {told}.")]


def _origin(probe: ProbeResult) -> Html:
    facts = [f"{key.replace('_', ' ')}: {value}" for key, value in probe.settings.items()]
    if probe.n_examples is not None:
        facts.insert(0, f"{probe.n_examples} tested examples")
    return note(f"From {probe.file}. ", "; ".join(facts), ".")


def _confusion(probe: ProbeResult) -> list[Html]:
    if probe.confusion is None:
        return [note("No confusion matrix: the result holds none.")]
    n = len(probe.classes)
    parts = []
    if n <= MAX_MATRIX:
        caption = "Rows are the truth, columns what was predicted; shades are shares of a row, the diagonal is right."
        parts.append(
            tag(
                "figure",
                {"style": f"flex-basis:{_side(probe.classes):.0f}px"},
                _matrix(probe.confusion, probe.classes),
                tag("figcaption", {}, caption),
            )
        )
    else:
        parts.append(note(f"{n} classes: too many for a matrix, so only the commonest confusions are listed."))
    wrong = probe.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: 12 if n > MAX_MATRIX else 6]
    pairs = [(int(i) // n, int(i) % n) for i in order if wrong.flat[i] > 0]
    if pairs:
        rows = [(probe.classes[i], probe.classes[j], f"{wrong[i, j]} of {probe.confusion[i].sum()}") for i, j in pairs]
        parts.append(table(("truth", "taken for", "how often"), rows, numeric=(2,), caption="Commonest confusions"))
    return [
        tag("details", {"open": True}, tag("summary", {}, "Confusions"), tag("div", {"class": "confusions"}, *parts))
    ]


def _matrix(confusion: Int[np.ndarray, "c c"], classes: tuple[str, ...]) -> Html:
    n = len(classes)
    cell, size = _cell_and_type(n)
    margin, side = _margin(classes), _side(classes)
    totals = confusion.sum(axis=1, keepdims=True).clip(1)
    marks = []
    for i, name in enumerate(classes):
        middle = margin + (i + 0.5) * cell
        at = {"x": margin - 7, "y": middle + 0.35 * size, "text-anchor": "end", "font-size": size}
        marks.append(tag("text", at, _clip(name), tag("title", {}, name)))
        above = {"transform": f"translate({middle + 0.35 * size:.1f} {margin - 7:.1f}) rotate(-90)", "font-size": size}
        marks.append(tag("text", above, _clip(name), tag("title", {}, name)))
    for i, j in zip(*np.nonzero((confusion > 0) | np.eye(n, dtype=bool)), strict=True):
        count, share = int(confusion[i, j]), float(confusion[i, j] / totals[i, 0])
        x, y = margin + int(j) * cell, margin + int(i) * cell
        said = (
            f"{classes[i]}: {count} of {totals[i, 0]} taken for {classes[j]}"
            if i != j
            else f"{classes[i]}: {count} of {totals[i, 0]} right"
        )
        shade = {
            "class": "cell",
            "x": x + 1,
            "y": y + 1,
            "width": cell - 2,
            "height": cell - 2,
            "fill-opacity": 0.06 + 0.94 * share,
        }
        marks.append(tag("rect", shade, tag("title", {}, said)))
        if i == j:
            marks.append(
                tag("rect", {"class": "diagonal", "x": x + 1, "y": y + 1, "width": cell - 2, "height": cell - 2})
            )
        if n <= MAX_COUNTS and count:
            at = {
                "class": "count strong" if share > 0.5 else "count",
                "x": x + cell / 2,
                "y": y + cell / 2 + 4,
                "text-anchor": "middle",
            }
            marks.append(tag("text", at, str(count)))
    box = {
        "class": "matrix",
        "viewBox": f"0 0 {side:.0f} {side:.0f}",
        "role": "img",
        "aria-label": "Confusion matrix",
        "style": f"max-width:{side:.0f}px",
    }
    return tag("svg", box, join(marks))


def _cell_and_type(n_classes: int) -> tuple[float, float]:
    """Sides of a cell and of its names' type."""
    return (34.0, 11.0) if n_classes <= MAX_COUNTS else (16.0, 9.5)


def _margin(classes: tuple[str, ...]) -> float:
    """Room for the longest name."""
    return 12 + max(len(_clip(name)) for name in classes) * _cell_and_type(len(classes))[1] * 0.58


def _side(classes: tuple[str, ...]) -> float:
    """Width and height of the matrix."""
    return _margin(classes) + len(classes) * _cell_and_type(len(classes))[0] + 6


def _clip(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
