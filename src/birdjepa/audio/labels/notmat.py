"""`x.cbin.not.mat` and `x.wav.not.mat`: segments and one-letter labels beside each song, of evTAF's evsonganaly.

Times are in milliseconds from the start of the recording; letter i of `labels` belongs to segment i ("-" and "0" are
how labs mark what has no label, and are kept). evsonganaly pairs such a file with the recording by its own name alone,
and so do we: `fname` often names a folder of another machine.

Source: evsonganaly.m (SaveNotMatData, PlotDataFile, and the settings in its OpeningFcn).
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from birdjepa.audio.labels.label import Label, Recordings, ordered, writable
from birdjepa.audio.labels.matlab import Variable, mat_file, read_variables
from birdjepa.core import files
from birdjepa.core.errors import LabelError

SETTINGS = {"min_int": 5.0, "min_dur": 30.0, "threshold": 4000.0, "sm_win": 2.0}
"""evsonganaly's own defaults for finding segments (ms, ms, amplitude, ms); it cannot open a file without them."""


def write_notmat(path: Path | str, labels: Iterable[Label], *, recording: str, sampling_rate: float) -> None:
    """Replaces path with a .not.mat file, in the order of time.

    evsonganaly has no place for scores and frequencies, and segments it anew with its default settings if asked to.

    Raises:
      ValueError: if a label is not one letter, segments overlap, or the sampling rate is not positive; and if times are
        not finite with 0 <= onset_s <= offset_s.
    """
    if not sampling_rate > 0:
        raise ValueError(f"sampling_rate must be positive, got {sampling_rate}")
    found = sorted(writable(labels), key=lambda label: label.onset_s)
    for label, following in itertools.pairwise(found):
        if following.onset_s < label.offset_s:
            raise ValueError(f"labels overlap at {following.onset_s:g} s, which evsonganaly cannot show")
    for label in found:
        if len(label.label) != 1:
            raise ValueError(f"evsonganaly's labels are one letter, that at {label.onset_s:g} s is {label.label!r}")
    times = np.array([(label.onset_s, label.offset_s) for label in found], np.float64).reshape(-1, 2) * 1000
    variables = {
        "fname": recording,
        "Fs": float(sampling_rate),
        "labels": "".join(label.label for label in found),
        "onsets": times[:, 0],
        "offsets": times[:, 1],
        **SETTINGS,
    }
    files.write_bytes(path, mat_file(variables))


def read_notmat(path: Path, data: bytes) -> Recordings:
    """Labels of a .not.mat file."""
    variables = read_variables(path, data)
    onsets_ms, offsets_ms = (_numbers(path, variables, name) for name in ("onsets", "offsets"))
    letters = variables.get("labels", "")
    if not isinstance(letters, str):
        if len(letters):
            raise LabelError(str(path), 0.0, "labels is no text")
        letters = ""
    if not len(onsets_ms) == len(offsets_ms) == len(letters):
        counts = f"{len(onsets_ms)} onsets, {len(offsets_ms)} offsets and {len(letters)} labels"
        raise LabelError(str(path), 0.0, f"{counts}: open it in evsonganaly, label it again and save it")
    segments = zip((onsets_ms / 1000).tolist(), (offsets_ms / 1000).tolist(), letters, strict=True)
    return {
        "": [
            ordered(path, f"segment {number}", Label(onset_s, offset_s, letter))
            for number, (onset_s, offset_s, letter) in enumerate(segments, start=1)
        ]
    }


def _numbers(path: Path, variables: dict[str, Variable], name: str) -> np.ndarray:
    value = variables.get(name)
    if value is None or isinstance(value, str):
        there = ", ".join(variables) or "nothing that is read"
        raise LabelError(str(path), 0.0, f"a .not.mat file needs onsets, offsets and labels; it has {there}")
    return value
