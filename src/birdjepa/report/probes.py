"""The section of probes: what a frozen encoder knows about labels, beside its floors, with intervals."""

import math

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.charts import interval_chart
from birdjepa.report.confusions import confusions
from birdjepa.report.contents import ProbeResult, ProbeScore, ReportContents
from birdjepa.report.html import Html, note, section, table, tag


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
        chart, _scores(probe), *_layers(probe), *_confusions(probe), *(note(text) for text in probe.notes),
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


def _confusions(probe: ProbeResult) -> list[Html]:
    if probe.confusion is None:
        return [note("No confusion matrix: the result holds none.")]
    parts = tag("div", {"class": "confusions"}, *confusions(probe.confusion, probe.classes))
    return [tag("details", {"open": True}, tag("summary", {}, "Confusions"), parts)]
