"""What must hold for any file at all, damaged or not, checked inside an isolated worker."""

import random
import tempfile
from pathlib import Path

import numpy as np

from birdjepa.audio.decode import KINDS, read_clip, read_samples, stream_samples
from birdjepa.audio.examine import Examination, examine
from birdjepa.core.errors import AudioError

N_CROPS = 4
TOLERANCE = 1e-6
"""Of full scale: a crop of an MP3 against the whole decode."""


def judge(data: bytes) -> str:
    """`decodes`, the reason of its refusal, or `WRONG ...`: a promise that this file makes us break."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            examined = examine(path, deep=True)
        except AudioError as refusal:
            kind, reason = refusal.reason.split(":")[0], refusal.reason
            if kind not in KINDS or "\n" in reason or len(reason) > 300:
                return f"WRONG reason {reason!r}"
            return _stretches(path, data) or reason
        try:
            return _decoded(path, data, examined) or "decodes"
        except AudioError as refusal:
            return f"WRONG refusal of what was examined: {refusal.reason}"


def _decoded(path: Path, data: bytes, examined: Examination) -> str:
    """What is wrong with a file that decodes to its end.

    Where pages of an Ogg file are lost, seeking goes by their time and reading to the end leaves out the gap: crops are
    compared in other files.
    """
    n_samples, rate = examined.n_samples, examined.info.sampling_rate
    whole, _ = read_samples(path)
    n_streamed = sum(map(len, stream_samples(path, 5000)))
    if not len(whole) == n_streamed == n_samples:
        return f"WRONG lengths: {n_samples} examined, {len(whole)} read, {n_streamed} streamed"
    if not _same_in_memory(data, whole):
        return "WRONG in memory: other samples than from the file"
    draw = random.Random(len(data))
    for _ in range(0 if "damaged pages" in examined.notes else N_CROPS):
        start, length = draw.randrange(n_samples), draw.randrange(1, n_samples + 1)
        crop, _ = read_samples(path, start, length)
        due = whole[start : start + length]
        if len(crop) != len(due):
            return f"WRONG crop at {start}: {len(crop)} of {len(due)} samples"
        scale = max(1.0, float(np.abs(whole).max()))
        if not np.allclose(crop, due, atol=TOLERANCE * scale, rtol=0):
            return f"WRONG crop at {start}: off by {np.abs(crop - due).max():g}"
    total_s = n_samples / rate
    return _clip(path, total_s * draw.uniform(0, 0.4), total_s * draw.uniform(0.1, 0.5), total_s)


def _same_in_memory(data: bytes, whole: np.ndarray) -> bool:
    """Bytes decode as the file does; libsndfile refuses some damaged headers only where it reads through callbacks."""
    try:
        return np.array_equal(whole, read_samples(data)[0])
    except AudioError as refusal:
        return refusal.reason.startswith("header:")


def _stretches(path: Path, data: bytes) -> str:
    """What is wrong with stretches of a file that does not decode to its end."""
    draw = random.Random(len(data))
    for _ in range(N_CROPS):
        if told := _clip(path, draw.uniform(0, 0.3), draw.uniform(0.01, 0.2), 0.0):
            return told
    return ""


def _clip(path: Path, offset_s: float, duration_s: float, total_s: float) -> str:
    """A stretch has the promised number of samples, or fewer at the recording's end, or is an AudioError."""
    try:
        clip = read_clip(path, 16_000, offset_s=offset_s, duration_s=duration_s)
    except AudioError as error:
        return f"WRONG clip: {error.reason}" if total_s else ""
    due = round(duration_s * 16_000)
    whole = total_s == 0 or offset_s + duration_s < total_s
    if len(clip) > due or (whole and total_s and len(clip) != due) or not np.isfinite(clip).all():
        return f"WRONG clip at {offset_s:g} s: {len(clip)} of {due} samples"
    return ""
