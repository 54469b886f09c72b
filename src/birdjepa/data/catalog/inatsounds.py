"""iNatSounds 2024: animals that observers of iNaturalist recorded, one species per recording."""

import json
from pathlib import Path
from typing import Any

from birdjepa.core.errors import LabelError
from birdjepa.data.catalog.base import Dataset, Reading, Row, Split, not_a_download, present

SPLITS = ("train", "val", "test")


def read(folder: Path) -> Reading:
    """The recordings of the lists that are there; a list that is not is missing."""
    if not any((folder / f"{split}.json").is_file() for split in SPLITS):
        raise not_a_download(folder, f"{SPLITS[0]}.json", "inatsounds")
    rows: list[Row] = []
    lists: dict[str, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.json"
        if path.is_file():
            rows += _listed(path, split)
        else:
            lists[path.name] = split
    found = present(folder, rows)
    return Reading(found.rows, [*lists, *found.missing], {**lists, **found.missing_splits})


def _listed(path: Path, split: str) -> list[Row]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        recordings = {each["id"]: each for each in found["audio"]}
        species = {each["id"]: each for each in found["categories"]}
        pairs = [(recordings[each["audio_id"]], species[each["category_id"]]) for each in found["annotations"]]
        return [_row(recording, kind, split) for recording, kind in pairs]
    except (ValueError, KeyError, TypeError) as error:
        what = f"not the published list, or cut short ({type(error).__name__}: {error})"
        raise LabelError(str(path), 0.0, what) from None


def _row(recording: dict[str, Any], kind: dict[str, Any], split: str) -> Row:
    described = {"common_name": kind.get("common_name"), "supercategory": kind.get("supercategory")}
    described |= {name: recording.get(name) for name in ("date", "latitude", "longitude")}
    path = _path(str(recording["file_name"]), str(kind.get("audio_dir_name", "")), split)
    told = {name: "" if value is None else str(value) for name, value in described.items()}
    return {"path": path, "label": str(kind["name"]), "split": split, **told}


def _path(name: str, species_folder: str, split: str) -> str:
    """SPLIT/SPECIES/FILE, of which the list may spell out all, the last two, or the file alone."""
    parts = [split, species_folder, *name.split("/")]
    return "/".join([split, *name.split("/")[-2:]] if "/" in name else parts)


INATSOUNDS = Dataset(
    name="inatsounds",
    title="iNatSounds 2024: animals of iNaturalist",
    homepage="https://github.com/visipedia/inat_sounds/tree/main/2024",
    licence="non-commercial research and education only, no redistribution; recordings are their recordists'",
    citation="M. Chasmai and others, The iNaturalist Sounds Dataset, NeurIPS 2024 Datasets and Benchmarks, "
    "arXiv 2506.00343",
    size="137,012, 45,698 and 49,527 recordings of 5,569 species at 22.05 kHz; 81, 25 and 27 GB packed",
    archives={
        "train.tar.gz": "181c5419220c8a9468a12b8c938469ec",
        "val.tar.gz": "828e4cf96e818228cb3536469cb3fb1c",
        "test.tar.gz": "082a2e96ca34f6c9f61767e33cbf3626",
        "train.json.tar.gz": "d0ae17ef52078194d450a83b5efe68a4",
        "val.json.tar.gz": "8e6e4b9628d43e36f1fea4621945403a",
        "test.json.tar.gz": "5482f112f05db4ba8576ba425d95d6a7",
    },
    how_to_get="""
Download the parts that you want, each as PART.tar.gz and PART.json.tar.gz, and unpack them into one folder:
wget https://ml-inat-competition-datasets.s3.amazonaws.com/sounds/2024/val.tar.gz
wget https://ml-inat-competition-datasets.s3.amazonaws.com/sounds/2024/val.json.tar.gz
mkdir inatsounds && tar xzf val.tar.gz -C inatsounds && tar xzf val.json.tar.gz -C inatsounds
birdjepa data prepare inatsounds inatsounds --splits val --out inatsounds.csv
The folder holds PART.json and PART/SPECIES/*.wav.
""",
    splits=(
        Split(name="train", n_rows=137_012, n_classes=5569),
        Split(name="val", n_rows=45_698, n_classes=1212),
        Split(name="test", n_rows=49_527, n_classes=1212),
    ),
    read=read,
    notes=(
        "label is the scientific name; 1,212 of the 5,569 species are evaluated",
        "the makers score each recording once, averaged over classes (top-1, top-5, mAP, F1)",
        "an earlier page (gvanhorn38/iNatSounds) gives other md5sums for the three .json.tar.gz",
    ),
)
