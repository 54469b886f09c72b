"""Codecs by rate as one HTML page: what each costs, how near its sound is to the original, beside its own floor."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.report.build import page
from birdjepa.report.charts import number
from birdjepa.report.html import note, section, table, tag
from birdjepa.report.points import Across, Point, lines_legend, points_chart

FLOOR = "Griffin-Lim at the frame rate"
SPEECH = ("stoi", "estoi", "pesq_nb", "pesq_wb")
TITLES = {"stoi": "STOI", "estoi": "ESTOI", "pesq_nb": "PESQ nb", "pesq_wb": "PESQ wb"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rated:
    """One codec: a line of the table."""

    name: str
    sampling_rate: int
    frame_hz: float
    tokens_per_s: float
    """Packed codes."""
    nominal_bit_s: float
    entropy_bit_s: float
    """Dimensions coded each by itself."""
    mel: Estimate
    """Mel distance; 0 is a copy."""
    floor: Estimate
    """The same of Griffin-Lim at the codec's frame rate."""
    lead: Estimate
    """Codec minus floor, recording by recording: below 0 is better than the floor."""
    si_sdr_db: Estimate
    speech: dict[str, Estimate]
    """STOI and PESQ, by name; empty where nobody asked for them."""
    encode_speed: float
    """Seconds of sound per second."""
    decode_speed: float

    def to_json(self) -> dict[str, Any]:
        """JSON object; NaN becomes null."""
        estimates = {name: getattr(self, name).to_json() for name in ("mel", "floor", "lead", "si_sdr_db")}
        speech = {name: each.to_json() for name, each in self.speech.items()}
        return {**dataclasses.asdict(self), **estimates, "speech": speech}


def header_of(rows: Sequence[Rated]) -> tuple[str, ...]:
    """Columns of the table; those of speech where a codec has them."""
    speech = (TITLES[name] for name in _speech(rows))
    costs = ("codec", "kHz", "frame Hz", "packed/s", "bit/s", "entropy bit/s")
    return (*costs, "mel distance", "Griffin-Lim's", "codec - Griffin-Lim", "SI-SDR dB", *speech, "enc x", "dec x")


def cells_of(row: Rated, rows: Sequence[Rated]) -> tuple[str, ...]:
    """A row as text, in the order of `header_of`."""
    speech = (row.speech.get(name) for name in _speech(rows))
    return (
        row.name,
        f"{row.sampling_rate / 1000:g}",
        *(f"{value:g}" for value in (row.frame_hz, row.tokens_per_s)),
        *(f"{value:,.0f}" for value in (row.nominal_bit_s, row.entropy_bit_s)),
        *(_interval(each) for each in (row.mel, row.floor, row.lead)),
        _interval(row.si_sdr_db, 1),
        *("" if each is None else _interval(each) for each in speech),
        *(f"{value:.1f}" for value in (row.encode_speed, row.decode_speed)),
    )


def cautions_of(rows: Sequence[Rated]) -> list[str]:
    """What keeps the rows from being compared as they stand."""
    if len({row.sampling_rate for row in rows}) == 1:
        return []
    rates = ", ".join(f"{rate / 1000:g}" for rate in sorted({row.sampling_rate for row in rows}))
    return [
        f"codecs of {rates} kHz: each is judged against the recording at its own rate, so that one of a lower rate has "
        "less to bring back; compare them by how far they lie below their floors"
    ]


def codec_page(rows: Sequence[Rated], described: dict[str, Any]) -> str:
    """The page. The same arguments give the same bytes."""
    names = [*(row.name for row in rows), FLOOR]
    lines = {row.name: [_point(row, row.mel)] for row in rows}
    lines[FLOOR] = sorted(_point(row, row.floor) for row in rows)
    across = Across(
        "bit/s, levels equally likely", {row.nominal_bit_s: f"{row.nominal_bit_s:,.0f}" for row in rows}, True
    )
    chart = points_chart("Mel distance", lines, names, across, share=False)
    head = tag("div", {"class": "chart-head"}, tag("b", {}, "Mel distance"))
    figure = tag("figure", {"class": "chart", "style": "max-width:54rem"}, head, chart, lines_legend(lines, names))
    lead = (
        "Lower and further to the left is better: a small mel distance (0 is a copy) for few bits. A codec that does "
        "not lie below Griffin-Lim at its own frame rate is not worth its codes."
    )
    n_columns = len(header_of(rows))
    scores = table(header_of(rows), [cells_of(row, rows) for row in rows], numeric=range(1, n_columns))
    told = note(
        f"Means over {described['n_recordings']} recordings of {described['data']}, {described['seconds']:,.0f} s, "
        "with 95 % intervals over recordings or their groups; enc x and dec x are seconds of sound per second, on the "
        "machine of each evaluation. bit/s counts all levels as equally likely, entropy bit/s as often as they came "
        "up, each dimension by itself. Mel distance is better lower, SI-SDR, STOI and PESQ higher. A vocoder makes "
        "phases of its own, so its SI-SDR says little."
    )
    cautions = [note(f"Beware: {line}.") for line in cautions_of(rows)]
    body = section("codecs", "Codecs by rate", lead, figure, scores, *cautions, told)
    title = tag("header", {}, tag("h1", {}, "Codecs compared"), tag("p", {"class": "note"}, described["origin"]))
    return page("codecs compared · birdjepa", (title, tag("main", {}, body)))


def _point(row: Rated, estimate: Estimate) -> Point:
    return Point(row.nominal_bit_s, estimate.value, estimate.low, estimate.high)


def _interval(estimate: Estimate, digits: int = 3) -> str:
    told = number(estimate.value) if digits == 3 else f"{estimate.value:.{digits}f}"
    if math.isnan(estimate.low):
        return told
    return str(estimate) if digits == 3 else f"{told} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _speech(rows: Sequence[Rated]) -> list[str]:
    return [name for name in SPEECH if any(name in row.speech for row in rows)]
