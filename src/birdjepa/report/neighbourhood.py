"""The sections of the map and of nearest neighbours: what the encoder puts next to what.

Axes: n points
"""

import collections
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from birdjepa.report.contents import Absent, Agreement, EmbeddingMap, HeardClip, Hit, Query, ReportContents
from birdjepa.report.html import Html, breakable, data_block, note, section, tag
from birdjepa.report.picture import playable
from birdjepa.report.probes import rate

N_COLOURS = 8
SHAPES = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M0-5.2L5.2 0L0 5.2L-5.2 0z", "M0-5L5 4H-5z")
"""Circle, diamond, triangle around 0, 0."""
MAX_CLASSES = N_COLOURS * len(SHAPES)
"""Labels with a mark of their own: class i has colour i mod 8 and shape i mod 3, so that colour is never alone."""
WIDTH, HEIGHT, MARGIN = 760, 560, 16


def map_section(contents: ReportContents) -> Html:
    title = "Map of embeddings"
    lead = "Clouds of one mark say that the encoder sorts by label; two axes show only a part of what it knows."
    made = contents.map
    if isinstance(made, Absent):
        return section("map", title, lead, note(f"No map: {made.reason}."))
    counts = collections.Counter(label for label in made.labels if label)
    classes = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    shown = classes[:MAX_CLASSES]
    places = _place(made.xy)
    groups = [
        _group(i, [k for k, label in enumerate(made.labels) if label == name], places, made)
        for i, name in enumerate(shown)
    ]
    rest = [k for k, label in enumerate(made.labels) if label not in set(shown)]
    said = f"Map of {len(made.labels)} embeddings with {len(classes)} labels"
    svg = tag(
        "svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": said},
        _group(None, rest, places, made), *groups, tag("circle", {"class": "ring", "r": 9, "visibility": "hidden"}),
    )  # fmt: skip
    entries = [_legend_entry(i, name, counts[name]) for i, name in enumerate(shown)]
    if rest:
        what = "no label" if len(classes) <= MAX_CLASSES else f"{len(classes) - len(shown)} more labels, or none"
        entries.append(_legend_entry(None, what, len(rest)))
    block = data_block(
        "map-data",
        {
            "x": [round(float(x), 1) for x in places[:, 0]],
            "y": [round(float(y), 1) for y in places[:, 1]],
            "label": list(made.labels),
            "recording": list(made.recordings),
            "sound": list(made.heard),
        },
    )
    body = tag("div", {"class": "map"}, svg, tag("div", {"class": "legend"}, *entries))
    return section("map", title, lead, body, _map_origin(made), block)


def neighbours_section(contents: ReportContents) -> Html:
    title = "Nearest neighbours"
    lead = "Listen whether what lies nearest in other recordings is the same kind of sound, whatever the label says."
    if isinstance(contents.queries, Absent):
        return section("neighbours", title, lead, note(f"No neighbours: {contents.queries.reason}."))
    rows = [_query(query, contents.heard) for query in contents.queries]
    agreement = contents.map.agreement if isinstance(contents.map, EmbeddingMap) else None
    found = [tag("p", {"class": "finding"}, _agreement(agreement))] if agreement else []
    origin = (
        "Left the query, then its neighbours with the cosine of their standardised embeddings. Other recordings are "
        "those of another group, as the manifest's column of that name tells (the recording itself where it is empty). "
        "✓ same label, ✗ another label, no mark where one is missing. One query of each label as far as there is room, "
        "drawn by the seed. All clips are brought to one loudness."
    )
    return section("neighbours", title, lead, *found, tag("div", {"class": "queries"}, *rows), note(origin))


def _place(xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Into the picture, at one scale for both axes."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    scale = min((WIDTH - 2 * MARGIN) / span[0], (HEIGHT - 2 * MARGIN) / span[1])
    centred = (xy - (low + high) / 2) * scale
    return np.stack((WIDTH / 2 + centred[:, 0], HEIGHT / 2 - centred[:, 1]), axis=1)


def _group(number: int | None, points: Sequence[int], places: Float[np.ndarray, "n 2"], made: EmbeddingMap) -> Html:
    """The points of a label; those that can be heard have an outline."""
    shape = SHAPES[0] if number is None else SHAPES[number % len(SHAPES)]
    marks = [
        tag(
            "path",
            {
                "class": "heard" if made.heard[k] is not None else None,
                "d": shape,
                "transform": f"translate({places[k, 0]:.1f} {places[k, 1]:.1f})",
            },
        )
        for k in points
    ]
    kind = "other" if number is None else f"c{number % N_COLOURS}"
    return tag("g", {"class": f"points {kind}", "data-class": "other" if number is None else number}, *marks)


def _legend_entry(number: int | None, name: str, count: int) -> Html:
    kind = "other" if number is None else f"c{number % N_COLOURS}"
    shape = SHAPES[0] if number is None else SHAPES[number % len(SHAPES)]
    mark = tag("svg", {"viewBox": "-7 -7 14 14", "aria-hidden": "true"}, tag("path", {"class": kind, "d": shape}))
    attributes = {"type": "button", "data-class": "other" if number is None else number, "aria-pressed": "false"}
    return tag("button", attributes, mark, tag("span", {}, breakable(name)), tag("small", {}, str(count)))


def _map_origin(made: EmbeddingMap) -> Html:
    n = len(made.labels)
    drawn = n + made.n_refused
    rows = f"All {drawn} rows" if drawn == made.n_rows else f"{drawn} of {made.n_rows} rows, drawn by the seed,"
    rows += f" but {made.n_refused} that could not be read," if made.n_refused else ""
    first, second = made.explained
    heard = sum(number is not None for number in made.heard)
    return note(
        f"{rows} embedded by encoder/ (pooling {made.pooling}), at most one clip each: of a longer recording the "
        f"middle. Principal components of the standardised embeddings: {first:.0%} of the variance across, "
        f"{second:.0%} upwards; the same scale on both axes, whose directions mean nothing. Point at a mark to read "
        f"it; the {heard} outlined ones play on a click. A click in the legend singles a label out."
    )


def _query(query: Query, heard: Sequence[HeardClip]) -> Html:
    clip = heard[query.heard]
    asked = tag("figure", {"class": "query"}, playable(clip, query.heard), _caption(clip, None))
    hits = [
        tag("figure", {"class": "hit"}, playable(heard[hit.heard], hit.heard), _caption(heard[hit.heard], hit))
        for hit in query.hits
    ]
    if not hits:
        hits = [note("no recording of another group")]
    return tag("div", {"class": "row"}, asked, *hits)


def _caption(clip: HeardClip, hit: Hit | None) -> Html:
    label = breakable(clip.label or "no label")
    path = tag("span", {"class": "path", "title": clip.recording}, clip.recording.rsplit("/", 1)[-1])
    if hit is None:
        return tag("figcaption", {}, tag("b", {}, label), path)
    marks = {True: ("right", "✓", "same label"), False: ("wrong", "✗", "another label"), None: ("unknown", "", "")}
    kind, sign, said = marks[hit.same]
    mark = tag("span", {"class": f"mark {kind}", "role": "img", "aria-label": said}, sign) if sign else ""
    return tag(
        "figcaption",
        {},
        tag("b", {"class": kind}, mark, label),
        tag("span", {"class": "cosine"}, f"{hit.similarity:.2f}"),
        path,
    )


def _agreement(agreement: Agreement) -> str:
    return (
        "The nearest neighbour from another recording has the same label for "
        f"{rate(agreement.rate)} of the {agreement.n} rows whose label occurs in others at all "
        f"(95% interval over recordings); drawn at random it would for {agreement.chance:.3f}."
    )
