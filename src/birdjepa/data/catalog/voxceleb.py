"""VoxCeleb1, its task of naming the speaker: interviews of celebrities, split by video."""

from pathlib import Path

from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.base import Dataset, Reading, Split, not_a_download, present, require_file

LIST = "iden_split.txt"
SPLITS = {"1": "train", "2": "val", "3": "test"}
PARTS = ("wav", "dev/wav", "test/wav")
"""Where speakers may lie: both archives unpacked into one folder, or each into its own."""


def read(folder: Path) -> Reading:
    """Every utterance of the list, wherever its speaker lies."""
    listed = require_file(folder, LIST, "voxceleb1")
    home = {path.name: part for part in PARTS for path in (folder / part).glob("id*")}
    if not home:
        raise not_a_download(folder, PARTS[0], "voxceleb1")
    rows = []
    for number, line in enumerate(listed.read_text().split("\n"), start=1):
        if not line.strip():
            continue
        digit, _, path = line.strip().partition(" ")
        speaker, *inside = path.split("/")
        if digit not in SPLITS or len(inside) != 2:
            raise LabelError(str(listed), 0.0, f"line {number} is not 1, 2 or 3 and SPEAKER/VIDEO/NUMBER.wav: {line!r}")
        rows.append(
            {
                "path": f"{home.get(speaker, PARTS[0])}/{path}",
                "label": speaker,
                "split": SPLITS[digit],
                "group": f"{speaker}/{inside[0]}",
            }
        )
    return present(folder, rows)


VOXCELEB1 = Dataset(
    name="voxceleb1",
    title="VoxCeleb1: who speaks in an interview",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
    licence="CC BY 4.0 for the annotations; the sound is YouTube's, for research only, and must be asked for",
    citation="A. Nagrani, J. S. Chung, A. Zisserman, VoxCeleb: a large-scale speaker identification dataset, "
    "Interspeech 2017",
    size="153,516 utterances of 1,251 speakers at 16 kHz, about 352 hours",
    archives={
        "vox1_dev_wav_partaa": "e395d020928bc15670b570a21695ed96",
        "vox1_dev_wav_partab": "bbfaaccefab65d82b21903e81a8a8020",
        "vox1_dev_wav_partac": "017d579a2a96a077f40042ec33e51512",
        "vox1_dev_wav_partad": "7bb1e9f70fddc7a678fa998ea8b3ba19",
        "vox1_test_wav.zip": "185fdc63c3c739954633d50379a3d102",
    },
    how_to_get="""
Ask for access on the homepage; download the four parts of dev and the archive of test.
mkdir voxceleb1 && cat vox1_dev_wav_parta* > vox1_dev_wav.zip
unzip vox1_dev_wav.zip -d voxceleb1 && unzip vox1_test_wav.zip -d voxceleb1
wget https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/iden_split.txt -P voxceleb1
birdjepa data prepare voxceleb1 voxceleb1 --out voxceleb1.csv
The folder holds iden_split.txt and wav/SPEAKER/VIDEO/NUMBER.wav (or dev/wav and test/wav).
""",
    splits=(
        Split(name="train", n_rows=138_361, n_classes=1251),
        Split(name="val", n_rows=6_904, n_classes=1251),
        Split(name="test", n_rows=8_251, n_classes=1251),
    ),
    read=read,
    notes=(
        "naming the speaker needs both archives: dev and test of the archives are parts of the task of verification",
        "group is the video; what is tested of a speaker comes from one video that is kept for it",
        "speakers are called id10001 and so on; older downloads have names of people and do not fit the list",
    ),
)
