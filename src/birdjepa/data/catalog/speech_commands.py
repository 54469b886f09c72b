"""Speech Commands, versions 1 and 2: one-second words, split by lists so that no speaker is in two parts."""

import functools
from pathlib import Path

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog.base import Dataset, Reading, Split, present, require_file

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""Words that the 12-class convention keeps apart; any other is `unknown` there."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_OTHERS = ("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow")
WORDS_V1 = (*COMMANDS, *_DIGITS, *_OTHERS)
WORDS_V2 = (*WORDS_V1, "backward", "follow", "forward", "learn", "visual")
LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
"""The lists of a download and the splits they name; every other file of a word trains."""


def read(folder: Path, *, name: str, words: tuple[str, ...]) -> Reading:
    """The words of a version. Noise for the silence class is not among them."""
    split_of = {}
    for listed, split in LISTS.items():
        for number, line in enumerate(require_file(folder, listed, name).read_text().split("\n"), start=1):
            if not line:
                continue
            word, slash, file = line.partition("/")
            if not slash or not file.endswith(".wav"):
                raise LabelError(str(folder / listed), 0.0, f"line {number} is not WORD/FILE.wav: {line[:40]!r}")
            if word not in words:
                raise UsageError(f"{folder}: {listed} has the word {word!r}, which {name} has not; another version?")
            split_of[line] = split
    on_disk = (f"{word}/{path.name}" for word in words for path in (folder / word).glob("*.wav"))
    paths = sorted({*split_of, *on_disk})
    found = present(folder, [_row(path, split_of.get(path, "train")) for path in paths])
    absent = {f"{word}/": "train" for word in words if not (folder / word).is_dir()}
    return Reading(found.rows, [*absent, *found.missing], {**absent, **found.missing_splits})


def _row(path: str, split: str) -> dict[str, str]:
    word, _, file = path.partition("/")
    label12 = word if word in COMMANDS else "unknown"
    return {"path": path, "label": word, "label12": label12, "split": split, "group": file.partition("_nohash_")[0]}


def _how(version: str, name: str) -> str:
    archive = f"speech_commands_v{version}.tar.gz"
    return f"""
wget http://download.tensorflow.org/data/{archive}
mkdir {name} && tar xzf {archive} -C {name}
birdjepa data prepare {name} {name} --out {name}.csv
The folder holds a folder for each word, testing_list.txt and validation_list.txt.
"""


_HOMEPAGE = "https://arxiv.org/abs/1804.03209"
_CITATION = "P. Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, arXiv 1804.03209, 2018"
_NOTES = (
    "all words are classes in column label; the convention of 12 classes (yes no up down left right on off stop go, "
    "unknown, silence) is column label12 (--columns.label label12), but for silence",
    "silence is cut from _background_noise_, which is left out here; numbers of 12 classes with silence are measured "
    "on a separate archive, speech_commands_test_set, where the classes are equally frequent, and are not comparable",
    "group is the speaker; the lists keep each speaker in one part",
)

SPEECH_COMMANDS_V1 = Dataset(
    name="speech-commands-v1",
    title="Speech Commands v0.01: 30 words",
    homepage=_HOMEPAGE,
    licence="CC BY 4.0",
    citation=_CITATION,
    size="64,721 words of at most 1 s at 16 kHz, about 1.5 GB packed",
    archives={"speech_commands_v0.01.tar.gz": "3cd23799cb2bbdec517f1cc028f8d43c"},
    how_to_get=_how("0.01", "speech-commands-v1"),
    splits=(
        Split(name="train", n_rows=51_088, n_classes=30),
        Split(name="val", n_rows=6_798, n_classes=30),
        Split(name="test", n_rows=6_835, n_classes=30),
    ),
    read=functools.partial(read, name="speech-commands-v1", words=WORDS_V1),
    notes=_NOTES,
)
SPEECH_COMMANDS_V2 = Dataset(
    name="speech-commands-v2",
    title="Speech Commands v0.02: 35 words",
    homepage=_HOMEPAGE,
    licence="CC BY 4.0",
    citation=_CITATION,
    size="105,829 words of at most 1 s at 16 kHz, 2,618 speakers, about 2.4 GB packed",
    archives={"speech_commands_v0.02.tar.gz": "6b74f3901214cb2c2934e98196829835"},
    how_to_get=_how("0.02", "speech-commands-v2"),
    splits=(
        Split(name="train", n_rows=84_843, n_classes=35),
        Split(name="val", n_rows=9_981, n_classes=35),
        Split(name="test", n_rows=11_005, n_classes=35),
    ),
    read=functools.partial(read, name="speech-commands-v2", words=WORDS_V2),
    notes=_NOTES,
)
