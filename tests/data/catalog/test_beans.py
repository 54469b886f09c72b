"""BEANS: its published classes, and miniatures of all twelve sets as the benchmark's scripts leave them."""

import hashlib
import json

import pytest
from tiny_sets import loads, sound

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog import CATALOG
from birdjepa.data.catalog.base import prepare
from birdjepa.data.catalog.beans import BEANS
from birdjepa.data.catalog.classes import class_list
from birdjepa.data.catalog.events import Event, read_events, write_events

N_CLASSES = {
    "watkins": 31,
    "bats": 10,
    "cbi": 264,
    "dogs": 10,
    "humbugdb": 14,
    "esc50": 50,
    "speech-commands": 35,
    "dcase": 18,
    "enabirds": 34,
    "hiceas": 1,
    "rfcx": 24,
    "hainan-gibbons": 3,
}
LISTS = {
    "watkins": ("data/watkins/annotations.{}.csv", "data/watkins/{}.wav"),
    "bats": ("data/egyptian_fruit_bats/annotations.{}.csv", "data/egyptian_fruit_bats/audio/{}.wav"),
    "cbi": ("data/cbi/annotations.{}.csv", "data/cbi/wav/{}.wav"),
    "dogs": ("data/dogs/annotations.{}.csv", "data/dogs/wav/{}.wav"),
    "humbugdb": ("data/HumBugDB/data/metadata/{}.csv", "data/HumBugDB/data/audio/{}.wav"),
    "esc50": ("data/esc50/meta/esc50.{}.csv", "data/esc50/audio/{}.wav"),
    "speech-commands": ("data/speech_commands/{}.csv", "data/speech_commands/{}.wav"),
    "dcase": ("data/dcase/{}.jsonl", "data/dcase/wav/{}.wav"),
    "enabirds": ("data/enabirds/{}.jsonl", "data/enabirds/wav/{}.wav"),
    "hiceas": ("data/hiceas/{}.jsonl", "data/hiceas/wav/{}.wav"),
    "rfcx": ("data/rfcx/{}.jsonl", "data/rfcx/wav/{}.wav"),
    "hainan-gibbons": ("data/hainan_gibbons/{}.jsonl", "data/hainan_gibbons/wav/{}.wav"),
}
DETECTION = ("dcase", "enabirds", "hiceas", "rfcx", "hainan-gibbons")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def miniature(root, name):
    """Two recordings in train, one in valid, one in test; the first of train also in train-low."""
    lists, audio = LISTS[name]
    classes = class_list(f"beans-{name}")
    parts = {"train": ("a.000", "b.001"), "valid": ("c.000",), "test": ("d.000",), "train-low": ("a.000",)}
    for split, stems in parts.items():
        for stem in stems:
            write(root / audio.format(stem), sound(form="WAV"))
        if name in DETECTION:
            value = int(classes[-1]) if classes[-1].isdigit() else classes[-1]
            some = [{"st": 0.05, "ed": 0.31, "label": value}, {"st": 0.2, "ed": 0.2, "label": value}]
            lines = [
                json.dumps({"path": audio.format(stem), "length": 0.6, "annotations": [] if stem == "b.001" else some})
                for stem in stems
            ]
            write(root / lists.format(split), "".join(f"{line}\n" for line in lines))
        elif split != "train-low" or name != "cbi":  # cbi has no such list
            quoted = f'"{classes[0]}"' if "," in classes[0] else classes[0]
            lines = [f"{number},{audio.format(stem)},{quoted}" for number, stem in enumerate(stems)]
            write(root / lists.format(split), "\n".join([",path,label", *lines, ""]))
    return root


@pytest.mark.parametrize("name", N_CLASSES)
def test_published_classes(name):
    assert len(class_list(f"beans-{name}")) == len(set(class_list(f"beans-{name}"))) == N_CLASSES[name]
    assert f"{N_CLASSES[name]} classes" in CATALOG[f"beans-{name}"].title


def test_published_rows():
    rows = {each.name: tuple(split.n_rows for split in each.splits) for each in BEANS}
    assert len(BEANS) == 12
    assert rows.pop("beans-watkins") == (1017, 339, 339)
    assert rows.pop("beans-dogs") == (415, 139, 139)
    assert rows.pop("beans-esc50") == (1200, 400, 400)
    assert rows.pop("beans-speech-commands") == (84843, 9981, 11005)
    assert set(rows.values()) == {(None, None, None)}
    classes = {each.name: each.splits[0].n_classes for each in BEANS if each.splits[0].n_classes}
    assert classes == {f"beans-{n}": N_CLASSES[n] for n in N_CLASSES if n not in (*DETECTION, "cbi")}


@pytest.mark.parametrize("name", N_CLASSES)
def test_a_miniature_prepares_and_loads(name, tmp_path):
    root = miniature(tmp_path / "beans", name)
    prepared = prepare(CATALOG[f"beans-{name}"], root, tmp_path / "m.csv", partial=True)
    manifest, _ = loads(prepared.manifest)
    assert manifest.columns["split"] == ["train", "train", "valid", "test"]
    assert manifest.columns["train_low"] == ["" if name == "cbi" else "yes", "", "", ""]
    if name in DETECTION:
        cells = manifest.columns["events"]
        last = class_list(f"beans-{name}")[-1]
        assert read_events(cells[0]) == [Event(0.05, 0.31, last), Event(0.2, 0.2, last)]
        assert cells[1] == ""
        assert manifest.columns["labels"] == [last, "", last, last]
        assert manifest.duration_s.tolist() == [0.6] * 4
        assert manifest.columns["group"][0] == ("a.000" if name in ("hiceas", "rfcx") else "a")
    else:
        assert manifest.columns["label"] == [class_list(f"beans-{name}")[0]] * 4


def test_a_whole_miniature_is_not_partial(tmp_path):
    root = miniature(tmp_path / "beans", "dcase")
    assert len(prepare(CATALOG["beans-dcase"], root, tmp_path / "m.csv").rows) == 4
    inside = prepare(CATALOG["beans-dcase"], root / "data", tmp_path / "m.csv")
    assert loads(inside.manifest)[0].keys[0] == "beans/data/dcase/wav/a.000.wav"


def test_half_a_download_is_refused(tmp_path):
    root = miniature(tmp_path / "beans", "rfcx")
    (root / "data/rfcx/wav/c.000.wav").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 of the listed files are missing or empty \(data/rfcx/wav/c\.000\.wav\)"):
        prepare(CATALOG["beans-rfcx"], root, tmp_path / "m.csv")
    (root / "data/rfcx/valid.jsonl").unlink()
    with pytest.raises(UsageError, match=r"no data/rfcx/valid\.jsonl"):
        prepare(CATALOG["beans-rfcx"], root, tmp_path / "m.csv")
    with pytest.raises(UsageError, match="train has 2 rows instead of 1,017"):
        prepare(CATALOG["beans-watkins"], miniature(tmp_path / "w", "watkins"), tmp_path / "m.csv")


def test_lists_are_held_against_the_benchmarks_own_sums(tmp_path):
    root = miniature(tmp_path / "beans", "hiceas")
    sums = {
        name: hashlib.md5((root / name).read_bytes(), usedforsecurity=False).hexdigest()
        for name in ("data/hiceas/train.jsonl", "data/hiceas/test.jsonl")
    }
    write(root / "data/file_hashes", "".join(f"{name}\t{digest}\n" for name, digest in sums.items()))
    assert len(prepare(CATALOG["beans-hiceas"], root, tmp_path / "m.csv").rows) == 4
    with (root / "data/hiceas/test.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match=r"data/hiceas/test\.jsonl \(another split: its MD5 is not that of"):
        prepare(CATALOG["beans-hiceas"], root, tmp_path / "m.csv")


def test_labels_outside_of_the_list(tmp_path):
    root = miniature(tmp_path / "beans", "enabirds")
    lines = (root / "data/enabirds/test.jsonl").read_text().replace("OTHR", "EABL")
    write(root / "data/enabirds/test.jsonl", lines)
    rows = prepare(CATALOG["beans-enabirds"], root, tmp_path / "m.csv").rows
    assert rows[-1]["events"] == "0.05-0.31-OTHR;0.2-0.2-OTHR"
    gibbons = miniature(tmp_path / "g", "hainan-gibbons")
    lines = (gibbons / "data/hainan_gibbons/test.jsonl").read_text()
    write(
        gibbons / "data/hainan_gibbons/test.jsonl",
        lines.replace('"label": 3', '"label": 2.0', 1).replace(": 3}", ": 9}"),
    )
    rows = prepare(CATALOG["beans-hainan-gibbons"], gibbons, tmp_path / "m.csv").rows
    assert rows[-1]["events"] == "0.05-0.31-2;0.2-0.2-1"
    dcase = miniature(tmp_path / "d", "dcase")
    write(dcase / "data/dcase/test.jsonl", (dcase / "data/dcase/test.jsonl").read_text().replace("WTSP", "AGGM"))
    with pytest.raises(LabelError, match=r"test\.jsonl: line 1: 'AGGM' is none of the 18 classes"):
        prepare(CATALOG["beans-dcase"], dcase, tmp_path / "m.csv")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"path": "x.wav"}',
        '{"path": "x.wav", "length": 1, "annotations": [{"st": -1, "ed": 1, "label": "Q"}]}',
        "[]",
    ],
)
def test_a_broken_line_is_named(line, tmp_path):
    root = miniature(tmp_path / "beans", "dcase")
    with (root / "data/dcase/valid.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(LabelError, match=r"valid\.jsonl: line 2 cannot be read"):
        prepare(CATALOG["beans-dcase"], root, tmp_path / "m.csv")


def test_events_survive_a_cell():
    events = [Event(0.0, 1e-06, "White-sided_Dolphin"), Event(12.5, 3600.000001), Event(1e-9, 2.0, "an dirus")]
    cell = write_events(events)
    assert cell == "0-0.000001-White-sided_Dolphin;12.5-3600.000001;0-2-an dirus"
    assert read_events(cell) == [*events[:2], Event(0.0, 2.0, "an dirus")]
    assert read_events("") == []
    for bad in (Event(-1.0, 2.0), Event(0.0, float("nan")), Event(0.0, 1.0, "a;b")):
        with pytest.raises(ValueError, match="an event"):
            write_events([bad])
