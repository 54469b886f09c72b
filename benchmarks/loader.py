"""The loader against the plain way: random 5 s clips out of 60 s recordings, to log-mel frames at 32 kHz, on one core.

python benchmarks/loader.py [--clips 10000 --per-format 20 --batch 32] [--no-record]

Plain: decode the whole file, resample all of it, cut the clip out, log-mel. Ours: `Clips` and `LogMel`, as pretraining
uses them. Recordings are synthetic: 20 each of FLAC, Ogg Vorbis and MP3 at 44.1 and 32 kHz, in a temporary folder.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import soundfile
import soxr
import torch

from birdjepa.audio.logmel import LogMel, LogMelConfig
from birdjepa.core import random
from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.sources import open_data

FORMATS = {"FLAC": "flac", "Ogg Vorbis": "ogg", "MP3": "mp3"}
RATES = (44_100, 32_000)
RECORDING_S = 60
CLIP_S = 5.0
BLOCK = 8_000
"""Vorbis is written in blocks: libsndfile's encoder crashes on long writes."""


def write_recordings(folder: Path, suffix: str, sampling_rate: int, n: int) -> None:
    """n recordings of chirps in pink-ish noise."""
    time_s = np.arange(RECORDING_S * sampling_rate) / sampling_rate
    for number in range(n):
        rng = random.generator(0, "loader benchmark", number)
        noise = np.cumsum(rng.standard_normal(len(time_s)))
        noise -= np.convolve(noise, np.ones(64) / 64, mode="same")
        chirp = np.sin(2 * np.pi * (3000 + 800 * np.sin(2 * np.pi * rng.uniform(3, 9) * time_s)) * time_s)
        samples = (0.02 * noise + 0.2 * chirp * (np.sin(2 * np.pi * 0.5 * time_s) > 0)).astype(np.float32)
        path = folder / f"{number:03d}.{suffix}"
        with soundfile.SoundFile(path, "w", sampling_rate, 1) as file:
            for start in range(0, len(samples), BLOCK):
                file.write(samples[start : start + BLOCK])


def ours(clips: Clips, front_end: LogMel, first: int, n_batches: int) -> int:
    """Clips that were made."""
    n = 0
    for number in range(first, first + n_batches):
        n += len(front_end(clips.batch(number).clips))
    return n


def plain(paths: list[Path], front_end: LogMel, n_clips: int, batch: int) -> int:
    """Clips that were made."""
    rng, rate = random.generator(0, "plain"), front_end.config.sampling_rate
    n_samples = round(CLIP_S * rate)
    made = []
    for _ in range(n_clips):
        samples, native = soundfile.read(paths[rng.integers(len(paths))], dtype="float32")
        samples = samples if native == rate else soxr.resample(samples, native, rate, quality="HQ")
        start = rng.integers(len(samples) - n_samples)
        made.append(torch.from_numpy(samples[start : start + n_samples]))
    for group in torch.stack(made).split(batch):
        front_end(group)
    return n_clips


def clips_per_s(way: Callable[[], int], repeats: int) -> float:
    """The best of a few repeats, the first one not counted."""
    rates = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        n = way()
        rates.append(n / (time.perf_counter() - began))
    return max(rates[1:])


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def make_clips(folder: Path, batch: int) -> Clips:
    config = LoaderConfig(clip_s=CLIP_S)
    return Clips([open_data(str(folder))], [1.0], config, sampling_rate=32_000, batch_size=batch, seed=0)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    front_end = LogMelConfig().build()
    rows = []
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        for rate in RATES:
            for name, suffix in FORMATS.items():
                folder = Path(temporary) / f"{suffix}-{rate}"
                folder.mkdir()
                write_recordings(folder, suffix, rate, options.per_format)
                clips = make_clips(folder, options.batch)
                mine = clips_per_s(functools.partial(ours, clips, front_end, 0, max(1, 256 // options.batch)), 3)
                paths = sorted(folder.iterdir())
                other = clips_per_s(functools.partial(plain, paths, front_end, 8, options.batch), 2)
                rows.append(
                    {
                        "recordings": f"{name}, {rate / 1000:g} kHz",
                        "birdjepa, clips/s": mine,
                        "plain, clips/s": other,
                        "times faster": mine / other,
                    }
                )
        clips = make_clips(Path(temporary), options.batch)
        n_batches = options.clips // options.batch
        ours(clips, front_end, 0, 60)
        before, began = resident_mib(), time.perf_counter()
        ours(clips, front_end, 60, n_batches)
        seconds, after = time.perf_counter() - began, resident_mib()
    mixed = n_batches * options.batch / seconds
    notes = [
        f"Random {CLIP_S:g} s clips of {RECORDING_S} s recordings to 128 log-mel bands at 32 kHz, one core, "
        f"batches of {options.batch}, no workers; {options.per_format} recordings of each kind.",
        f"{n_batches * options.batch} clips of all kinds mixed: {mixed:.0f} clips/s, resident memory {before:.0f} MiB "
        f"before and {after:.0f} MiB after.",
        "Goals: 120 clips/s and 4 times the plain way for every kind, constant memory.",
    ]
    common.record("Loader: clips a second on one core", rows, notes, options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--clips", type=int, default=10_000, help="clips of the memory measurement")
    parser.add_argument("--per-format", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
