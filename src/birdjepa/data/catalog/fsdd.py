"""Free Spoken Digit Dataset: ten digits said fifty times by each of six speakers."""

import re
from pathlib import Path

from birdjepa.data.catalog.base import Dataset, Reading, Split, not_a_download, present

N_TAKES = 50
"""Takes of each digit by each speaker."""
N_TEST_TAKES = 5
"""The first of them are the test part."""
_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")


def read(folder: Path) -> Reading:
    """All takes of the speakers that are there. The set has no list, but a speaker's files have known names."""
    found = [match for path in sorted((folder / "recordings").glob("*.wav")) if (match := _NAME.fullmatch(path.name))]
    if not found:
        raise not_a_download(folder, "recordings/0_george_0.wav", "fsdd")
    takes = {match.groups() for match in found}
    speakers = {speaker for _, speaker, _ in takes}
    takes |= {(str(digit), each, str(take)) for digit in range(10) for each in speakers for take in range(N_TAKES)}
    return present(
        folder,
        [
            {
                "path": f"recordings/{digit}_{speaker}_{take}.wav",
                "label": digit,
                "split": "test" if int(take) < N_TEST_TAKES else "train",
                "speaker": speaker,
                "take": take,
            }
            for digit, speaker, take in sorted(takes, key=lambda each: (each[0], each[1], int(each[2])))
        ],
    )


FSDD = Dataset(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    licence="CC BY-SA 4.0",
    citation="Z. Jackson and others, Free Spoken Digit Dataset (FSDD), DOI 10.5281/zenodo.1342401",
    size="3,000 recordings of about half a second at 8 kHz, 6 speakers",
    how_to_get="""
git clone https://github.com/Jakobovski/free-spoken-digit-dataset
birdjepa data prepare fsdd free-spoken-digit-dataset --out fsdd.csv
The folder holds recordings/DIGIT_SPEAKER_TAKE.wav.
""",
    splits=(Split(name="train", n_rows=2700, n_classes=10), Split(name="test", n_rows=300, n_classes=10)),
    read=read,
    notes=(
        "takes 0 to 4 are the official test part (--folds split); all speakers are in both parts",
        "to test on other speakers than those trained on: --folds speaker",
        "earlier states of the repository held fewer speakers and cannot be compared",
    ),
)
