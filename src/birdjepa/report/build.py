"""Report contents into one HTML file that needs nothing else: style, script, pictures and sounds are inside it.

A content security policy in the page forbids every request, and every script but our own.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path

from birdjepa.core import files
from birdjepa.report.contents import ReportContents, Seen
from birdjepa.report.curves import curves_section
from birdjepa.report.data import data_section, origin_section
from birdjepa.report.header import header
from birdjepa.report.html import Html, data_block, join, tag
from birdjepa.report.neighbourhood import map_section, neighbours_section
from birdjepa.report.probes import probes_section
from birdjepa.report.samples import heard_of, samples_section
from birdjepa.report.seen import seen_section
from birdjepa.report.sound import sound_uri

FILE = "report.html"
PLACES = (
    ("curves", "Training"),
    ("probe", "Probe"),
    ("views", "What it saw"),
    ("samples", "What it sounds like"),
    ("map", "Map"),
    ("neighbours", "Neighbours"),
    ("data", "Data"),
    ("origin", "Configuration"),
)


def build_report(contents: ReportContents) -> str:
    """The page. The same contents give the same bytes."""
    seen = contents.seen.clips if isinstance(contents.seen, Seen) else ()
    played = [*contents.heard, *(each.clip for each in seen)]
    first_sample = len(played)
    played += heard_of(contents)
    sections = {
        "curves": lambda: curves_section(contents),
        "probe": lambda: probes_section(contents),
        "views": lambda: seen_section(contents, len(contents.heard)),
        "samples": lambda: samples_section(contents, first_sample),
        "map": lambda: map_section(contents),
        "neighbours": lambda: neighbours_section(contents),
        "data": lambda: data_section(contents, played),
        "origin": lambda: origin_section(contents),
    }
    shown = [(place, name) for place, name in PLACES if place not in _left_out(contents)]
    sounds = data_block("sounds", [sound_uri(clip.samples, clip.sampling_rate) for clip in played])
    body = (
        header(contents),
        tag("nav", {"aria-label": "Sections"}, *(tag("a", {"href": f"#{place}"}, name) for place, name in shown)),
        tag("main", {}, *(sections[place]() for place, _ in shown)),
        tag("footer", {}, "Made by birdjepa report. This page is one file: it asks nothing of the network."),
        tag("div", {"id": "tip", "role": "status", "hidden": True}),
        sounds,
    )  # fmt: skip
    return page(f"{contents.name} · birdjepa report", body)


def _left_out(contents: ReportContents) -> set[str]:
    """Sections that say nothing of this kind of run: a codec is heard, and its encoder, which does not learn, has been
    mapped by the run that made it."""
    if contents.reconstructed is None:
        return {"samples"}
    out = {"map", "neighbours"}
    out |= set() if contents.probes else {"probe"}
    return out | ({"views"} if heard_of(contents) else set())


def write_report(folder: Path, contents: ReportContents) -> Path:
    """Writes report.html into a run folder, and returns its path."""
    path = folder / FILE
    files.write_text(path, build_report(contents), durable=False)
    return path


def page(title: str, body: tuple[Html, ...]) -> str:
    """A whole page around its body: one file that asks nothing of the network."""
    style, script = _resource("page.css"), _resource("page.js")
    trusted = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{trusted}'"
    )
    head = tag(
        "head", {}, tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("link", {"rel": "icon", "href": "data:,"}), tag("title", {}, title), tag("style", {}, Html(style)),
    )  # fmt: skip
    return (
        "<!DOCTYPE html>\n"
        + tag("html", {"lang": "en"}, head, tag("body", {}, join(body), tag("script", {}, Html(script))))
        + "\n"
    )


def _resource(name: str) -> str:
    return (resources.files("birdjepa.report") / name).read_text(encoding="utf-8")
