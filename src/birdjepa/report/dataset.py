"""A data set as one HTML page: lengths, formats, levels, labels, parts and what they share, examples as pictures."""

from collections.abc import Mapping, Sequence

import numpy as np

from birdjepa.audio.logmel import band_centres
from birdjepa.data.stats import QUIET_DB, DataStats, Example, Parts
from birdjepa.report.bars import bar_list, histogram, ranks
from birdjepa.report.build import page
from birdjepa.report.html import Html, breakable, join, note, paragraph, section, table, tag
from birdjepa.report.picture import legend, levels, spectrogram

MOST_BARS = 40
"""Classes that are listed one by one; of more, the first and the last half of these."""
MOST_REFUSED = 200
SHOWN_SIZE = (240, 96)
"""Most columns and rows of an example's picture."""


def dataset_page(stats: DataStats) -> str:
    """The page. The same figures give the same bytes."""
    parts = [_recordings(stats), _levels(stats), _labels(stats)]
    if stats.parts:
        parts.append(_parts(stats.parts))
    parts += [_examples(stats), _refused(stats)]
    kicker = tag("p", {"class": "kicker"}, "birdjepa data stats")
    head = tag("header", {}, kicker, tag("h1", {}, breakable(stats.name)), *_warnings(stats), _tiles(stats))
    footer = tag("footer", {}, "Made by birdjepa data stats. This page is one file: it asks nothing of the network.")
    return page(f"{stats.name} · birdjepa data", (head, tag("main", {}, *parts), footer))


def warnings(stats: DataStats) -> list[str]:
    """What should be looked at before this data set is used, a sentence each."""
    told = []
    for part in stats.parts:
        if part.n_crossing:
            told.append(
                f"{part.n_crossing:,} groups lie in several values of {part.column!r} ({part.n_crossing_rows:,} rows): "
                "scores across it are too good."
            )
    if len(stats.sampling_rates) > 1:
        rates = ", ".join(f"{rate} ({n:,})" for rate, n in list(stats.sampling_rates.items())[:4])
        told.append(f"Sampling rates differ: {rates}. Above the lowest one's half, recordings can be told by it.")
    if stats.rare:
        told.append(f"{len(stats.rare):,} of {len(stats.labels):,} classes have fewer than {stats.config.few} rows.")
    loudness = stats.loudness
    if loudness.n and loudness.n_clipped > 0.05 * loudness.n:
        told.append(f"{loudness.n_clipped / loudness.n:.0%} of the stretches listened to are clipped.")
    if loudness.n_silent:
        told.append(f"{loudness.n_silent:,} of the {loudness.n:,} stretches listened to are digital silence.")
    if stats.refused:
        told.append(f"{len(stats.refused):,} rows or recordings could not be used.")
    return told


def length_text(seconds: float) -> str:
    """Seconds as they are best read."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min" if seconds < 7200 else hours_text(seconds)


def hours_text(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _warnings(stats: DataStats) -> list[Html]:
    found = warnings(stats)
    if not found:
        return [tag("p", {"class": "verdict"}, "Nothing odd was found.")]
    return [tag("ul", {"class": "verdict"}, *(tag("li", {}, each) for each in found))]


def _tiles(stats: DataStats) -> Html:
    about = "" if len(stats.duration_s) == stats.n_recordings else "≈ "
    tiles = [(f"{stats.n_recordings:,}", "recordings")]
    if stats.n_rows != stats.n_recordings:
        tiles.append((f"{stats.n_rows:,}", "rows (segments)"))
    tiles.append((about + hours_text(3600 * stats.hours), "of sound"))
    if stats.labels:
        tiles.append((f"{len(stats.labels):,}", "classes"))
    return tag(
        "div", {"class": "tiles"}, *(tag("div", {}, tag("b", {}, n), tag("span", {}, told)) for n, told in tiles)
    )


def _recordings(stats: DataStats) -> Html:
    figures = [
        _figure("Length of recordings", histogram(stats.duration_s, "length of recordings", length_text, log=True)),
        _figure("Sampling rates", bar_list(stats.sampling_rates)),
        _figure("Containers, codecs, channels", join((bar_list(stats.formats), bar_list(_channels(stats.channels))))),
    ]
    lead = "Lengths that differ by orders of magnitude, or several rates, ask for a look at what goes with them."
    read = "all" if stats.n_headers + len(stats.refused) >= stats.n_recordings else "a sample of"
    told = f"Lengths from the {stats.durations_from}; the rest from {read} headers ({stats.n_headers:,} were read)."
    return section("recordings", "Recordings", lead, tag("div", {"class": "charts"}, *figures), note(told))


def _channels(counts: Mapping[str, int]) -> dict[str, int]:
    names = {"1": "mono", "2": "stereo"}
    return {names.get(n, f"{n} channels"): count for n, count in counts.items()}


def _levels(stats: DataStats) -> Html:
    found = stats.loudness
    lead = "Levels far apart are no harm in themselves, but silence and clipped sound teach nothing."
    figures = [
        _figure("Level (RMS)", histogram(found.rms_db, "level", _decibels)),
        _figure("Peak", histogram(found.peak_db, "peak", _decibels)),
    ]
    rows = (
        ("stretches listened to", f"{found.n:,} of {stats.config.level_s:g} s at most, one of each recording drawn"),
        ("digital silence", f"{found.n_silent:,}"),
        ("clipped: they stick to full scale", f"{found.n_clipped:,}"),
        (f"frames of 20 ms below {QUIET_DB:g} dB", f"{found.quiet:.1%}"),
    )
    unit = note("In decibels of full scale: a sine of full scale has a level of -3 dB.")
    return section("levels", "Levels", lead, tag("div", {"class": "charts"}, *figures), table(("", ""), rows), unit)


def _labels(stats: DataStats) -> Html:
    title, lead = "Labels", "A long tail is usual; the rare classes decide a macro average."
    if not stats.labels:
        return section("labels", title, lead, note("There are no labels."))
    few = stats.config.few
    counts = list(stats.labels.items())
    told = (
        f"{len(counts):,} classes over {stats.n_rows - stats.n_unlabelled:,} labelled rows; {len(stats.rare):,} "
        f"classes with fewer than {few} rows; {stats.n_unlabelled:,} rows without a label, {stats.n_multilabel:,} with "
        "several."
    )
    if len(counts) <= MOST_BARS:
        return section("labels", title, lead, paragraph(told), _figure("Rows of each class", bar_list(stats.labels)))
    rank = _figure("Rows of each class, the commonest first", ranks(list(stats.labels.values()), "rows of each class"))
    half = MOST_BARS // 2
    ends = (
        _figure(f"The {half} commonest", bar_list(dict(counts[:half]))),
        _figure(f"The {half} rarest", bar_list(dict(counts[-half:]), most=counts[0][1])),
    )
    everything = tag(
        "details",
        {},
        tag("summary", {}, f"All {len(counts):,} classes"),
        note(", ".join(f"{label} ({n:,})" for label, n in counts)),
    )
    shown = tag("div", {"class": "charts"}, rank, *ends)
    return section("labels", title, lead, paragraph(told), shown, everything)


def _parts(parts: Sequence[Parts]) -> Html:
    lead = "A group (bird, site, recording) in two parts leaks; a class that training lacks cannot be learnt."
    return section("parts", "Splits and folds", lead, *(each for part in parts for each in _part(part)))


def _part(part: Parts) -> list[Html]:
    name = {"split": "Splits", "fold": "Folds"}.get(part.column, part.column)
    header = (part.column, "rows", "groups", "classes")
    rows = [
        (value or "(none)", f"{n:,}", f"{part.groups[value]:,}", f"{part.classes[value]:,}")
        for value, n in part.rows.items()
    ]
    shown = [tag("h3", {}, name), table(header, rows, numeric=(1, 2, 3))]
    if part.n_crossing:
        named = [(group, ", ".join(values)) for group, values in part.crossing]
        summary = f"{part.n_crossing:,} groups lie in several ({part.n_crossing_rows:,} rows): leakage"
        more = [note(f"and {part.n_crossing - len(named):,} more")] if part.n_crossing > len(named) else []
        shown.append(
            tag("details", {}, tag("summary", {}, summary), table(("group", f"its {part.column}s"), named), *more)
        )
    else:
        shown.append(note(f"No group lies in two of them: no leakage by {part.column}."))
    values = [value for value in part.rows if value and part.classes[value]]
    if part.shared and len(values) > 1:
        cells = [(one, *("·" if one == other else _share(part, one, other) for other in values)) for one in values]
        caption = "Classes of the row's part that the column's part has too"
        shown.append(table(("", *values), cells, numeric=range(1, len(values) + 1), caption=caption))
    return shown


def _share(part: Parts, one: str, other: str) -> str:
    shared, n = part.shared[one, other], part.classes[one]
    return f"{shared:,} ({shared / n:.0%})"


def _examples(stats: DataStats) -> Html:
    lead = "Does each class look like itself, and unlike the others? Odd ones are often wrong labels."
    title = "Examples"
    if not stats.examples:
        return section("examples", title, lead, note("No example could be read."))
    by_label: dict[str, list[Example]] = {}
    for example in stats.examples:
        by_label.setdefault(example.label, []).append(example)
    shown = []
    for label, examples in by_label.items():
        n = f"{stats.labels[label]:,} rows" if label else ""
        heading = [tag("h3", {}, label, " ", tag("span", {"class": "soft"}, n))] if label else []
        shown += [*heading, tag("div", {"class": "examples"}, *map(_example, examples))]
    config = stats.front_end
    centres = band_centres(config) / 1000
    low, high = float(centres[0]), float(centres[-1])
    cut = any(np.isnan(each.frames).any() for each in stats.examples)
    told = note(
        f"{stats.config.example_s:g} s each, {low:.2g} to {high:.3g} kHz (mel) upwards, each with shades of its own: ",
        legend(hidden=cut),
        f"{' (the recording has ended)' if cut else ''}. Lines mark a labelled segment.",
    )
    return section("examples", title, lead, told, *shown)


def _example(example: Example) -> Html:
    name = example.recording.rpartition("/")[2]
    alt = f"Spectrogram of {example.label or 'a recording'}: {name} from {example.start_s:.1f} s"
    edges = []
    if example.span is not None:
        first, last = (100 * share for share in example.span)
        edges = [tag("i", {"class": "span", "style": f"left:{first:.2f}%;width:{max(0.5, last - first):.2f}%"})]
    image = spectrogram(example.frames, levels(example.frames), alt, most=SHOWN_SIZE)
    caption = tag("figcaption", {"title": example.recording}, name)
    return tag("figure", {"class": "example"}, tag("div", {}, image, *edges), caption)


def _refused(stats: DataStats) -> Html:
    lead = "What could not be read or made no sense; birdjepa data scan looks into every file."
    if not stats.refused:
        return section("refused", "Refused", lead, note("Nothing was refused among what was looked at."))
    shown = stats.refused[:MOST_REFUSED]
    more = [note(f"and {len(stats.refused) - len(shown):,} more")] if len(stats.refused) > len(shown) else []
    return section("refused", "Refused", lead, table(("what", "reason"), [(breakable(a), b) for a, b in shown]), *more)


def _figure(title: str, drawn: Html) -> Html:
    return tag("figure", {"class": "plot"}, tag("b", {}, title), drawn)


def _decibels(value: float) -> str:
    return f"{value:.0f}"
