"""The loader against what people do otherwise: random 5 s clips of 30 to 120 s recordings, to log-mel at 32 kHz.

python benchmarks/loader.py [--quick] [--seconds 4 --clips 10000 --per-format 12] [--no-record]

Ways, each as a torch DataLoader whose workers make whole batches of log-mel frames, one thread each:
- birdjepa: `Clips` and `LogMel`
- whole file: soundfile decodes all of it, soxr resamples all of it, the clip is cut out, `LogMel`
- datasets: a data set of the Hub's library with its Audio feature, decoded (where torchcodec and FFmpeg are there, else
  its bytes by soundfile), the clip is cut out, `LogMel`
- librosa: librosa.load of the whole file at 32 kHz, the clip is cut out, librosa's mel spectrogram
- librosa, offset: the same with librosa.load(offset=, duration=)
- libsndfile alone: opening, seeking and reading the clip's samples, nothing else: what no loader that uses it can beat

Recordings are real ones joined to that length, in a temporary folder, as Ogg Vorbis, FLAC and MP3 at 32 and 44.1 kHz.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import librosa
import numpy as np
import soundfile
import soxr
import torch
from torch.utils.data import DataLoader, Dataset

from birdjepa.audio import decode
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import random
from birdjepa.core.errors import AudioError
from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.sources import open_data

FORMATS = {"Ogg Vorbis": "ogg", "FLAC": "flac", "MP3": "mp3"}
RATES = (32_000, 44_100)
RATE = 32_000
"""Of the model."""
SHORTEST_S, LONGEST_S = 30.0, 120.0
CLIP_S = 5.0
N_SAMPLES = round(CLIP_S * RATE)
BATCH = 8
BLOCK = 8_000
"""Vorbis is written in blocks: libsndfile's encoder crashes on long writes."""
GOAL = 150
"""Clips per second and core, at 32 kHz."""


def sounds(shared: Path, n: int) -> list[np.ndarray]:
    """n recordings of 30 to 120 s at 44.1 kHz: real birds one after the other, or chirps in noise without them."""
    rate, made = 44_100, []
    pool = []
    for path in sorted((shared / "birds_species").rglob("*.ogg"))[:80]:
        try:
            pool.append(decode.read_clip(path, rate))
        except AudioError:
            continue
    for number in range(n):
        rng = random.generator(0, "loader benchmark", number)
        n_samples = round(rng.uniform(SHORTEST_S, LONGEST_S) * rate)
        if pool:
            order = rng.permutation(len(pool)).tolist()
            made.append(np.concatenate([pool[each] for each in order])[:n_samples])
            continue
        time_s = np.arange(n_samples) / rate
        chirp = np.sin(2 * np.pi * (3000 + 800 * np.sin(2 * np.pi * rng.uniform(3, 9) * time_s)) * time_s)
        noise = 0.02 * rng.standard_normal(n_samples)
        made.append((noise + 0.2 * chirp * (np.sin(np.pi * time_s) > 0)).astype(np.float32))
    return made


def write_all(folder: Path, recordings: Sequence[np.ndarray]) -> None:
    """The recordings, given at 44.1 kHz, in every format at every rate, each in a folder of its own."""
    for rate in RATES:
        for suffix in FORMATS.values():
            own = folder / f"{suffix}-{rate}"
            own.mkdir()
            for number, recording in enumerate(recordings):
                samples = recording if rate == 44_100 else soxr.resample(recording, 44_100, rate)
                with soundfile.SoundFile(own / f"{number:03d}.{suffix}", "w", rate, 1) as file:
                    for start in range(0, len(samples), BLOCK):
                        file.write(samples[start : start + BLOCK])


class Batches(Dataset[Any]):
    """Batches made by a way of making one, and the seconds of a core that each took."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Any:
        began = time.process_time()
        with torch.inference_mode():
            made = self.make(number)
        return made, time.process_time() - began


class Ours:
    """`Clips` and `LogMel`, as pretraining uses them."""

    def __init__(self, folder: Path) -> None:
        config = LoaderConfig(clip_s=CLIP_S)
        self.clips = Clips([open_data(str(folder))], [1.0], config, sampling_rate=RATE, batch_size=BATCH, seed=0)
        self.front_end = LogMelConfig().build()

    def __call__(self, number: int) -> torch.Tensor:
        return self.front_end(self.clips.batch(number).clips)


class Plain:
    """A clip of a random file for each place of the batch, by one function, and log-mel of all of them."""

    def __init__(self, folder: Path, clip: Callable[[Any, np.random.Generator], np.ndarray], items: Any = None) -> None:
        self.items = sorted(folder.iterdir()) if items is None else items
        self.clip = clip
        self.front_end = LogMelConfig().build()

    def __call__(self, number: int) -> torch.Tensor:
        rng = random.generator(0, "plain", number)
        chosen = [int(rng.integers(len(self.items))) for _ in range(BATCH)]
        return self.finish(np.stack([self.clip(self.items[each], rng) for each in chosen]))

    def finish(self, clips: np.ndarray) -> torch.Tensor:
        return self.front_end(torch.from_numpy(clips))


class Librosa(Plain):
    """The same with librosa's mel spectrogram."""

    def finish(self, clips: np.ndarray) -> torch.Tensor:
        shape = {"sr": RATE, "n_fft": 1024, "win_length": 800, "hop_length": 320, "n_mels": 128, "fmin": 50.0}
        mel = [librosa.power_to_db(librosa.feature.melspectrogram(y=clip, **shape)) for clip in clips]
        return torch.from_numpy(np.stack(mel))


class Decoding(Plain):
    """Samples only."""

    def finish(self, clips: np.ndarray) -> torch.Tensor:
        return torch.empty(len(clips))


def cut(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(len(samples) - N_SAMPLES))
    return np.ascontiguousarray(samples[start : start + N_SAMPLES], np.float32)


def whole_file(path: Path, rng: np.random.Generator) -> np.ndarray:
    samples, native = soundfile.read(path, dtype="float32")
    return cut(samples if native == RATE else soxr.resample(samples, native, RATE, quality="HQ"), rng)


def librosa_whole(path: Path, rng: np.random.Generator) -> np.ndarray:
    return cut(librosa.load(path, sr=RATE)[0], rng)


def librosa_offset(path: Path, rng: np.random.Generator) -> np.ndarray:
    offset = rng.uniform(0, librosa.get_duration(path=path) - CLIP_S)
    samples = librosa.load(path, sr=RATE, offset=offset, duration=CLIP_S)[0]
    return np.resize(samples, N_SAMPLES)


def decoding(path: Path, rng: np.random.Generator) -> np.ndarray:
    with soundfile.SoundFile(path) as file:
        n_samples = round(CLIP_S * file.samplerate)
        file.seek(int(rng.integers(file.frames - n_samples)))
        file.read(n_samples, dtype="float32")
    return np.zeros(1, np.float32)


def hub_rows(folder: Path) -> tuple[Any, str]:
    """The recordings as `datasets` has them, and how they are decoded.

    With torchcodec 0.11 or 0.12 (pip install --no-deps; later ones want CUDA's libraries) and FFmpeg's libraries its
    Audio feature decodes.
    """
    import datasets

    rows = datasets.Dataset.from_dict({"audio": [str(path) for path in sorted(folder.iterdir())]})
    decoded = rows.cast_column("audio", datasets.Audio(sampling_rate=RATE))
    try:
        decoded[0]["audio"].get_all_samples()
    except (ImportError, RuntimeError, OSError):
        return rows.cast_column("audio", datasets.Audio(decode=False)), "not decoding here, soundfile instead"
    return decoded, "decoded by torchcodec"


def hub_clip(row: Any, rng: np.random.Generator) -> np.ndarray:
    audio = row["audio"]
    if isinstance(audio, dict):
        return whole_file(audio["path"], rng)
    return cut(audio.get_all_samples().data[0].numpy(), rng)


class Rate(NamedTuple):
    """Clips per second and worker."""

    cpu: float
    """Of its own processor time: what a core gives that does nothing else."""
    wall: float


def per_core(make: Callable[[int], Any], workers: int, seconds: float) -> Rate:
    """What each worker makes, once all of them have delivered."""
    loader = DataLoader(Batches(make), batch_size=None, sampler=range(1 << 30), num_workers=workers, prefetch_factor=2)
    n_warm, costs, began = 3 * workers, [], 0.0
    for number, (_, cost) in enumerate(loader):
        if number == n_warm:
            began = time.perf_counter()
        elif number > n_warm:
            costs.append(cost)
            if time.perf_counter() - began > seconds:
                break
    taken = time.perf_counter() - began
    return Rate(BATCH / float(np.mean(costs)), len(costs) * BATCH / taken / workers)


def best(ways: Mapping[str, Callable[[int], Any]], workers: int, seconds: float) -> dict[str, Rate]:
    """The better of two turns of each way, for other work on the machine can only slow one down."""
    turns = [{way: per_core(make, workers, seconds / 2) for way, make in ways.items()} for _ in range(2)]
    return {way: Rate(*(max(each) for each in zip(*(turn[way] for turn in turns), strict=True))) for way in ways}


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def compare(folder: Path, seconds: float) -> tuple[list[dict[str, object]], str]:
    """A row for one and for two workers on the recordings of a folder, and how `datasets` decoded them."""
    hub, how = hub_rows(folder)
    ways = {
        "birdjepa": Ours(folder),
        "whole file": Plain(folder, whole_file),
        "datasets": Plain(folder, hub_clip, hub),
        "librosa": Librosa(folder, librosa_whole),
        "librosa, offset": Librosa(folder, librosa_offset),
        "libsndfile alone": Decoding(folder, decoding),
    }
    rows = []
    for workers in (1, 2):
        found = best(ways, workers, seconds)
        rates: dict[str, float] = {way: rate.cpu for way, rate in found.items()}
        others = max(rates[way] for way in list(ways)[1:-1])
        compared = {"over the best other": rates["birdjepa"] / others}
        rows.append({"workers": workers, **rates, **compared, "birdjepa, by the clock": found["birdjepa"].wall})
    return rows, how


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    rows, how = [], ""
    with tempfile.TemporaryDirectory() as temporary:
        write_all(Path(temporary), sounds(options.shared, options.per_format))
        for rate in RATES:
            for name, suffix in FORMATS.items():
                told = {"recordings": f"{name}, {rate / 1000:g} kHz"}
                found, how = compare(Path(temporary) / f"{suffix}-{rate}", options.seconds)
                rows += [{**told, **row} for row in found]
                print(common.table(rows[-len(found) :]), flush=True)
        make = functools.partial(Batches(Ours(Path(temporary))).__getitem__)
        n_batches = options.clips // BATCH
        for number in range(60):
            make(number)
        before, peak, began = resident_mib(), 0.0, time.perf_counter()
        for number in range(60, 60 + n_batches):
            make(number)
            peak = max(peak, resident_mib()) if number % 20 == 0 else peak
        seconds, after = time.perf_counter() - began, resident_mib()
    n_clips = n_batches * BATCH
    notes = [
        f"Clips per second and core: random {CLIP_S:g} s clips of {options.per_format} recordings of {SHORTEST_S:g} to "
        f"{LONGEST_S:g} s (real ones joined) to 128 log-mel bands at 32 kHz, all of it in the workers, a thread each; "
        "by the workers' processor time, the better of two turns; the last column by the clock. "
        f"datasets: {how}.",
        f"{n_clips} clips of all kinds in one process ({n_clips * CLIP_S / 3600:.1f} hours of sound): "
        f"{n_clips / seconds:.0f} clips/s by the clock, resident memory {before:.0f} MiB before, {after:.0f} after, "
        f"{peak:.0f} at most.",
        f"Goals: {GOAL} clips/s per core at 32 kHz, constant memory.",
    ]
    common.record("Loader: clips a second and core", rows, notes, options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="1 s for each figure, 1,000 clips of memory, no record")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured for each figure")
    parser.add_argument("--clips", type=int, default=10_000, help="clips of the memory measurement")
    parser.add_argument("--per-format", type=int, default=12)
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.clips, options.per_format, options.no_record = 1.0, 1_000, 6, True
    return options


if __name__ == "__main__":
    main()
