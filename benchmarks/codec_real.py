"""A codec on recordings that it did not learn from: beside its untrained self, Griffin-Lim at its frame rate, and
silence.

Learns behind a given encoder (`birdjepa pretrain daam`) on the training part of spoken digits or of finches' songs, and
is judged on recordings of the test part, also by a listener: a classifier of digits, or of a song's notes, that has
learnt from real recordings only. The run in --out is kept, and is judged again without training where it is there
already.

    python benchmarks/codec_real.py runs/stage1/encoder --judged 150 --out runs/codec
    python benchmarks/codec_real.py runs/stage1/encoder --sound songs --out runs/songs
"""

import csv
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import torch
from real_audio import birdjepa
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from birdjepa.audio.decode import read_clip
from birdjepa.audio.logmel import at_rate
from birdjepa.codec import griffin_lim
from birdjepa.codec.tokenizer import load_codec
from birdjepa.core import files
from birdjepa.recipes import pretrain
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.named import codec
from birdjepa.train.sinks import read_metrics

RATE = 16_000
FLOOR = 1e-7
"""Least mel power that the listener hears."""
SEMITONES = 1.5
"""By which a pitch may be off and still be taken for kept."""
SHOWN = ("mel", "mr_stft", "log_spectral_db", "si_sdr_db", "stoi", "estoi", "pesq_nb")
"""The first three fall as the sound gets nearer, the others rise."""


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--sound", choices=SOUNDS, default="digits")
    parser.add_argument("--steps", type=int, default=codec().train.steps)
    parser.add_argument("--judged", type=int, default=150)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--strides", type=int, nargs="+", default=[], help="of the vocoder, where the hop is another")
    parser.add_argument("--disc-start-step", type=int, default=codec().objective.disc_start_step)
    parser.add_argument("--out", type=Path, help="where the run goes; a temporary folder by default")
    options = parser.parse_args()
    config = run_of(options)
    table, found = [], {}
    listener = Listener(options.shared, options.sound)
    held_out = config.out.with_name(f"{config.out.name}-judged.csv")
    files.write_text(held_out, "\n".join(["path", *map(str, listener.drawn(options.judged))]) + "\n")
    speech = ["--speech"] if listener.sound.is_speech else []
    first = config.out.with_name(f"{config.out.name}-untrained")
    for name, make, run in (("untrained", begin, first), ("trained", learn, config.out)):
        folder = run / "codec"
        if not folder.exists():
            make(dataclasses.replace(config, out=run))
        found = json.loads(birdjepa("codec", "eval", str(folder), str(held_out), "--json", *speech))
        learnt = load_codec(folder)
        heard = listener.judged(options.judged, lambda wave, by=learnt: by.roundtrip(wave, sampling_rate=RATE))
        table.append({"sound": f"codec, {name}", **row_of(found["means"]["codec"]), **heard})
    hop = found["codec"]["hop"]
    others = {
        "griffin_lim": lambda wave: griffin_lim.floor(torch.from_numpy(wave), RATE, hop, seed=0).numpy(),
        "silence": np.zeros_like,
    }
    for floor, made in others.items():
        heard = listener.judged(options.judged, made)
        cells = row_of(found["means"][floor])
        table.append({"sound": floor.replace("_", "-").title(), **cells, **heard})
    heard = listener.judged(options.judged, lambda wave: wave)
    table.append({"sound": "the recordings", **dict.fromkeys(SHOWN, ""), **heard})
    rates, speed = found["rates"], found["speed"]
    steps = [row["step_s"] for row in read_metrics(config.out / "metrics.jsonl") if "step_s" in row]
    notes = [
        f"{config.train.steps} steps of {config.train.batch_size} stretches of {config.objective.segment_s:g} s, about "
        f"{sum(steps) / len(steps) * config.train.steps / 60:.0f} minutes by the logged steps; {options.encoder}",
        played(config),
        f"{len(listener.drawn(options.judged))} recordings of the test part, which the codec did not learn from; 95 % "
        "intervals",
        "heard: share that a logistic regression on log-mel, learnt from the training part's recordings, gets right",
        f"pitch kept: share of voiced stretches of speech whose pitch is within {SEMITONES:g} semitones of its own",
        f"{rates['frame_hz']:g} frames, {rates['tokens_per_s']:g} packed codes, {rates['nominal_bit_s']:g} bit a "
        f"second; {found['usage']['least_used']:.0%} of the levels in the least used dimension",
        f"encodes at {speed['encode_x_real_time']:.1f}, decodes at {speed['decode_x_real_time']:.1f} times real time",
    ]
    common.record(listener.sound.title, table, notes, options)


def begin(config: PretrainCodecConfig) -> None:
    """The codec as it is before it learns."""
    begun = config.make_objective(config.open_clips(pretrain.open_sources(config)))
    first = {name: tensor.detach() for name, tensor in begun.exported.state_dict().items()}
    config.export(first, config.out, {"steps": 0}, 0)


def learn(config: PretrainCodecConfig) -> None:
    pretrain.start(config, print)


def played(config: PretrainCodecConfig) -> str:
    """Whether the discriminators had their say."""
    begins, steps = config.objective.disc_start_step, config.train.steps
    return f"discriminators from step {begins} on" if begins < steps else "no discriminators"


class Piece(NamedTuple):
    """A labelled stretch of a recording."""

    path: Path
    label: str
    split: str
    onset_s: float = 0.0
    offset_s: float = float("inf")


def digits(folder: Path) -> list[Piece]:
    """FSDD by its official parts."""
    return [Piece(folder / row["path"], row["label"], row["split"]) for row in read(folder / "metadata.csv")]


def notes_of_songs(folder: Path) -> list[Piece]:
    """Notes of two Bengalese finches; without the second one's marks that are no notes, and songs beneath noise."""
    pieces = []
    splits = {row["path"]: row["split"] for row in read(folder / "metadata.csv")}
    for row in read(folder / "annotations.csv"):
        marks = ("0", "@", "\t", "") if row["path"].startswith("katahira") else ()
        if row["label"] not in marks and row["path"] not in NOISY:
            bounds = float(row["onset_s"]), float(row["offset_s"])
            pieces.append(Piece(folder / row["path"], row["label"], splits[row["path"]], *bounds))
    return pieces


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


NOISY = ("koumura_bird0/032.flac", "koumura_bird0/067.flac")


class Sound(NamedTuple):
    """What a codec is tried on."""

    title: str
    folder: str
    pieces: Callable[[Path], list[Piece]]
    """Of that folder, for the listener."""
    heard: str
    least_s: float
    """To which silence fills the shorter pieces for the listener."""
    is_speech: bool


SOUNDS = {
    "digits": Sound("A codec of spoken digits", "fsdd", digits, "digits heard", 0.25, True),
    "songs": Sound("A codec of finches' songs", "birdsong_syllables", notes_of_songs, "notes heard", 0.1, False),
}


class Listener:
    """Logistic regression on log-mel levels in ten stretches of a labelled piece: which digit, or note, is it?

    It does not hear what is quieter than FLOOR: half of the bands of spoken digits, which were recorded at 8 kHz, are
    empty, and without a floor noise there that nobody hears decides.
    """

    def __init__(self, shared: Path, sound: str) -> None:
        self.sound = SOUNDS[sound]
        self.pieces = self.sound.pieces(shared / self.sound.folder)
        self.front_end = dataclasses.replace(at_rate(RATE), floor=FLOOR).build()
        train = [piece for piece in self.pieces if piece.split == "train"]
        features = self.heard(train, {path: read_clip(path, RATE) for path in {piece.path for piece in train}})
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        self.model.fit(features, [piece.label for piece in train])

    def heard(self, pieces: list[Piece], waves: dict[Path, np.ndarray]) -> np.ndarray:
        """What the model reads of each piece."""
        rows = []
        for piece in pieces:
            ends = (int(min(second * RATE, len(waves[piece.path]))) for second in (piece.onset_s, piece.offset_s))
            wave = waves[piece.path][slice(*ends)]
            padded = np.pad(wave, (0, max(0, round(self.sound.least_s * RATE) - len(wave))))
            frames = self.front_end(torch.from_numpy(np.ascontiguousarray(padded))[None])
            rows.append(torch.nn.functional.adaptive_avg_pool1d(frames.mT, 10).flatten().numpy())
        return np.stack(rows)

    def drawn(self, n: int) -> list[Path]:
        """n recordings of the test part, at random; all where there are fewer."""
        paths = list(dict.fromkeys(piece.path for piece in self.pieces if piece.split == "test"))
        return [paths[i] for i in np.sort(np.random.default_rng(0).permutation(len(paths))[:n])]

    def judged(self, n: int, made: Callable[[np.ndarray], np.ndarray]) -> dict[str, str]:
        """What is heard of the drawn recordings, as they are made."""
        real = {path: read_clip(path, RATE) for path in self.drawn(n)}
        waves = {path: made(wave) for path, wave in real.items()}
        pieces = [piece for piece in self.pieces if piece.path in real]
        right = self.model.score(self.heard(pieces, waves), [piece.label for piece in pieces])
        found = {self.sound.heard: f"{right:.3f}"}
        if self.sound.is_speech:
            kept = np.concatenate([pitch_kept(real[path], waves[path]) for path in real])
            found["pitch kept"] = f"{kept.mean():.3f}"
        return found


def pitch_kept(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """For each voiced stretch of a recording: is the pitch of what was made of it near its own?"""
    hertz, strength, power = pitches(real)
    voiced = (strength > 0.8) & (power > power.max() * 1e-3)
    octaves = np.log2(pitches(made)[0][: len(hertz)][voiced] / hertz[voiced])
    return np.abs(octaves) < SEMITONES / 12


def pitches(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every 10 ms: the pitch between 70 and 400 Hz in Hz, how strong it is (at most 1), and the power, over 40 ms.

    The shortest delay whose normalised correlation is a peak and at least 0.9 of the highest.
    """
    window, shortest, longest = RATE // 25, RATE // 400, RATE // 70
    padded = np.pad(wave, (window // 2, 2 * window)).astype(np.float64)
    stretches = np.lib.stride_tricks.sliding_window_view(padded, window + longest + 1)[: len(wave) : RATE // 100]
    stretches = stretches - stretches.mean(1, keepdims=True)
    here = stretches[:, :window]
    power = np.square(here).sum(1)
    correlations = []
    for delay in range(shortest, longest + 2):
        later = stretches[:, delay : delay + window]
        size = np.sqrt(power * np.square(later).sum(1)).clip(1e-9)
        correlations.append((here * later).sum(1) / size)
    by_delay = np.stack(correlations, 1)
    inner = by_delay[:, 1:-1]
    is_peak = (inner >= by_delay[:, :-2]) & (inner >= by_delay[:, 2:]) & (inner >= 0.9 * inner.max(1, keepdims=True))
    return RATE / (shortest + 1 + is_peak.argmax(1)), inner.max(1), power


def run_of(options: Any) -> PretrainCodecConfig:
    """The recipe on the training part."""
    made = codec()
    out = options.out or Path(tempfile.mkdtemp()) / "codec"
    return dataclasses.replace(
        made,
        data=(str(options.shared / SOUNDS[options.sound].folder / "metadata.csv"),),
        splits=("train",),
        encoder=options.encoder,
        vocoder=dataclasses.replace(made.vocoder, strides=tuple(options.strides)),
        objective=dataclasses.replace(made.objective, disc_start_step=options.disc_start_step),
        out=out,
        report=False,
        train=dataclasses.replace(made.train, steps=options.steps, threads=options.threads),
    )


def row_of(means: dict[str, dict[str, float]]) -> dict[str, str]:
    """Means and intervals as cells."""
    found = {}
    for name in SHOWN:
        each = means.get(name)
        is_told = each and each["low"] is not None  # too few recordings have no interval
        found[name] = f"{each['value']:.2f} [{each['low']:.2f}, {each['high']:.2f}]" if is_told else ""
    return found


if __name__ == "__main__":
    main()
