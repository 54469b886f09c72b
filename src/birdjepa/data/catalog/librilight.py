"""Libri-Light: tens of thousands of hours of audio books without transcripts, in three parts that add up."""

import json
from pathlib import Path

from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, not_a_download, present

PARTS = ("small", "medium", "large")


def read(folder: Path) -> Reading:
    """Recordings with their description; either without the other is missing its pair."""
    if not any((folder / part).is_dir() for part in PARTS):
        raise not_a_download(folder, PARTS[0], "librilight")
    rows: list[Row] = []
    undescribed: dict[str, str] = {}
    for part in PARTS:
        for path in sorted((folder / part).glob("*/*/*.json")):
            rows.append({"path": str(path.with_suffix(".flac").relative_to(folder)), "split": part, **_facts(path)})
        described = {row["path"] for row in rows}
        for path in sorted((folder / part).glob("*/*/*.flac")):
            if str(path.relative_to(folder)) not in described:
                undescribed[str(path.with_suffix(".json").relative_to(folder))] = part
    found = present(folder, rows)
    return Reading(found.rows, [*undescribed, *found.missing], {**undescribed, **found.missing_splits})


def _facts(path: Path) -> dict[str, str]:
    """Speaker, book, signal-to-noise ratio and how much of the recording is speech."""
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        book = described["book_meta"]
        speech_s = sum(offset_s - onset_s for onset_s, offset_s in described.get("voice_activity") or [])
        return {
            "label": str(described["speaker"]),
            "group": str(book["id"]),
            "genre": str(book.get("meta_genre", "")),
            "snr": str(described.get("snr", "")),
            "speech_s": f"{speech_s:.2f}",
        }
    except (ValueError, KeyError, TypeError) as error:
        what = f"no description of a recording ({type(error).__name__}: {error}): unpack it again"
        raise LabelError(str(path), 0.0, what) from None


LIBRILIGHT = Dataset(
    name="librilight",
    title="Libri-Light: read English without transcripts",
    homepage="https://github.com/facebookresearch/libri-light",
    licence="the recordings are in the public domain (LibriVox); the code is MIT",
    citation="J. Kahn and others, Libri-Light: A Benchmark for ASR with Limited or No Supervision, ICASSP 2020",
    size="219,041 recordings at 16 kHz: small 577 hours, 35 GB; medium 5,193 hours, 321 GB; large 51,934 hours, 3 TB",
    how_to_get="""
Download the parts that you want, for example small, and unpack them into one folder:
mkdir librilight && wget https://dl.fbaipublicfiles.com/librilight/data/small.tar && tar xf small.tar -C librilight
birdjepa data prepare librilight librilight --splits small --out librilight.csv
The folder holds PART/SPEAKER/BOOK/*.flac, each with its .json.
""",
    splits=tuple(Split(name=part, n_rows=None) for part in PARTS),
    read=read,
    notes=(
        "the splits of the paper add up: 600 hours are small, 6,000 small and medium, 60,000 all three",
        "recordings per part are not published beside the downloads, so only pairs of recording and description are "
        "checked; md5sums are not published",
        "label is the speaker, group the book; snr and speech_s are from the makers' detector of voices",
        "recordings are 16 minutes long on average: draw them by duration, the default",
        "part duplicate holds books that are there already and is not taken",
    ),
)
