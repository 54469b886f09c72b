"""Synthetic bird songs and soundscapes with labels: the data set that every machine already has.

`render_song` and `render_soundscape` are pure functions of the configuration's seed and their numbers; `write_dataset`
puts them into files with a manifest. Songs never depend on how many species, individuals or songs there are;
soundscapes draw from all species, so they depend on `n_species`. How birds sing is in `synth_voices`, what happens on
the way to the file in `synth_air`.

Axes: s audio samples
"""

import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float

from birdjepa import __version__
from birdjepa.audio import synth_air, synth_voices
from birdjepa.core import files, random

VERSION = 1
"""Raised whenever the same configuration gives other samples or labels."""
MANIFEST = "metadata.csv"
METADATA_COLUMNS = ("path", "label", "labels", "group", "individual", "split", "fold", "duration_s", "kind")
ANNOTATION_COLUMNS = ("path", "onset_s", "offset_s", "label", "species", "individual", "low_hz", "high_hz")
_N_FOLDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """How much of an invented bird world to record, and how cleanly."""

    n_species: int = 12
    """Species, numbered from 0."""
    n_individuals: int = 5
    """Individuals of each species that songs are recorded of; five give five folds with every species in each."""
    songs_per_individual: int = 10
    """Recordings of each individual."""
    n_soundscapes: int = 6
    """Long recordings of several birds at once, none of which is among the individuals of the songs."""
    sampling_rate: int = 32_000
    """Samples a second, at least 16000."""
    song_s: float = 5.0
    """Typical length of a song's recording in seconds; lengths vary between 0.6 and 1.4 times that."""
    soundscape_s: float = 60.0
    """Length of each soundscape in seconds."""
    snr_db: tuple[float, float] = (-3.0, 21.0)
    """Song over steady background (1 to 10 kHz) in dB while it sounds: of the farthest and of the nearest bird."""
    seed: int = 0
    """Another seed is another world: other species under the same names."""

    def __post_init__(self) -> None:
        for name, fewest in (("n_species", 1), ("n_individuals", 2), ("songs_per_individual", 1), ("n_soundscapes", 0)):
            if getattr(self, name) < fewest:
                raise ValueError(f"{name} must be at least {fewest}, got {getattr(self, name)}")
        if not 16_000 <= self.sampling_rate <= 192_000:
            raise ValueError(f"sampling_rate must be in [16000, 192000] Hz, got {self.sampling_rate}")
        if not 2.0 <= self.song_s <= 600.0:
            raise ValueError(f"song_s must be in [2, 600] seconds, got {self.song_s}")
        if not 10.0 <= self.soundscape_s <= 3600.0:
            raise ValueError(f"soundscape_s must be in [10, 3600] seconds, got {self.soundscape_s}")
        if not -40.0 <= self.snr_db[0] <= self.snr_db[1] <= 80.0:
            raise ValueError(f"snr_db must be (farthest, nearest), rising, within [-40, 80] dB, got {self.snr_db}")

    @property
    def n_recordings(self) -> int:
        """Files that write_dataset makes."""
        return self.n_species * self.n_individuals * self.songs_per_individual + self.n_soundscapes

    @property
    def n_folds(self) -> int:
        """Folds of the manifest; each individual is in one of them and each species in all."""
        return min(_N_FOLDS, self.n_individuals)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Syllable:
    """One labelled syllable of a recording."""

    onset_s: float
    offset_s: float
    label: str
    """Species and letter of the syllable's type, such as "reed whistler a"."""
    species: str
    individual: str
    low_hz: float
    high_hz: float


def render_song(
    config: SynthConfig, species: int, individual: int, song: int
) -> tuple[Float[np.ndarray, " s"], list[Syllable]]:
    """One bird, recorded once: float32 samples within [-0.9, 0.9] and its syllables by onset.

    Raises:
      ValueError: if one of the three numbers is beyond what the configuration has.
    """
    _check_number("species", species, config.n_species)
    _check_number("individual", individual, config.n_individuals)
    _check_number("song", song, config.songs_per_individual)
    rng = random.generator(config.seed, "synth song", species, individual, song)
    duration_s = config.song_s * rng.uniform(0.6, 1.4)
    voice = synth_voices.individual_voice(config.seed, species, individual_tag(individual))
    perch = synth_air.random_perch(rng)
    onset_s = rng.uniform(0.1, 0.16) * duration_s
    room_s = (duration_s - onset_s) * rng.uniform(0.75, 0.95)
    sound = synth_air.background(round(duration_s * config.sampling_rate), config.sampling_rate, rng)
    syllables = _add_bout(sound, config, voice, perch, onset_s, room_s, rng)
    return synth_air.record(sound, config.sampling_rate, rng).astype(np.float32), syllables


def render_soundscape(config: SynthConfig, index: int) -> tuple[Float[np.ndarray, " s"], list[Syllable]]:
    """Three to seven birds near and far, singing in bouts over each other: samples and syllables like render_song's.

    Raises:
      ValueError: if index is beyond what the configuration has.
    """
    _check_number("index", index, config.n_soundscapes)
    rng = random.generator(config.seed, "synth soundscape", index)
    sound = synth_air.background(round(config.soundscape_s * config.sampling_rate), config.sampling_rate, rng)
    syllables: list[Syllable] = []
    for bird in range(int(rng.integers(3, 8))):
        species = int(rng.integers(config.n_species))
        tag = f"s{index:03d}b{bird}"
        voice = synth_voices.individual_voice(config.seed, species, tag)
        perch = synth_air.random_perch(rng)
        onset_s = rng.uniform(0.2, 8.0)
        while onset_s < config.soundscape_s - 1.5:
            room_s = min(config.soundscape_s - 0.1 - onset_s, rng.uniform(2.0, 5.0))
            syllables += _add_bout(sound, config, voice, perch, onset_s, room_s, rng)
            onset_s += room_s + rng.uniform(3.0, 15.0)
    syllables.sort(key=lambda syllable: (syllable.onset_s, syllable.individual))
    return synth_air.record(sound, config.sampling_rate, rng).astype(np.float32), syllables


def individual_tag(individual: int) -> str:
    """Name of an individual within its species."""
    return f"i{individual:02d}"


def write_dataset(folder: Path, config: SynthConfig, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Renders everything into 16-bit FLAC files; the folder appears whole or not at all. Returns the manifest's path.

    metadata.csv has a row per recording (`label` of a song, `labels` of a soundscape), annotations.csv one per
    syllable. `split` and `fold` keep individuals apart: the last fold is the test split. progress, where given, is
    called with (recordings done, recordings in all).

    Raises:
      UsageError: if folder exists and cannot be taken: it is a file or not empty.
    """
    with files.whole_folder(Path(folder)) as temporary:
        rows: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for row, samples, syllables in _recordings(config):
            path = temporary / str(row["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, config.sampling_rate, format="FLAC", subtype="PCM_16")
            rows.append(row | {"duration_s": f"{len(samples) / config.sampling_rate:.6f}"})
            annotations += [{"path": row["path"]} | _annotation(syllable) for syllable in syllables]
            if progress is not None:
                progress(len(rows), config.n_recordings)
        files.write_csv(temporary / MANIFEST, METADATA_COLUMNS, rows)
        files.write_csv(temporary / "annotations.csv", ANNOTATION_COLUMNS, annotations)
        files.write_text(temporary / "README.md", _readme(config, Path(folder).name))
    return Path(folder) / MANIFEST


def _add_bout(
    sound: Float[np.ndarray, " s"],
    config: SynthConfig,
    voice: synth_voices.Voice,
    perch: synth_air.Perch,
    onset_s: float,
    room_s: float,
    rng: np.random.Generator,
) -> list[Syllable]:
    """Adds to sound, in place, a bird that sings from onset_s for at most room_s. Labels count from sound's start."""
    rate = config.sampling_rate
    notes = synth_voices.plan_song(voice, room_s, rng)
    spans = [(round(note.onset_s * rate), round((note.onset_s + note.syllable.duration_s) * rate)) for note in notes]
    dry = synth_voices.sing(notes, spans[-1][1] + round(synth_air.TAIL_S * rate), rate, rng)
    heard = synth_air.propagate(dry, perch, rate, rng)
    power = sum(float(np.square(heard[start:stop]).sum()) for start, stop in spans) / sum(b - a for a, b in spans)
    far_db, near_db = config.snr_db
    level = 10 ** ((near_db + perch.remoteness * (far_db - near_db)) / 20) / np.sqrt(power)
    first = round(onset_s * rate)
    last = min(len(sound), first + len(heard))
    sound[first:last] += level * heard[: last - first]
    return [_label(voice, note, onset_s, rate) for note in notes]


def _label(voice: synth_voices.Voice, note: synth_voices.Note, start_s: float, sampling_rate: int) -> Syllable:
    species = voice.species
    low_hz, high_hz = synth_voices.band_hz(note.syllable, sampling_rate)
    return Syllable(
        onset_s=float(start_s + note.onset_s),
        offset_s=float(start_s + note.onset_s + note.syllable.duration_s),
        label=f"{species} {note.syllable.letter}",
        species=species,
        individual=voice.name,
        low_hz=low_hz,
        high_hz=high_hz,
    )


def _check_number(name: str, value: int, n: int) -> None:
    if not 0 <= value < n:
        raise ValueError(f"{name} must be in [0, {n}) with this configuration, got {value}")


def _recordings(
    config: SynthConfig,
) -> Iterator[tuple[dict[str, object], Float[np.ndarray, " s"], list[Syllable]]]:
    """Manifest row (less its duration), samples and labels of every recording: songs first, bird by bird."""
    for species in range(config.n_species):
        name = synth_voices.species_name(species)
        for individual in range(config.n_individuals):
            tag = individual_tag(individual)
            for song in range(config.songs_per_individual):
                path = f"songs/{name.replace(' ', '-')}/{tag}-{song:03d}.flac"
                row = {"path": path, "label": name, "labels": "", "kind": "song"}
                row |= {"group": f"{name} {tag}", "individual": f"{name} {tag}"}
                yield row | _fold_and_split(individual, config), *render_song(config, species, individual, song)
    for index in range(config.n_soundscapes):
        samples, syllables = render_soundscape(config, index)
        present = ";".join(sorted({syllable.species for syllable in syllables}))
        row = {"path": f"soundscapes/{index:03d}.flac", "label": "", "labels": present, "kind": "soundscape"}
        row |= {"group": f"soundscape {index:03d}", "individual": ""}
        yield row | _fold_and_split(index, config), samples, syllables


def _fold_and_split(number: int, config: SynthConfig) -> dict[str, object]:
    """Individuals (and soundscapes) are dealt to the folds in turn; the last fold is the test split."""
    fold = number % config.n_folds + 1
    return {"fold": fold, "split": "test" if fold == config.n_folds else "train"}


def _annotation(syllable: Syllable) -> dict[str, object]:
    row = dataclasses.asdict(syllable)
    for name, digits in (("onset_s", 6), ("offset_s", 6), ("low_hz", 1), ("high_hz", 1)):
        row[name] = f"{row[name]:.{digits}f}"
    return row


def _readme(config: SynthConfig, name: str) -> str:
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    flags = " ".join(
        f"--{option.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for option, value in options.items()
    )
    return f"""# Synthetic bird songs

{config.n_species} invented species, {config.n_individuals} individuals of each, {config.songs_per_individual} songs \
of each individual, and {config.n_soundscapes} soundscapes.
No recording, no real species and no other material went into it: every sample is computed.

Dedicated to the public domain under CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/):
use it for anything, without asking or citing.

Made by birdjepa {__version__} (synthesiser version {VERSION}, seed {config.seed}). The same again:

    birdjepa data synth {shlex.quote(name)} {flags}

- `{MANIFEST}`: one row a recording. `label` is the species of a song, `labels` are the species of a soundscape,
  separated by `;`. `fold` and `split` keep individuals apart (the test split is the last fold); `group` is what must
  not be divided between folds.
- `annotations.csv`: one row a syllable: onset and offset in seconds, lowest and highest frequency in Hz, who sang it.

Configuration:

    {json.dumps(options)}
"""
