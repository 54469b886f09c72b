"""BirdsongRecognition: songs of Bengalese finches with every note annotated (Koumura and Okanoya 2016)."""

import functools
from pathlib import Path

from birdjepa.audio import decode
from birdjepa.audio.labels import read_recordings
from birdjepa.core.errors import AudioError
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, not_a_download, present

ANNOTATION = "Annotation.xml"
BIRDS = tuple(f"Bird{number}" for number in range(11))


def read(folder: Path) -> Reading:
    """A row for each note of the birds that are there; songs whose recording is missing are listed."""
    birds = [bird for bird in BIRDS if (folder / bird / ANNOTATION).is_file()]
    if not birds:
        raise not_a_download(folder, f"{BIRDS[0]}/{ANNOTATION}", "birdsong-recognition")
    rows: list[Row] = []
    for bird in birds:
        rate_of = functools.partial(_rate, folder / bird / "Wave")
        labels = read_recordings(folder / bird / ANNOTATION, rate_of=rate_of)
        for name, notes in labels.items():
            about = {"path": f"{bird}/Wave/{name}", "split": "all", "group": f"{bird}/{name}", "bird": bird}
            rows += [
                {**about, "onset_s": f"{note.onset_s:.6f}", "offset_s": f"{note.offset_s:.6f}", "label": note.label}
                for note in notes
            ]
    return present(folder, rows)


def _rate(folder: Path, name: str) -> float:
    """Sampling rate in Hz, by which notes are counted; a missing recording gets what all of the set have."""
    try:
        return float(decode.probe(folder / name).sampling_rate)
    except AudioError:
        return 32_000.0


BIRDSONG_RECOGNITION = Dataset(
    name="birdsong-recognition",
    title="BirdsongRecognition: songs of Bengalese finches, every note annotated",
    homepage="https://doi.org/10.6084/m9.figshare.3470165",
    licence="CC BY 4.0",
    citation="T. Koumura, K. Okanoya, Automatic recognition of element classes and boundaries in the birdsong with "
    "variable sequences, PLOS ONE 2016",
    size="songs of 11 birds at 32 kHz; the number of notes is not published with them",
    how_to_get="""
Download the birds' archives (Bird0.zip and so on) from the homepage and unpack them into one folder.
birdjepa data prepare birdsong-recognition FOLDER --out birdsong-recognition.csv
The folder holds Bird0/Annotation.xml, Bird0/Wave/0.wav and so on; some birds are enough.
""",
    splits=(Split(name="all", n_rows=None),),
    read=read,
    notes=("a note's name means something for its bird only", "some recordings hold sounds that are not annotated"),
)
