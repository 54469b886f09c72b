"""The head of the page: which run this is, and how it went in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

from birdjepa.report.charts import number
from birdjepa.report.contents import EmbeddingMap, Reconstructed, ReportContents
from birdjepa.report.data import command_of
from birdjepa.report.html import Html, join, tag
from birdjepa.report.probes import rate, verdict


def header(contents: ReportContents) -> Html:
    facts = [(name, value) for name, value in _facts(contents) if value]
    listed = [tag("div", {}, tag("dt", {}, name), tag("dd", {}, value)) for name, value in facts]
    command = command_of(contents.provenance)
    typed = [tag("pre", {"class": "command"}, command)] if command else []
    return tag(
        "header", {}, tag("p", {"class": "kicker"}, "birdjepa report"), tag("h1", {}, contents.name),
        *(tag("p", {"class": "verdict"}, line) for line in verdict_lines(contents)), *_tiles(contents),
        tag("dl", {"class": "facts"}, *listed), *typed,
    )  # fmt: skip


def verdict_lines(contents: ReportContents) -> list[str]:
    """What a hurried reader must know, with intervals where there are any."""
    rows = contents.metrics
    if not rows:
        return ["Nothing was logged yet."]
    steps, wanted = int(rows[-1]["step"]), _setting(contents.config, "train", "steps")
    done = f"{steps} steps" if wanted in (None, steps) else f"{steps} of {wanted} steps: not finished"
    loss = [row["loss"] for row in rows if isinstance(row.get("loss"), int | float)]
    begin = _began(rows)
    joined = f" (adversarial terms joined it at step {begin})" if begin else ""
    lines = [done + (f", loss {number(loss[0])} → {number(loss[-1])}{joined}." if loss else ".")]
    mel = [row["sample_mel"] for row in rows if isinstance(row.get("sample_mel"), int | float)]
    if mel:
        lines.append(f"Mel distance of its samples {number(mel[0])} → {number(mel[-1])}: lower is better, 0 is a copy.")
    alarms = [row for row in rows if row.get("alarm")]
    if alarms:
        times = "1 logged step" if len(alarms) == 1 else f"{len(alarms)} logged steps"
        lines.append(f"Alarm at {times}, last at step {alarms[-1]['step']}: {alarms[-1]['alarm']}.")
    for probe in contents.probes:
        on = f" on {probe.settings['data']}" if "data" in probe.settings else ""
        lines.append(f"Probe{on}: accuracy {rate(probe.scores[0].accuracy)}, {verdict(probe, with_rates=True)}.")
    if contents.reconstructed is not None:
        lines.append("How good it is on other recordings, and beside Griffin-Lim: birdjepa codec eval RUN/codec DATA.")
    elif not contents.probes:
        lines.append("Not probed yet, so nothing is known of its use.")
    return lines


def _tiles(contents: ReportContents) -> list[Html]:
    """Four figures at most, each with what it is."""
    tiles = []
    loss = _last(contents, "loss")
    if loss is not None:
        tiles.append((f"{loss:.3g}", "last loss"))
    mel = _last(contents, "sample_mel")
    if mel is not None:
        tiles.append((f"{mel:.3g}", "mel distance of the samples"))
    made = contents.reconstructed
    if isinstance(made, Reconstructed):
        tiles.append(
            (number(made.rates["nominal_bit_s"]), f"bit/s, {number(made.rates['tokens_per_s'])} packed codes/s")
        )
    rank = _last(contents, "effective_rank")
    if rank is not None and made is None:
        tiles.append((f"{rank:.1f}", "effective rank"))
    if contents.probes and contents.probes[0].scores[0].accuracy is not None:
        tiles.append((f"{contents.probes[0].scores[0].accuracy.value:.1%}", "probe accuracy"))
    if isinstance(contents.map, EmbeddingMap) and contents.map.agreement is not None:
        tiles.append((f"{contents.map.agreement.rate.value:.1%}", "nearest neighbour has the same label"))
    hours = sum(source.hours for source in contents.sources)
    if hours:
        tiles.append(
            (
                f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min",
                f"of sound, {sum(s.n_recordings for s in contents.sources):,} recordings",
            )
        )
    if not tiles:
        return []
    return [
        tag(
            "div",
            {"class": "tiles"},
            *(tag("div", {}, tag("b", {}, value), tag("span", {}, name)) for value, name in tiles),
        )
    ]


def _facts(contents: ReportContents) -> list[tuple[str, str]]:
    provenance = contents.provenance
    packages = provenance.get("packages")
    torch = packages.get("torch", "") if isinstance(packages, Mapping) else ""
    cores = provenance.get("n_cores")
    encoder = contents.config.get("encoder")
    if isinstance(encoder, Mapping):
        kind = str(encoder.get("kind", "")).removesuffix("Config")
        size = f"{kind} {encoder.get('size') or encoder.get('preset') or ''}".strip()
    else:
        size = f"{encoder}, fixed" if encoder and contents.reconstructed is not None else ""
    vocoder = _setting(contents.config, "vocoder", "preset")
    objective = _setting(contents.config, "objective", "kind")
    return [
        ("configuration", contents.config_hash),
        ("objective", str(objective or "").removesuffix("Config").removesuffix("Objective")),
        ("encoder", size),
        ("vocoder", str(vocoder or "")),
        ("seed", str(contents.config.get("seed", ""))),
        ("started", contents.started),
        ("last step", contents.finished),
        (
            "birdjepa",
            join(
                (
                    str(provenance.get("birdjepa", "")),
                    *((" at ", str(provenance["commit"])) if provenance.get("commit") else ()),
                )
            ),
        ),
        ("torch", str(torch)),
        ("machine", f"{provenance.get('cpu', '')}{f', {cores} cores' if cores else ''}".strip(", ")),
    ]


def _began(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The first logged step with adversarial terms, where there were steps without."""
    first = next((row["step"] for row in rows if "adversarial" in row), None)
    return first if any("loss" in row and "adversarial" not in row for row in rows) else None


def _last(contents: ReportContents, name: str) -> float | None:
    return next(
        (float(row[name]) for row in reversed(contents.metrics) if isinstance(row.get(name), int | float)), None
    )


def _setting(config: Mapping[str, Any], *path: str) -> Any:
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
