"""LibriSpeech: read English of audio books with what was said, in seven parts that share no speaker."""

from pathlib import Path

from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, not_a_download, present

PARTS = {
    "train-clean-100": (28_539, 251, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (104_014, 921, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": (148_688, 1166, "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean": (2_703, 40, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (2_864, 33, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (2_620, 40, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": (2_939, 33, "fb5a50374b501bb3bac4815ee91d3135"),
}
"""Utterances, speakers and the archive's MD5 of each part."""


def read(folder: Path) -> Reading:
    """The utterances that the transcripts of the chapters list; a chapter without its transcript is missing."""
    if not any((folder / part).is_dir() for part in PARTS):
        deeper = next((part for part in PARTS if any(folder.glob(f"*/{part}"))), "dev-clean")
        raise not_a_download(folder, deeper, "librispeech")
    rows: list[Row] = []
    without: dict[str, str] = {}
    for part in PARTS:
        for chapter in sorted((folder / part).glob("*/*")):
            where = chapter.relative_to(folder)
            listed = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
            if listed.is_file():
                rows += _utterances(listed, where, part)
            elif chapter.is_dir():
                without[str(where / listed.name)] = part
    found = present(folder, rows)
    return Reading(found.rows, [*without, *found.missing], {**without, **found.missing_splits})


def _utterances(listed: Path, where: Path, part: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(listed.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        name, _, text = line.partition(" ")
        speaker, *rest = name.split("-")
        if len(rest) != 2 or not text:
            raise LabelError(str(listed), 0.0, f"line {number} is not an utterance and its words: {line[:40]!r}")
        row = {"path": str(where / f"{name}.flac"), "label": speaker, "split": part}
        rows.append({**row, "group": f"{speaker}-{rest[0]}", "text": text})
    return rows


LIBRISPEECH = Dataset(
    name="librispeech",
    title="LibriSpeech: read English",
    homepage="https://www.openslr.org/12",
    licence="CC BY 4.0",
    citation="V. Panayotov, G. Chen, D. Povey, S. Khudanpur, Librispeech: an ASR corpus based on public domain audio "
    "books, ICASSP 2015",
    size="292,367 utterances at 16 kHz, about 1,000 hours, 60 GB packed",
    archives={f"{part}.tar.gz": md5 for part, (_, _, md5) in PARTS.items()},
    how_to_get="""
Download the parts that you want, for example dev-clean, and unpack them where you are:
wget https://www.openslr.org/resources/12/dev-clean.tar.gz && tar xzf dev-clean.tar.gz
birdjepa data prepare librispeech LibriSpeech --splits dev-clean --out librispeech.csv
The folder LibriSpeech holds PART/SPEAKER/CHAPTER/*.flac, each chapter with its .trans.txt.
""",
    splits=tuple(Split(name=part, n_rows=rows, n_classes=speakers) for part, (rows, speakers, _) in PARTS.items()),
    read=read,
    notes=(
        "label is the speaker, group the chapter, text what was said; no speaker is in two parts, so speakers can only "
        "be probed within a part (folds by chapter are made without --folds)",
    ),
)
