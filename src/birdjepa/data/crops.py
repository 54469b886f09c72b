"""Where in a recording a clip is taken, and what becomes of one that is too short.

Axes: s audio samples
"""

import math
import re
from typing import Literal

import numpy as np
from jaxtyping import Float

from birdjepa.audio import decode
from birdjepa.audio.recording import Recording

Where = Literal["anywhere", "energy", "events"]
Short = Literal["repeat", "silence", "skip"]
SEARCHED = 3
"""Clip lengths among which the liveliest clip is looked for."""
_FRAME_S = 0.02
_NUMBER = r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
_EVENT = re.compile(f"{_NUMBER}-{_NUMBER}")


def take(
    recording: Recording,
    sampling_rate: int,
    chance: np.random.Generator,
    *,
    clip_s: float,
    onset_s: float,
    offset_s: float,
    channel: int | None,
    where: Where,
    events: str,
) -> Float[np.ndarray, " s"]:
    """A stretch of clip_s seconds inside [onset_s, offset_s), or around it where that is shorter; less only where the
    recording is shorter. With several events one is drawn, and the stretch contains it, or lies within it.

    Raises:
      AudioError: as `decode.read_clip`.
    """
    length_s = recording.info().duration_s
    if where == "events" and (spans := parse_events(events)):
        onset_s, offset_s = _widened(*spans[int(chance.integers(len(spans)))], onset_s, offset_s, length_s, clip_s)
    if where == "energy":
        first, last = room(length_s, onset_s, offset_s, SEARCHED * clip_s)
        searched = recording.crop(
            round(chance.uniform(first, last) * recording.sampling_rate),
            round(SEARCHED * clip_s * recording.sampling_rate),
            channel,
        )
        n_clip = round(clip_s * recording.sampling_rate)
        start = liveliest(searched, n_clip, recording.sampling_rate)
        chosen = searched[start : start + n_clip]
        n_out = round(clip_s * sampling_rate) if len(chosen) == n_clip else None
        return decode.resample(chosen, recording.sampling_rate, sampling_rate, n_out)
    first, last = room(length_s, onset_s, offset_s, clip_s)
    offset = chance.uniform(first, last)
    return decode.clip_of(recording, sampling_rate, offset_s=offset, duration_s=clip_s, channel=channel)


def room(length_s: float, onset_s: float, offset_s: float, clip_s: float) -> tuple[float, float]:
    """First and last start of a clip in seconds: inside [onset, offset), or around it where that is shorter than the
    clip, as far as the recording goes. offset_s is NaN for "up to the end".
    """
    end_s = length_s if np.isnan(offset_s) else min(offset_s, length_s)
    inside = (onset_s, end_s - clip_s) if end_s - onset_s >= clip_s else (end_s - clip_s, onset_s)
    latest = max(0.0, length_s - clip_s)
    first, last = min(max(0.0, inside[0]), latest), min(max(0.0, inside[1]), latest)
    return first, max(first, last)  # rounding may turn equal ones round


def parse_events(text: str) -> list[tuple[float, float]]:
    """Stretches of "onset-offset;onset-offset" in seconds; those that make no sense are none."""
    spans = []
    for part in text.split(";"):
        found = _EVENT.fullmatch(part)
        span = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if span[0] < span[1] < math.inf:
            spans.append(span)
    return spans


def liveliest(samples: Float[np.ndarray, " s"], n_clip: int, sampling_rate: int) -> int:
    """First sample of the stretch of n_clip samples in which most sounds.

    Measured is how far the power of the first difference (which passes over wind and hum) lies above its median, in
    decibels, frame by frame of 20 ms: a long faint song counts for more than one click.
    """
    hop = max(1, round(_FRAME_S * sampling_rate))
    n_frames = (len(samples) - 1) // hop
    if n_frames < 2 or len(samples) <= n_clip:
        return 0
    power = np.square(np.diff(samples[: n_frames * hop + 1])).reshape(n_frames, hop).mean(axis=1)
    level = 10 * np.log10(power + 1e-12)
    excess = np.maximum(level - np.median(level), 0.0)
    total = np.concatenate(([0.0], np.cumsum(excess)))
    n_inside = min(n_frames, max(1, n_clip // hop))
    sums = total[n_inside:] - total[:-n_inside]
    return min(int(np.argmax(sums)) * hop, len(samples) - n_clip)


def fill(clip: Float[np.ndarray, " _"], n_samples: int, short: Short) -> Float[np.ndarray, " s"]:
    """A clip of exactly n_samples: longer ones are cut, shorter ones repeated or followed by zeros."""
    if len(clip) >= n_samples:
        return clip[:n_samples]
    if short == "silence":
        return np.concatenate((clip, np.zeros(n_samples - len(clip), dtype=clip.dtype)))
    return np.resize(clip, n_samples)


def _widened(
    first_s: float, last_s: float, onset_s: float, offset_s: float, length_s: float, clip_s: float
) -> tuple[float, float]:
    """Bounds for a clip around an event, within those of its segment: an event shorter than the clip lies in it
    whole."""
    if last_s - first_s >= clip_s:
        return first_s, last_s
    end_s = length_s if math.isnan(offset_s) else offset_s
    return max(onset_s, last_s - clip_s), min(end_s, first_s + clip_s)
