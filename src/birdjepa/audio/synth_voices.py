"""Voices of invented birds: what a species can sing, how an individual sings it, one rendition as notes and samples.

A species is a repertoire of syllable types and a grammar (a Markov chain over them, with repeats, gaps and pauses).
An individual is the same voice shifted in pitch and tempo, with slightly other syllables, some of them perhaps missing.
A song is one walk through the grammar. Each is drawn from a random stream of its own, keyed by its own names only, so
species 3 sounds the same however many species there are.

Species share one frequency range on purpose: they are told apart by the shape, order and rhythm of their syllables,
hardly by their mean spectrum.

Axes: s audio samples | k syllable types
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from birdjepa.core import random

NOUNS = {
    "whistle": "whistler",
    "rise": "upslur",
    "fall": "downslur",
    "arch": "hooper",
    "dip": "swoop",
    "warble": "quaver",
    "trill": "trill",
    "buzz": "rasp",
    "stack": "horn",
    "yodel": "yodel",
    "chatter": "rattle",
}
"""Syllable kind -> what a species that leads with it is called."""
KINDS = tuple(NOUNS)
ADJECTIVES = (
    *("reed", "dusk", "moss", "fern", "slate", "amber", "thicket", "brook", "ember", "willow", "frost", "hollow"),
    *("copper", "meadow", "shale", "lantern", "bramble", "tundra", "velvet", "harbour", "juniper", "sable", "orchard"),
    *("granite", "mist", "cedar", "clover", "opal", "drift", "saffron", "ravine", "hazel", "quartz", "summit"),
    "linden",
)

_PULSES_PER_S = {
    "trill": (11.0, 26.0),
    "buzz": (60.0, 150.0),
    "chatter": (14.0, 32.0),
    "warble": (11.0, 24.0),
    "yodel": (6.0, 12.0),
}
"""Rate of the pulses (trill, buzz, chatter) or of the pitch's swing (warble, yodel); other kinds have none."""
_DURATION_S = {
    "rise": (0.06, 0.16),
    "fall": (0.06, 0.16),
    "arch": (0.09, 0.22),
    "dip": (0.09, 0.22),
    "stack": (0.10, 0.26),
}
_LONG_DURATION_S = (0.22, 0.50)
_SPAN_OCTAVES = {
    "whistle": (0.02, 0.10),
    "warble": (0.10, 0.30),
    "buzz": (0.05, 0.40),
    "stack": (0.10, 0.30),
    "chatter": (0.05, 0.30),
}
_WIDE_SPAN_OCTAVES = (0.45, 0.95)
_ROUGHNESS = 0.14
"""Standard deviation of a rattle's frequency, over its centre."""
_HIGHEST_SHARE = 0.45
"""No partial is rendered above this share of the sampling rate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyllableType:
    """One entry of a repertoire: everything that its waveform depends on but chance."""

    letter: str
    """a, b, c ... within the species."""
    kind: str
    """One of KINDS: the shape of the pitch's course."""
    centre_hz: float
    """Middle of the fundamental's range, halfway in octaves."""
    span: float
    """Range of the fundamental in octaves; negative mirrors the course (a trill of falls, a whistle that sinks)."""
    duration_s: float
    bend: float
    """Exponent on time within the course: 1 is straight, above 1 moves late."""
    rate_hz: float
    """Pulses or pitch swings a second; 0 for kinds without."""
    n_harmonics: int
    rolloff_db: float
    """Level of each partial under the one below it."""
    attack: float
    """Share of the duration in which the envelope rises; it falls for at least a quarter."""
    repeats: tuple[int, int]
    """Fewest and most times that it is sung in a row."""
    gap_s: float
    """Silence after it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """A species, or one individual of it."""

    species: str
    name: str
    """Of the species, or the species and the individual's tag."""
    repertoire: tuple[SyllableType, ...]
    transitions: Float[np.ndarray, "k k"]
    """Row i: how often each type follows type i; rows sum to 1."""
    strophe_steps: tuple[int, int]
    """Fewest and most steps through the grammar before a pause."""
    pause_s: float
    """Typical silence between strophes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """One syllable in one song."""

    onset_s: float
    syllable: SyllableType
    level_db: float


def species_name(species: int) -> str:
    """Invented, the same for every seed, distinct for every species: "reed whistler", "dusk upslur", ..."""
    n_pairs = len(ADJECTIVES) * len(KINDS)
    generation, pair = divmod(species, n_pairs)
    name = f"{ADJECTIVES[pair % len(ADJECTIVES)]} {NOUNS[KINDS[species % len(KINDS)]]}"
    return name if generation == 0 else f"{name} {generation + 1}"


def species_voice(seed: int, species: int) -> Voice:
    """The voice that all individuals of a species vary. Its first type is of the kind that it is named after."""
    rng = random.generator(seed, "synth species", species)
    lead = species % len(KINDS)
    others = rng.permutation([i for i in range(len(KINDS)) if i != lead])[: rng.integers(2, 5)]
    pitch_hz = 2900.0 * 2.0 ** rng.uniform(-0.30, 0.30)
    tempo = 2.0 ** rng.uniform(-0.35, 0.35)
    repertoire = tuple(
        _syllable_type(rng, chr(ord("a") + place), KINDS[i], pitch_hz, tempo) for place, i in enumerate((lead, *others))
    )
    n_types = len(repertoire)
    follow = rng.uniform(0.6, 0.85)
    transitions = (1 - follow) * rng.dirichlet(np.full(n_types, 0.6), size=n_types)
    transitions += follow * np.roll(np.eye(n_types), 1, axis=1)
    fewest = int(rng.integers(2, 5))
    return Voice(
        species=species_name(species),
        name=species_name(species),
        repertoire=repertoire,
        transitions=transitions,
        strophe_steps=(fewest, fewest + int(rng.integers(1, 4))),
        pause_s=float(rng.uniform(0.30, 0.80)),
    )


def individual_voice(seed: int, species: int, individual: str) -> Voice:
    """One bird: pitch and tempo of its own, each syllable a little off its species' type, now and then one missing.

    The first two types are never missing, so that every individual can be told. individual is any name of the bird.
    """
    voice = species_voice(seed, species)
    rng = random.generator(seed, "synth individual", species, individual)
    pitch, tempo = 2.0 ** (0.13 * _within_two_sigma(rng)), 2.0 ** (0.10 * _within_two_sigma(rng))
    repertoire = [_varied(rng, syllable, pitch, tempo, spread=1.0) for syllable in voice.repertoire]
    keep = rng.random(len(repertoire)) > 0.2
    keep[:2] = True
    transitions = voice.transitions[np.ix_(keep, keep)] + 1e-9  # a row may have lost all that it led to
    return dataclasses.replace(
        voice,
        name=f"{voice.name} {individual}",
        repertoire=tuple(syllable for syllable, kept in zip(repertoire, keep, strict=True) if kept),
        transitions=transitions / transitions.sum(axis=1, keepdims=True),
        pause_s=voice.pause_s / tempo,
    )


def plan_song(voice: Voice, duration_s: float, rng: np.random.Generator) -> list[Note]:
    """One walk through the grammar: notes in order of time, the last one over before duration_s.

    There is at least one note; where not even the first fits, it is cut short.
    """
    tempo = 2.0 ** (0.05 * _within_two_sigma(rng))
    notes: list[Note] = []
    state = 0 if rng.random() < 0.6 else int(rng.integers(len(voice.repertoire)))
    now_s = 0.0
    while True:
        for _ in range(int(rng.integers(voice.strophe_steps[0], voice.strophe_steps[1] + 1))):
            syllable = voice.repertoire[state]
            for _ in range(int(rng.integers(syllable.repeats[0], syllable.repeats[1] + 1))):
                sung = _varied(rng, syllable, 1.0, tempo, spread=0.25)
                if now_s + sung.duration_s > duration_s:
                    first = dataclasses.replace(sung, duration_s=min(sung.duration_s, duration_s))
                    return notes or [Note(onset_s=0.0, syllable=first, level_db=0.0)]
                notes.append(Note(onset_s=now_s, syllable=sung, level_db=float(-3.0 * rng.random())))
                now_s += sung.duration_s + sung.gap_s
            state = int(rng.choice(len(voice.repertoire), p=voice.transitions[state]))
        now_s += voice.pause_s / tempo * float(rng.uniform(0.7, 1.5))


def sing(notes: list[Note], n_samples: int, sampling_rate: int, rng: np.random.Generator) -> Float[np.ndarray, " s"]:
    """The notes as they leave the beak: no room, no noise, partials of at most unit amplitude."""
    song = np.zeros(n_samples)
    for note in notes:
        start = round(note.onset_s * sampling_rate)
        wave = 10 ** (note.level_db / 20) * syllable_waveform(note.syllable, sampling_rate, rng)
        stop = min(n_samples, start + len(wave))
        song[start:stop] += wave[: stop - start]
    return song


def syllable_waveform(syllable: SyllableType, sampling_rate: int, rng: np.random.Generator) -> Float[np.ndarray, " s"]:
    """Partials along the pitch's course under an envelope. A rattle's frequency is noisy: its line is a band."""
    time_s = np.arange(max(8, round(syllable.duration_s * sampling_rate))) / sampling_rate
    hz = np.minimum(syllable.centre_hz * 2.0 ** pitch_course(syllable, time_s), _HIGHEST_SHARE * sampling_rate)
    cycles = np.cumsum(hz) / sampling_rate
    if syllable.kind == "chatter":
        cycles += (
            np.cumsum(_ROUGHNESS * syllable.centre_hz * _slow_noise(rng, len(cycles), sampling_rate)) / sampling_rate
        )
    wave = np.zeros_like(cycles)
    for partial in range(1, _n_partials(syllable, float(hz.max()), sampling_rate) + 1):
        wave += 10 ** (-syllable.rolloff_db * (partial - 1) / 20) * np.sin(2 * np.pi * partial * cycles)
    return wave * _envelope(syllable, time_s)


def band_hz(syllable: SyllableType, sampling_rate: int) -> tuple[float, float]:
    """Lowest and highest frequency: fundamental to highest partial within 20 dB, and what pulses and noise add."""
    course = syllable.centre_hz * 2.0 ** pitch_course(syllable, np.linspace(0.0, syllable.duration_s, 1000))
    course = np.minimum(course, _HIGHEST_SHARE * sampling_rate)
    margin = {"buzz": 2 * syllable.rate_hz, "chatter": 2 * _ROUGHNESS * syllable.centre_hz}.get(syllable.kind, 0.0)
    audible = 1 + int(20.0 // syllable.rolloff_db)
    partials = min(audible, _n_partials(syllable, float(course.max()), sampling_rate))
    low, high = float(course.min()) - margin, float(course.max()) * partials + margin
    return max(0.0, low), min(sampling_rate / 2, high)


def pitch_course(syllable: SyllableType, time_s: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    """Octaves above centre_hz at each time."""
    u = np.clip(time_s / syllable.duration_s, 0.0, 1.0)
    swing = np.sin(2 * np.pi * syllable.rate_hz * time_s)
    match syllable.kind:
        case "fall":
            course = 0.5 - u**syllable.bend
        case "arch" | "stack":
            course = np.sin(np.pi * u**syllable.bend) - 0.5
        case "dip":
            course = 0.5 - np.sin(np.pi * u**syllable.bend)
        case "warble":
            course = 0.5 * swing
        case "yodel":
            course = 0.5 * np.tanh(5.0 * swing)
        case "trill":
            course = ((syllable.rate_hz * time_s) % 1.0) ** syllable.bend - 0.5
        case _:  # whistle, rise, buzz, chatter
            course = u**syllable.bend - 0.5
    return syllable.span * course


def _syllable_type(rng: np.random.Generator, letter: str, kind: str, pitch_hz: float, tempo: float) -> SyllableType:
    duration_s = rng.uniform(*_DURATION_S.get(kind, _LONG_DURATION_S)) / tempo
    span = rng.uniform(*_SPAN_OCTAVES.get(kind, _WIDE_SPAN_OCTAVES))
    mirrored = kind in ("whistle", "buzz", "trill", "chatter", "warble", "yodel") and rng.random() < 0.5
    centre_hz = pitch_hz * 2.0 ** rng.uniform(-0.45, 0.45)
    short = duration_s < 0.2
    fewest = int(rng.integers(2, 5)) if short else 1
    return SyllableType(
        letter=letter,
        kind=kind,
        centre_hz=centre_hz / 2.5 if kind == "stack" else centre_hz,
        span=-span if mirrored else span,
        duration_s=duration_s,
        bend=2.0 ** rng.uniform(-0.8, 0.8),
        rate_hz=rng.uniform(*_PULSES_PER_S[kind]) * tempo if kind in _PULSES_PER_S else 0.0,
        n_harmonics=int(rng.integers(6, 10)) if kind == "stack" else int(rng.integers(1, 4)),
        rolloff_db=rng.uniform(1.5, 5.0) if kind == "stack" else rng.uniform(14.0, 26.0),
        attack=rng.uniform(0.08, 0.45),
        repeats=(fewest, fewest + int(rng.integers(1, 4) if short else rng.integers(0, 2))),
        gap_s=rng.uniform(0.03, 0.14) / tempo,
    )


def _varied(
    rng: np.random.Generator, syllable: SyllableType, pitch: float, tempo: float, spread: float
) -> SyllableType:
    """A syllable moved by a common pitch and tempo factor and by random factors of its own, in proportion to spread."""
    pitch_own, duration_own, rate_own, span_own, gap_own = 2.0 ** (
        spread * 0.1 * np.clip(rng.standard_normal(5), -2, 2)
    )
    return dataclasses.replace(
        syllable,
        centre_hz=float(syllable.centre_hz * pitch * pitch_own**0.4),
        duration_s=float(syllable.duration_s / tempo * duration_own),
        rate_hz=float(syllable.rate_hz * tempo * rate_own),
        span=float(syllable.span * span_own**1.5),
        gap_s=float(syllable.gap_s / tempo * gap_own**2),
    )


def _envelope(syllable: SyllableType, time_s: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    """Raised-cosine attack and decay, zero at both ends, times the pulses of the kinds that have them."""
    u = (np.arange(len(time_s)) + 0.5) / len(time_s)
    attack, decay = syllable.attack, max(0.25, 0.7 - syllable.attack)
    envelope = np.sin(0.5 * np.pi * np.minimum(1.0, u / attack)) * np.sin(
        0.5 * np.pi * np.minimum(1.0, (1 - u) / decay)
    )
    pulse = 0.5 - 0.5 * np.cos(2 * np.pi * syllable.rate_hz * time_s)
    match syllable.kind:
        case "trill":
            return envelope**2 * pulse**0.7
        case "buzz":
            return envelope**2 * (0.1 + 0.9 * pulse)
        case "chatter":
            return envelope**2 * pulse**3
        case _:
            return envelope**2


def _n_partials(syllable: SyllableType, highest_hz: float, sampling_rate: int) -> int:
    return max(1, min(syllable.n_harmonics, int(_HIGHEST_SHARE * sampling_rate / highest_hz)))


def _slow_noise(rng: np.random.Generator, n_samples: int, sampling_rate: int) -> Float[np.ndarray, " s"]:
    """Normal noise of unit variance that changes within a millisecond: white noise, moving average."""
    width = sampling_rate // 1000
    total = np.cumsum(rng.standard_normal(n_samples + width))
    return (total[width:] - total[:-width]) / np.sqrt(width)


def _within_two_sigma(rng: np.random.Generator) -> float:
    return float(np.clip(rng.standard_normal(), -2.0, 2.0))
