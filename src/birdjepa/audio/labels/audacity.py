"""Audacity label tracks: start, end and text between tabs, and a second line for the frequencies where they are known.

The second line begins with a backslash; Audacity writes it for spectral selections.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from birdjepa.audio.labels.label import Label, Recordings, label_of, number_of, one_line, text_of, writable
from birdjepa.core import files
from birdjepa.core.errors import LabelError

_SCORED = re.compile(r"(.*) (-?\d+\.\d{4})", re.DOTALL)
"""A score within Audacity's text is told from a label that ends in a number by its four decimals."""


def write_audacity(path: Path | str, labels: Iterable[Label]) -> None:
    """Replaces path with an Audacity label track: start, end and text between tabs, in the order given.

    A known score is the text's last word, with four decimals. Labels with a known frequency have Audacity's second line
    for it, where -1 stands for an edge that is not known. Tabs and line breaks in labels become spaces.

    Raises:
      ValueError: if a label's times are not finite with 0 <= onset_s <= offset_s.
    """
    lines = []
    for label in writable(labels):
        score = "" if math.isnan(label.score) else f" {label.score:.4f}"
        lines.append(f"{label.onset_s:.9f}\t{label.offset_s:.9f}\t{one_line(label.label)}{score}\n")
        edges = ["-1" if math.isnan(hz) else f"{hz:.3f}" for hz in (label.low_hz, label.high_hz)]
        if edges != ["-1", "-1"]:
            lines.append("\\\t" + "\t".join(edges) + "\n")
    files.write_text(path, "".join(lines))


def read_audacity(path: Path, data: bytes) -> Recordings:
    """Labels of a track, which does not say its recording. The text is taken as label and score where it ends in a
    number with four decimals, as write_audacity puts it; BirdNET has a fourth cell for it.
    """
    labels: list[Label] = []
    for number, line in enumerate(text_of(path, data).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if cells[0] == "\\":
            if len(cells) != 3 or not labels:
                raise LabelError(str(path), 0.0, f"line {number} is no line of frequencies that follows a label")
            low_hz, high_hz = (number_of(path, number, "frequency", cell) for cell in cells[1:])
            labels[-1] = labels[-1]._replace(low_hz=_edge(low_hz), high_hz=_edge(high_hz))
            continue
        if not 2 <= len(cells) <= 4:
            raise LabelError(str(path), 0.0, f"line {number} is not start, end and label between tabs")
        onset, offset, label, score = cells + [""] * (4 - len(cells))
        scored = _SCORED.fullmatch(label)
        if scored and not score:
            label, score = scored.groups()
        labels.append(label_of(path, number, {"onset_s": onset, "offset_s": offset, "label": label, "score": score}))
    return {"": labels}


def _edge(hz: float) -> float:
    """Audacity writes -1 for a frequency that is not known."""
    return math.nan if hz < 0 else hz
