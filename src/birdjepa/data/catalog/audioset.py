"""AudioSet: ten-second clips of YouTube, of which everybody holds as many as were still there."""

import csv
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, present, read_table, require_file

CLASSES = "class_labels_indices.csv"
BALANCED, UNBALANCED, EVAL = "balanced_train_segments.csv", "unbalanced_train_segments.csv", "eval_segments.csv"
_TIMES = r"(?:_[0-9]+(?:\.[0-9]+)?){0,2}"
"""The start, or start and end, that some downloaders put behind the name of a video."""
_NAMES = (re.compile(rf"([\w-]{{11}}){_TIMES}"), re.compile(rf"Y([\w-]{{11}}){_TIMES}"))


def read(folder: Path, *, name: str, lists: Mapping[str, str]) -> Reading:
    """The segments of some lists whose clips are found somewhere below the folder.

    A clip is known by its name alone: the video's eleven letters, with a Y before or the times behind where the
    downloader put them there. All videos of AudioSet are distinct, so folders do not matter.
    """
    classes = {row["mid"]: row["display_name"] for row in read_table(require_file(folder, CLASSES, name), _COLUMNS)}
    listed = {each: _segments(require_file(folder, each, name), classes) for each in lists}
    clips = _clips(folder, {row["path"] for rows in listed.values() for row in rows})
    rows = [
        {**row, "path": clips.get(row["path"], f"{each.removesuffix('_segments.csv')}/{row['path']}"), "split": split}
        for each, split in lists.items()
        for row in listed[each]
    ]
    return present(folder, rows)


_COLUMNS = ("index", "mid", "display_name")


def _segments(path: Path, classes: Mapping[str, str]) -> list[Row]:
    """A list of Google's: comments, then video, start, end and quoted classes; `path` is the video until it is found.

    Raises:
      LabelError: if the list is cut short, by what its second line says, or has a line of another form.
    """
    promised = None
    rows: list[Row] = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for number, cells in enumerate(csv.reader(file, skipinitialspace=True), start=1):
            if not cells:
                continue
            if cells[0].startswith("#"):
                found = re.search(r"num_segs=([0-9]+)", ",".join(cells))
                promised = int(found[1]) if found else promised
                continue
            mids = cells[3].split(",") if len(cells) == 4 else [""]
            if not classes.keys() >= set(mids):
                raise LabelError(str(path), 0.0, f"line {number} is not VIDEO, START, END, CLASSES of {CLASSES}")
            labels = ";".join(classes[mid].replace(";", ",") for mid in mids)
            rows.append({"path": cells[0], "labels": labels, "start_s": cells[1], "end_s": cells[2], "list": path.stem})
    if promised is not None and promised != len(rows):
        raise LabelError(str(path), 0.0, f"has {len(rows):,} segments, and promises {promised:,}: download it again")
    return rows


def _clips(folder: Path, videos: set[str]) -> dict[str, str]:
    """The audio file of each video below the folder, relative to it.

    Raises:
      UsageError: if one is there twice.
    """
    clips: dict[str, str] = {}
    for where, _, names in os.walk(folder, followlinks=True):
        inside = os.path.relpath(where, folder)
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in AUDIO_SUFFIXES:
                continue
            matches = (pattern.fullmatch(stem) for pattern in _NAMES)
            video = next((match[1] for match in matches if match and match[1] in videos), None)
            if video is None:
                continue
            path = os.path.normpath(os.path.join(inside, name))
            if video in clips:
                raise UsageError(f"{folder}: {video} is there twice: {clips[video]} and {path}; keep one of them")
            clips[video] = path
    return clips


def _how(name: str, lists: tuple[str, ...]) -> str:
    base = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
    wanted = "\n".join(f"wget {base}/{each} -P audioset" for each in (CLASSES, *lists))
    return f"""
{wanted}
Get the clips with a downloader of your choice, or from someone who has them, to anywhere below that folder:
VIDEO.wav, YVIDEO.wav, VIDEO_START.wav or VIDEO_START_END.wav, or any other kind of audio file with such a name.
birdjepa data prepare {name} audioset --out audioset/{name}.csv --partial
"""


_NOTES = (
    "published: 22,160 segments of balanced_train, 2,041,789 of unbalanced_train, 20,371 of eval; many videos are gone "
    "by now, so --partial is usual: say how many clips you have beside any number",
    "the clips are taken to be cut already; start_s and end_s are where in the video they lie; column list says which "
    "list a clip is of",
    "empty files, which downloaders leave for videos that are gone, count as missing",
    "labels are weak, and of uneven quality between classes",
)
_HOMEPAGE = "https://research.google.com/audioset/"
_LICENCE = "CC BY 4.0 for the lists; the sound is YouTube's"
_CITATION = "J. F. Gemmeke and others, Audio Set: An ontology and human-labeled dataset for audio events, ICASSP 2017"

AUDIOSET_20K = Dataset(
    name="audioset-20k",
    title="AudioSet, the balanced part (AS-20K): sound events of YouTube",
    homepage=_HOMEPAGE,
    licence=_LICENCE,
    citation=_CITATION,
    size="22,160 clips of 10 s to train, 20,371 to test, about 118 hours",
    how_to_get=_how("audioset-20k", (BALANCED, EVAL)),
    splits=(Split(name="train", n_rows=22_160, n_classes=527), Split(name="test", n_rows=20_371, n_classes=527)),
    read=functools.partial(read, name="audioset-20k", lists={BALANCED: "train", EVAL: "test"}),
    notes=_NOTES,
)
AUDIOSET_2M = Dataset(
    name="audioset-2m",
    title="AudioSet (AS-2M): sound events of YouTube",
    homepage=_HOMEPAGE,
    licence=_LICENCE,
    citation=_CITATION,
    size="22,160 and 2,041,789 clips of 10 s to train, 20,371 to test, about 5,800 hours",
    how_to_get=_how("audioset-2m", (BALANCED, UNBALANCED, EVAL)),
    splits=(Split(name="train", n_rows=2_063_949, n_classes=527), Split(name="test", n_rows=20_371, n_classes=527)),
    read=functools.partial(read, name="audioset-2m", lists={BALANCED: "train", UNBALANCED: "train", EVAL: "test"}),
    notes=_NOTES,
)
