"""Any label file to labels: its content tells the format, unless it is named."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from birdjepa.audio.labels.audacity import read_audacity
from birdjepa.audio.labels.birdnet import read_birdnet
from birdjepa.audio.labels.koumura import RateOf, read_koumura
from birdjepa.audio.labels.label import Label, Recordings, text_of
from birdjepa.audio.labels.notmat import read_notmat
from birdjepa.audio.labels.raven import read_raven
from birdjepa.audio.labels.tables import first_line, read_table
from birdjepa.audio.labels.textgrid import read_textgrid
from birdjepa.core.errors import LabelError

Format = Literal["raven", "audacity", "csv", "birdnet", "textgrid", "notmat", "koumura"]

SUFFIXES = (".txt", ".tsv", ".csv", ".textgrid", ".mat", ".xml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """What a label file does not say by itself."""

    format: Literal["auto", Format] = "auto"
    """auto tells it from the content."""
    column: str = ""
    """Column of a table that holds the label, such as "Scientific name" of BirdNET's; empty takes the format's own."""
    tier: str = ""
    """Tier of a TextGrid, by its name; empty takes the only one that holds labels."""
    sampling_rate: float = 0.0
    """Rate in Hz of the recordings of an Annotation.xml, which counts in samples; 0 asks the recordings, where they are
    named."""

    def __post_init__(self) -> None:
        if not 0 <= self.sampling_rate < float("inf"):
            raise ValueError(f"sampling_rate must be 0 or positive, got {self.sampling_rate} Hz")


def read_labels(path: Path | str, config: LabelsConfig | None = None) -> list[Label]:
    """Labels of one recording, in the file's order; see `read_recordings`.

    Raises:
      LabelError: as `read_recordings`, or if the file holds labels of several recordings.
    """
    found = read_recordings(path, config)
    if len(found) > 1:
        raise LabelError(str(path), 0.0, f"labels of {len(found)} recordings in one table: write one for each")
    return next(iter(found.values()), [])


def read_recordings(
    path: Path | str, config: LabelsConfig | None = None, *, rate_of: RateOf | None = None
) -> Recordings:
    """Labels by recording, named as the file spells it, or "" where it does not say; empty where it holds no label and
    names no recording.

    The content tells the format: MATLAB's and Praat's by how they begin, XML by its root, tables by their columns
    ("Begin Time (s)" is Raven's, "Start (s)" BirdNET's, onset_s a plain table), and a .txt without any of these is
    Audacity's. UTF-8 byte order marks are passed over, and names of columns are read in any case.

    Raises:
      LabelError: naming the line, if the file is none of these, a number is none (or has a decimal comma), or times are
        not 0 <= onset <= offset.
    """
    path, config = Path(path), config or LabelsConfig()
    if config.format == "auto" and path.suffix.lower() not in SUFFIXES:
        raise LabelError(str(path), 0.0, f"labels are read from {', '.join(SUFFIXES)} files, or name their format")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabelError(str(path), 0.0, f"cannot be read: {error.strerror}") from None
    form = _told(path, data) if config.format == "auto" else config.format
    if form == "notmat":
        return read_notmat(path, data)
    if form == "textgrid":
        return read_textgrid(path, data, config.tier)
    if form == "audacity":
        return read_audacity(path, data)
    if form == "koumura":
        return read_koumura(path, data, rate_of or _rate(path, config))
    readers = {"raven": read_raven, "birdnet": read_birdnet, "csv": read_table}
    return readers[form](path, data, config.column)


def _told(path: Path, data: bytes) -> Format:
    suffix = path.suffix.lower()
    if suffix == ".mat" or data.startswith((b"MATLAB ", b"\x89HDF")):
        return "notmat"
    if suffix == ".textgrid" or b"ooTextFile" in data[:100].replace(b"\0", b""):
        return "textgrid"
    if suffix == ".xml":
        return "koumura"
    first = first_line(text_of(path, data))
    header = {cell.strip() for cell in re.split("[\t,;]", first)}
    if "begin time (s)" in header:
        return "raven"
    if {"start (s)", "end (s)"} <= header or {"filepath", "start", "end", "scientific_name"} <= header:
        return "birdnet"
    return "audacity" if suffix == ".txt" and "onset_s" not in header else "csv"


def _rate(path: Path, config: LabelsConfig) -> RateOf:
    if not config.sampling_rate:
        reason = "counts in samples: say the sampling rate of its recordings (--sampling-rate), or name them"
        raise LabelError(str(path), 0.0, reason)
    return lambda name: config.sampling_rate
