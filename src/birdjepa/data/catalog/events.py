"""Stretches of a recording in one cell of a manifest: `0.5-2.25;3-4`, with labels `0.5-2.25-OVEN;3-4-AMRE`.

Seconds from the recording's start, with at most six decimals and never an exponent, so that the first two hyphens of an
event are its only separators and a label may have hyphens of its own.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Event(NamedTuple):
    """A stretch of a recording."""

    onset_s: float
    offset_s: float
    label: str = ""


def seconds(time_s: float) -> str:
    """A time as text: 0.5, 2.25, 12."""
    return f"{time_s:.6f}".rstrip("0").rstrip(".")


def write_events(events: Iterable[Event]) -> str:
    """The cell of some events.

    Raises:
      ValueError: at a time that is no number or negative, or a label with a semicolon.
    """
    return ";".join(map(_written, events))


def read_events(cell: str) -> list[Event]:
    """The events of a cell; none where it is empty.

    Raises:
      ValueError: if it is no such cell.
    """
    return [_read(text) for text in cell.split(";") if text]


def _written(event: Event) -> str:
    for time_s in (event.onset_s, event.offset_s):
        if not math.isfinite(time_s) or time_s < 0:
            raise ValueError(f"an event from {event.onset_s} to {event.offset_s} s")
    if ";" in event.label:
        raise ValueError(f"an event labelled {event.label!r}: ';' stands between events")
    text = f"{seconds(event.onset_s)}-{seconds(event.offset_s)}"
    return f"{text}-{event.label}" if event.label else text


def _read(text: str) -> Event:
    onset, offset, *label = text.split("-", 2)
    return Event(float(onset), float(offset), label[0] if label else "")
