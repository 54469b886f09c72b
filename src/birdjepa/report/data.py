"""The sections of data and of origin: what was learnt from and refused, whose sounds are here; the configuration."""

import collections
import json
import shlex
from collections.abc import Mapping
from typing import Any

from birdjepa.report.contents import HeardClip, ReportContents, SourceSummary
from birdjepa.report.html import Html, breakable, note, section, table, tag

MAX_LABELS = 30
MAX_FAILURES = 200


def data_section(contents: ReportContents, played: list[HeardClip]) -> Html:
    """`played` are the clips that can be heard in the page."""
    title = "Data"
    lead = "Many refused files, or one source at another sampling rate than the rest, explain many an odd result."
    parts = [_sources(contents.sources), _refused(contents)]
    if played:
        parts.append(_played(played))
    return section("data", title, lead, *parts)


def origin_section(contents: ReportContents) -> Html:
    title, lead = "Configuration and origin", "Everything that this run can be made again from."
    provenance = {key: value for key, value in contents.provenance.items() if key not in ("packages", "command")}
    packages = contents.provenance.get("packages")
    rows = [
        ("command", command_of(contents.provenance)),
        *((key, _written(value)) for key, value in provenance.items()),
    ]
    if isinstance(packages, Mapping):
        rows += [(str(name), str(version)) for name, version in packages.items()]
    known = (
        table(("", ""), [(name, tag("code", {}, value)) for name, value in rows if value])
        if contents.provenance
        else None
    )
    config = tag("pre", {}, json.dumps(contents.config, indent=2, ensure_ascii=False))
    return section(
        "origin", title, lead,
        tag("details", {}, tag("summary", {}, "config.json, hash ", tag("code", {}, contents.config_hash)), config),
        tag("details", {}, tag("summary", {}, "provenance.json"), known or note("provenance.json is missing.")),
    )  # fmt: skip


def command_of(provenance: Mapping[str, Any]) -> str:
    """The command line as it can be typed again; empty where nobody noted it."""
    command = provenance.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def _sources(sources: tuple[SourceSummary, ...]) -> Html:
    if not sources:
        return note("Nothing is known of the data: the recordings are not at hand.")
    header = ("source", "recordings", "segments", "hours", "labels", "sampling rates", "licences", "fingerprint")
    rows = [
        (
            breakable(source.name),
            f"{source.n_recordings:,}",
            f"{source.n_rows:,}" if source.n_rows != source.n_recordings else "-",
            f"{'' if source.hours_known else '≈ '}{source.hours:.2f}",
            str(len(source.labels)),
            _rates(source),
            _counts(source.licences) or "not stated",
            tag("code", {}, source.fingerprint or "unknown"),
        )
        for source in sources
    ]
    told = [note(_origin(sources))]
    labelled = [source for source in sources if source.labels]
    if labelled:
        lists = [note(tag("b", {}, source.name), ": ", _counts(source.labels, MAX_LABELS)) for source in labelled]
        told.append(tag("details", {}, tag("summary", {}, "Labels, with the rows of each"), *lists))
    return tag("div", {}, table(header, rows, numeric=(1, 2, 3, 4)), *told)


def _origin(sources: tuple[SourceSummary, ...]) -> str:
    told = "Recordings and labels from the manifests. Rates from the headers"
    partly = [source for source in sources if source.n_looked < source.n_recordings]
    told += " of " + ", ".join(f"{source.n_looked} recordings of {source.name}" for source in partly) if partly else ""
    guessed = any(not source.hours_known for source in sources)
    return told + (". ≈ scaled up from the recordings whose headers were read." if guessed else ".")


def _rates(source: SourceSummary) -> str:
    if not source.sampling_rates:
        return "unknown"
    if len(source.sampling_rates) == 1:
        return f"{next(iter(source.sampling_rates)) / 1000:g} kHz"
    return ", ".join(f"{rate / 1000:g} kHz ({count})" for rate, count in source.sampling_rates.items())


def _refused(contents: ReportContents) -> Html:
    heading = tag("h3", {}, "Refused recordings")
    if not contents.failures:
        met = "" if contents.metrics else ", and none was read yet"
        return tag("div", {}, heading, note(f"None: failures.csv is not there, so the run read all that it drew{met}."))
    kinds = collections.Counter(failure.reason.partition(":")[0] for failure in contents.failures)
    shown = contents.failures[:MAX_FAILURES]
    rows = [(failure.path, failure.stage, failure.reason) for failure in shown]
    more = (
        [note(f"... and {len(contents.failures) - len(shown)} more in failures.csv.")]
        if len(contents.failures) > len(shown)
        else []
    )
    summary = tag("summary", {}, f"{len(contents.failures)} refused: {_counts(dict(kinds.most_common()))}")
    opened = {"open": len(shown) <= 12}
    origin = note("From failures.csv, and (stage report) what could not be read while this page was made.")
    return tag(
        "div",
        {},
        heading,
        tag("details", opened, summary, table(("recording", "stage", "reason"), rows), *more),
        origin,
    )


def _played(played: list[HeardClip]) -> Html:
    """Whose sounds the page holds: attribution is what most free licences ask for."""
    unique = {(clip.source, clip.recording): clip for clip in played}
    rows = [
        (clip.recording, clip.label, clip.licence or "not stated", clip.attribution or "not stated")
        for clip in unique.values()
    ]
    summary = tag("summary", {}, f"Sounds in this page: {len(rows)} recordings, with licence and attribution")
    told = note("Stretches of these recordings are embedded in this file: mind their licences when you pass it on.")
    return tag("details", {}, summary, told, table(("recording", "label", "licence", "attribution"), rows))


def _counts(counts: Mapping[str, int], most: int = 12) -> str:
    """name (count), the first so many."""
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
