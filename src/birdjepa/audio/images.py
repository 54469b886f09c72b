"""Small labelled images played as sound: a data set whose answer is known, to debug everything behind the log-mel on.

The default log-mel of a clip shows its image upright. Rows are bands of equal width in mel, the first on top, columns
are stretches of time, and brightness is the level in dB. Whoever can tell the images apart by eye knows what an
encoder, an objective or a probe should find. Each pixel is a chord of sines at the centres of its bands, with phases
that differ between images and carry nothing.

Axes: r rows | c columns | s audio samples | k sines
"""

import dataclasses
import itertools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float, Int, UInt8

from birdjepa import __version__
from birdjepa.audio import synth
from birdjepa.audio.logmel import LogMelConfig, band_centres
from birdjepa.core import files, random
from birdjepa.core.errors import LabelError, MissingExtraError, UsageError

VERSION = 1
"""Raised whenever the same configuration gives other samples or labels."""
METADATA_COLUMNS = ("path", "label", "split", "fold", "group")
DIGITS = "digits"
N_FOLDS = 5
RANGE_DB = 40.0
"""Level of the brightest pixel over that of the darkest."""
N_FRAMES = 256
"""Frames of the default log-mel that the image fills: 2.575 s."""

_FRONT_END = LogMelConfig()
_PEAK = 0.9
"""The sines' amplitudes add up to this, so that no phases can clip."""
_RAMP = 160
"""Half of a crossfade between columns, in samples: 5 ms, too short to see and too long to click."""
_CIFAR_SIDE = 32
_CIFAR_RECORD = 2 + 3 * _CIFAR_SIDE**2
_LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Which images to play, and how many."""

    source: str = DIGITS
    """digits (scikit-learn's, 8 x 8), or a folder with train.bin and test.bin of CIFAR-100's binary version."""
    n_images: int = 1000
    """Images drawn from the source without replacement, at least 5."""
    seed: int = 0
    """Another seed draws other images, plays them with other phases and deals them to other folds."""

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"source must be {DIGITS!r} or a folder, got nothing")
        if self.n_images < N_FOLDS:
            raise ValueError(f"n_images must be at least {N_FOLDS}, one a fold, got {self.n_images}")


class Image(NamedTuple):
    """One image of a source."""

    name: str
    """Names the image within its source, such as "digits-00012"."""
    pixels: Float[np.ndarray, "r c"]
    """Brightness in [0, 1]; the first row is the top one."""
    label: str
    split: str
    """train or test as the source has it; empty where it has no such parts."""


def render_image(pixels: Float[np.ndarray, "r c"], seed: int, name: str) -> Float[np.ndarray, " s"]:
    """An image as float32 samples within [-0.9, 0.9] at 32 kHz, N_FRAMES frames long; seed and name give the phases.

    Levels are absolute: equally bright pixels of two images are equally loud.

    Raises:
      ValueError: if a pixel is outside [0, 1], or the image has more rows than bands or more columns than frames.
    """
    n_rows, n_columns = pixels.shape
    if not (1 <= n_rows <= _FRONT_END.n_mels and 1 <= n_columns <= N_FRAMES):
        limits = f"{_FRONT_END.n_mels} rows and {N_FRAMES} columns"
        raise ValueError(f"an image has 1 to {limits}, got {n_rows} and {n_columns}")
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise ValueError(f"pixels must be in [0, 1], got {pixels.min()} to {pixels.max()}")
    chords = _chords(n_rows, random.generator(seed, "image phases", name))
    levels = 10 ** (RANGE_DB / 20 * (pixels - 1))
    # A frame belongs to a column when its centre does, so boundaries lie between the centres of two frames.
    first_frames = -(-np.arange(1, n_columns) * N_FRAMES // n_columns)
    inner = first_frames * _FRONT_END.hop + (_FRONT_END.window - _FRONT_END.hop) // 2
    edges = [-_RAMP, *inner.tolist(), chords.shape[1] + _RAMP]
    samples = np.zeros(chords.shape[1])
    for column, (left, right) in enumerate(itertools.pairwise(edges)):
        start, stop = max(0, left - _RAMP), min(len(samples), right + _RAMP)
        corners = (left - _RAMP, left + _RAMP, right - _RAMP, right + _RAMP)
        share = np.interp(np.arange(start, stop), corners, (0.0, 1.0, 1.0, 0.0))
        samples[start:stop] += share * (levels[:, column] @ chords[:, start:stop])
    return samples.astype(np.float32)


def write_images(folder: Path, config: ImagesConfig, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Plays images into 16-bit FLAC files; the folder appears whole or not at all. Returns the manifest's path.

    metadata.csv has a row per image. Folds (fold1 to fold5) hold equally many of each label, within one. The split is
    the source's own; where it has none, the last fold is the test split. progress, where given, is called with (images
    done, images in all).

    Raises:
      UsageError: if folder exists and cannot be taken, the source is not there, or it has fewer than n_images.
      LabelError: if the source's files are damaged.
      MissingExtraError: if the digits are asked for and scikit-learn is not installed.
    """
    chosen = _chosen(config)
    with files.whole_folder(Path(folder)) as temporary:
        (temporary / "images").mkdir()
        rows: list[dict[str, object]] = []
        for image, fold in chosen:
            path = f"images/{image.name}.flac"
            samples = render_image(image.pixels, config.seed, image.name)
            soundfile.write(temporary / path, samples, _FRONT_END.sampling_rate, format="FLAC", subtype="PCM_16")
            split = image.split or ("test" if fold == N_FOLDS else "train")
            rows.append({"path": path, "label": image.label, "split": split, "fold": f"fold{fold}"})
            rows[-1]["group"] = image.name
            if progress is not None:
                progress(len(rows), len(chosen))
        files.write_text(temporary / "README.md", _readme(config, Path(folder).name))
        files.write_csv(temporary / synth.MANIFEST, METADATA_COLUMNS, rows)
    return Path(folder) / synth.MANIFEST


def read_digits() -> list[Image]:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels, in its order.

    Source: sklearn.datasets.load_digits.

    Raises:
      MissingExtraError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", "dev") from None
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(len(pixels), 8, 8) / 16.0
    return [
        Image(f"{DIGITS}-{number:05d}", image, str(int(label)), "")
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True))
    ]


class Cifar:
    """Images of train.bin and test.bin of CIFAR-100's binary version, grey (Rec. 601 luma), read as they are indexed.

    Labels are the fine ones: names where the folder has fine_label_names.txt, else two-digit numbers.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: a record is one byte of coarse
    and one of fine label, then the planes of red, green and blue, row by row.

    Raises:
      UsageError: if the folder or one of the two files is not there.
      LabelError: if a file does not hold whole records, or a label has no name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = [(split, _records(folder / f"{split}.bin")) for split in ("train", "test")]
        self.names = _fine_names(folder / "fine_label_names.txt")

    def __len__(self) -> int:
        return sum(len(records) for _, records in self.parts)

    def __getitem__(self, index: int) -> Image:
        (split, records), (_, others) = self.parts
        if index >= len(records):
            index, split, records = index - len(records), "test", others
        record = np.asarray(records[index])
        if record[1] >= len(self.names):
            reason = f"record {index} has label {record[1]}, of {len(self.names)} names"
            raise LabelError(str(self.folder / f"{split}.bin"), 0.0, reason)
        planes = record[2:].reshape(3, _CIFAR_SIDE, _CIFAR_SIDE)
        pixels = (np.tensordot(_LUMA, planes, axes=1) / 255).clip(0, 1)
        return Image(f"{split}-{index:05d}", pixels, self.names[record[1]], split)


def _chosen(config: ImagesConfig) -> list[tuple[Image, int]]:
    """The images to play, in the source's order, each with its fold from 1."""
    source = read_digits() if config.source == DIGITS else Cifar(Path(config.source).expanduser())
    if config.n_images > len(source):
        raise UsageError(f"{config.source} has {len(source)} images, n_images asks for {config.n_images}")
    drawn = random.generator(config.seed, "images").permutation(len(source))[: config.n_images]
    images = [source[int(index)] for index in drawn]
    by_label = sorted(range(len(images)), key=lambda position: images[position].label)
    folds = {position: rank % N_FOLDS + 1 for rank, position in enumerate(by_label)}
    return [(images[position], folds[int(position)]) for position in np.argsort(drawn)]


def _chords(n_rows: int, rng: np.random.Generator) -> Float[np.ndarray, "r s"]:
    """Sines of each row of a white image, top row first; equal power per Hz, so that all bands read alike.

    Sines closer than two bins of the window would beat within a frame, so that low bands go without one of their own
    where a neighbour's reaches them.
    """
    n_samples = _FRONT_END.n_samples(N_FRAMES)
    bands = _bands()
    sines_hz = band_centres(_FRONT_END)[bands]
    amplitudes = np.sqrt(np.gradient(sines_hz))
    amplitudes *= _PEAK / amplitudes.sum()
    turns = amplitudes * np.exp(2j * np.pi * rng.random(len(bands)))
    rows = (_FRONT_END.n_mels - 1 - bands) * n_rows // _FRONT_END.n_mels
    bins = np.rint(sines_hz * n_samples / _FRONT_END.sampling_rate).astype(int)
    spectra = np.zeros((n_rows, n_samples // 2 + 1), dtype=complex)
    spectra[rows, bins] = turns * (n_samples / 2)
    return np.fft.irfft(spectra, n_samples)


def _bands() -> Int[np.ndarray, " k"]:
    """Mel bands that hold a sine, lowest first."""
    centres = band_centres(_FRONT_END)
    apart_hz = 2 * _FRONT_END.sampling_rate / _FRONT_END.window
    chosen = [0]
    for band in range(1, len(centres)):
        if centres[band] - centres[chosen[-1]] >= apart_hz:
            chosen.append(band)
    return np.array(chosen)


def _records(path: Path) -> UInt8[np.ndarray, "n v"]:
    if not path.is_file():
        raise UsageError(
            f"{path} is not there; source is {DIGITS!r} or a folder with train.bin and test.bin (CIFAR-100)"
        )
    size = path.stat().st_size
    if size == 0 or size % _CIFAR_RECORD:
        raise LabelError(str(path), 0.0, f"{size} bytes are no whole records of {_CIFAR_RECORD}: not CIFAR-100, or cut")
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, _CIFAR_RECORD)


def _fine_names(path: Path) -> list[str]:
    if not path.exists():
        return [f"{label:02d}" for label in range(100)]
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise LabelError(str(path), 0.0, f"cannot be read as one name a line: {error}") from None


def _readme(config: ImagesConfig, name: str) -> str:
    command = f"{shlex.quote(name)} --source {shlex.quote(config.source)}"
    if config.source == DIGITS:
        origin = (
            "The images are scikit-learn's digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten\n"
            "Digits, UCI Machine Learning Repository (https://doi.org/10.24432/C50P49), CC BY 4.0."
        )
    else:
        origin = (
            "The images are CIFAR-100's: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009."
        )
    return f"""# Images played as sound

{config.n_images} small images. The default log-mel of each recording shows the image upright: rows are bands of equal
width in mel, columns are time, brightness is level over {RANGE_DB:g} dB.

{origin}

Made by birdjepa {__version__} (images version {VERSION}, seed {config.seed}). The same again:

    birdjepa data images {command} --n-images {config.n_images} --seed {config.seed}

- `{synth.MANIFEST}`: one row an image. `fold` holds equally many of each label, within one; `split` is the source's
  own, or has the last fold as its test part; `group` is the image.
"""
