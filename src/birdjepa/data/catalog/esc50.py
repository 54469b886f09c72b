"""ESC-50 and its subset ESC-10: environmental sounds in five official folds."""

from pathlib import Path

from birdjepa.data.catalog.base import Dataset, Reading, Split, present, read_table, require_file

META = "meta/esc50.csv"


def read_esc50(folder: Path) -> Reading:
    """All 2,000 clips, each in the fold of its name."""
    return _read(folder, only_esc10=False)


def read_esc10(folder: Path) -> Reading:
    """The 400 clips of ten classes, in the same folds."""
    return _read(folder, only_esc10=True)


def _read(folder: Path, *, only_esc10: bool) -> Reading:
    listed = read_table(require_file(folder, META, "esc50"), ("filename", "fold", "category", "esc10", "src_file"))
    return present(
        folder,
        [
            {
                "path": f"audio/{row['filename']}",
                "label": row["category"],
                "split": "all",
                "fold": row["fold"],
                "group": row["src_file"],
            }
            for row in listed
            if row["esc10"] == "True" or not only_esc10
        ],
    )


_HOW = """
git clone https://github.com/karolpiczak/ESC-50
birdjepa data prepare esc50 ESC-50 --out esc50.csv
The folder holds meta/esc50.csv and audio/*.wav.
"""
_CITATION = "K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015"

ESC50 = Dataset(
    name="esc50",
    title="ESC-50: environmental sounds",
    homepage="https://github.com/karolpiczak/ESC-50",
    licence="CC BY-NC 3.0 (ESC-10: CC BY 3.0); the clips come from freesound.org",
    citation=_CITATION,
    size="2,000 clips of 5 s at 44.1 kHz, 2.8 hours, 0.6 GB",
    how_to_get=_HOW,
    splits=(Split(name="all", n_rows=2000, n_classes=50),),
    read=read_esc50,
    notes=("score in the five official folds (--folds fold)", "FSD50K holds some of the same freesound recordings"),
)
ESC10 = Dataset(
    name="esc10",
    title="ESC-10: ten classes of ESC-50",
    homepage=ESC50.homepage,
    licence="CC BY 3.0; the clips come from freesound.org",
    citation=_CITATION,
    size="400 clips of 5 s at 44.1 kHz, 0.6 hours; a download of ESC-50",
    how_to_get=_HOW.replace("esc50 ESC-50 --out esc50", "esc10 ESC-50 --out esc10"),
    splits=(Split(name="all", n_rows=400, n_classes=10),),
    read=read_esc10,
    notes=ESC50.notes,
)
