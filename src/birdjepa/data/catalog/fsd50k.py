"""FSD50K: sound events of Freesound with several labels per clip."""

from pathlib import Path

from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.base import Dataset, Reading, Split, present, read_table, require_file

DEV, EVAL = "FSD50K.ground_truth/dev.csv", "FSD50K.ground_truth/eval.csv"


def read(folder: Path) -> Reading:
    """The clips of both lists; eval is called test, as everywhere here."""
    dev = read_table(require_file(folder, DEV, "fsd50k"), ("fname", "labels", "mids", "split"))
    evaluated = read_table(require_file(folder, EVAL, "fsd50k"), ("fname", "labels", "mids"))
    if wrong := {row["split"] for row in dev} - {"train", "val"}:
        raise LabelError(str(folder / DEV), 0.0, f"has the splits {', '.join(sorted(wrong))} beside train and val")
    rows = [_row(f"FSD50K.dev_audio/{row['fname']}.wav", row, row["split"]) for row in dev]
    rows += [_row(f"FSD50K.eval_audio/{row['fname']}.wav", row, "test") for row in evaluated]
    return present(folder, rows)


def _row(path: str, listed: dict[str, str], split: str) -> dict[str, str]:
    return {"path": path, "labels": ";".join(listed["labels"].split(",")), "split": split}


FSD50K = Dataset(
    name="fsd50k",
    title="FSD50K: sound events of Freesound",
    homepage="https://zenodo.org/record/4060432",
    licence="CC BY 4.0 as a whole; each clip CC0, CC BY, CC BY-NC or CC Sampling+ (FSD50K.metadata says which)",
    citation="E. Fonseca, X. Favory, J. Pons, F. Font, X. Serra, FSD50K: An Open Dataset of Human-Labeled Sound "
    "Events, IEEE/ACM TASLP 30, 2022",
    size="51,197 clips of 0.3 to 30 s at 44.1 kHz, 108.3 hours, 24.7 GB packed",
    archives={
        "FSD50K.dev_audio.z01": "faa7cf4cc076fc34a44a479a5ed862a3",
        "FSD50K.dev_audio.z02": "8f9b66153e68571164fb1315d00bc7bc",
        "FSD50K.dev_audio.z03": "1196ef47d267a993d30fa98af54b7159",
        "FSD50K.dev_audio.z04": "d088ac4e11ba53daf9f7574c11cccac9",
        "FSD50K.dev_audio.z05": "81356521aa159accd3c35de22da28c7f",
        "FSD50K.dev_audio.zip": "c480d119b8f7a7e32fdb58f3ea4d6c5a",
        "FSD50K.eval_audio.z01": "3090670eaeecc013ca1ff84fe4442aeb",
        "FSD50K.eval_audio.zip": "6fa47636c3a3ad5c7dfeba99f2637982",
        "FSD50K.ground_truth.zip": "ca27382c195e37d2269c4c866dd73485",
    },
    how_to_get="""
Download the files of the list below from the homepage into one folder; merge the parts, and unpack:
zip -s 0 FSD50K.dev_audio.zip --out dev.zip && unzip dev.zip
zip -s 0 FSD50K.eval_audio.zip --out eval.zip && unzip eval.zip
unzip FSD50K.ground_truth.zip
birdjepa data prepare fsd50k . --out fsd50k.csv
The folder holds FSD50K.dev_audio, FSD50K.eval_audio and FSD50K.ground_truth.
""",
    splits=(
        Split(name="train", n_rows=36_796),
        Split(name="val", n_rows=4_170),
        Split(name="test", n_rows=10_231, n_classes=200),
    ),
    read=read,
    notes=(
        "several labels per clip, those of parent classes among them; train and val are the 40,966 clips of dev, test "
        "is eval",
        "dev and eval have 200 classes each; how many of them train and val have by themselves is not published",
        "the labels of dev are correct but may be incomplete, those of eval are complete",
        "ESC-50 holds some of the same Freesound recordings",
    ),
)
