"""BirdSet: its published counts, and miniatures in the three layouts that a download can have."""

import dataclasses
import json

import pyarrow
import pyarrow.parquet as parquet
import pytest
from tiny_sets import loads, sound, write_tar

from birdjepa.core import files
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog import CATALOG, shards
from birdjepa.data.catalog.base import prepare
from birdjepa.data.catalog.birdset import BIRDSET, entry, read_vox
from birdjepa.data.catalog.birdset_tasks import COMMIT, TASKS
from birdjepa.data.catalog.classes import class_list
from birdjepa.data.catalog.events import read_events

TABLE = {
    "PER": (16802, 14798, 15120, 132, 10.5),
    "NES": (16117, 6952, 24480, 89, 14.2),
    "UHH": (3626, 59583, 36637, 27, 4.92),
    "HSN": (5460, 10296, 12000, 21, 5.92),
    "NBP": (24327, 5493, 563, 51, 29.9),
    "POW": (14911, 16052, 4560, 48, 15.7),
    "SSW": (28403, 50760, 205200, 81, 35.2),
    "SNE": (19390, 20147, 23756, 56, 20.8),
    "XCM": (89798, 0, 0, 411, 89.3),
    "XCL": (528434, 0, 0, 0, 484),
}
SHARDS = {
    "PER": (11, 3, 1),
    "NES": (13, 8, 1),
    "UHH": (5, 7, 1),
    "HSN": (7, 3, 1),
    "NBP": (32, 1, 1),
    "POW": (9, 3, 1),
    "SSW": (29, 36, 4),
    "SNE": (21, 5, 1),
    "XCM": (182, 0, 0),
    "XCL": (98, 0, 0),
}
BY_NAME = {task.name: task for task in TASKS}

HSN = dataclasses.replace(
    BY_NAME["HSN"], n_train=5, n_test=3, n_test_5s=4, n_train_classes=3, train_shards=2, test_shards=1, test_5s_shards=1
)
CLIPS = [f"HSN_093_20150712_085105_{start}_{start + 5}.ogg" for start in (0, 5, 235)] + [
    "HSN_001_20150708_061805_5_10.ogg"
]
TRAIN = [f"XC{number}.ogg" for number in (11, 22, 33, 44, 55)]
CODES = ["gcrfin", "whcspa", "amepip", "gcrfin", "whcspa"]


def train_cells():
    return [
        {
            "filepath": name,
            "ebird_code": code,
            "ebird_code_multilabel": [code, "amepip"] if code != "amepip" else [code],
            "lat": -34.5,
            "long": 12.25,
            "license": "//creativecommons.org/licenses/by-nc-sa/4.0/",
            "source": "https://xeno-canto.org/11",
            "quality": "A",
            "recordist": "A. Recordist",
            "detected_events": [[0.1, 0.35], [0.4, 0.5]],
            "start_time": None,
            "end_time": None,
        }
        for name, code in zip(TRAIN, CODES, strict=True)
    ]


def clip_cells():
    codes = [["gcrfin"], [], ["whcspa", "amepip"], ["gcrfin"]]
    return [{"filepath": name, "ebird_code_multilabel": each} for name, each in zip(CLIPS, codes, strict=True)]


def box_cells():
    box = {"ebird_code_multilabel": ["gcrfin"], "ebird_code": "gcrfin", "low_freq": 500, "high_freq": 3000}
    names = ["HSN_093_20150712_085105.ogg"] * 2 + ["HSN_001_20150708_061805.ogg"]
    times = [(0.05, 0.5), (0.1, 0.6), (0.0, 0.55)]
    return [{"filepath": n, **box, "start_time": s, "end_time": e} for n, (s, e) in zip(names, times, strict=True)]


def write_metadata(path, cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(cells), path)


@pytest.fixture
def published(tmp_path):
    """The makers' own layout, with what lies around in it."""
    root = tmp_path / "BirdSet"
    for split, cells in (("train", train_cells()), ("test_5s", clip_cells()), ("test", box_cells())):
        write_metadata(root / f"HSN/HSN_metadata_{split}.parquet", cells)
    write_metadata(root / "HSN/HSN_metadata_train_old.parquet", train_cells()[:2])
    write_tar(root / "HSN/HSN_train_shard_0001.tar.gz", {f"deep/er/{name}": sound() for name in TRAIN[:3]})
    write_tar(
        root / "HSN/HSN_train_shard_0002.tar.gz",
        {f"./{n}": sound() for n in TRAIN[3:]} | {"._XC44.ogg": b"x", "README": b"x"},
    )
    write_tar(root / "HSN/HSN_test5s_shard_0001.tar.gz", {name: sound() for name in CLIPS})
    write_tar(root / "HSN/HSN_test_shard_0001.tar.gz", {cell["filepath"]: sound() for cell in box_cells()})
    return root


SMALL = entry(HSN, ("train", "test_5s"))
BOXES = entry(HSN, ("test",), "-boxes")


@pytest.mark.parametrize("name", TABLE)
def test_published_counts(name):
    task, (n_train, n_test, n_test_5s, n_classes, size_gb) = BY_NAME[name], TABLE[name]
    assert (task.n_train, task.n_test, task.n_test_5s, task.size_gb) == (n_train, n_test, n_test_5s, size_gb)
    assert (task.train_shards, task.test_shards, task.test_5s_shards) == SHARDS[name]
    assert len(task.classes) == len(set(task.classes)) == n_classes
    splits = {split.name: (split.n_rows, split.n_classes) for split in CATALOG[f"birdset-{name.lower()}"].splits}
    if name == "XCL":
        assert splits == {"train": (None, None)}
        assert task.n_rows("train") == (528434, 528422)
    else:
        in_train = {"UHH": 25, "XCM": 409}.get(name, n_classes)
        assert splits["train"] == (n_train, in_train)
    if n_test:
        assert splits["test_5s"] == (n_test_5s, 88 if name == "NES" else None)
        assert CATALOG[f"birdset-{name.lower()}-boxes"].splits[0].n_rows == n_test
        assert CATALOG[f"birdset-{name.lower()}-test5s"].splits[0].n_rows == n_test_5s


def test_the_set_as_a_whole():
    assert {task.name for task in TASKS} == set(TABLE)
    assert len(BIRDSET) == 3 * 8 + 3
    assert sum(task.n_test_5s for task in TASKS) == 322_316
    assert sum(task.n_train for task in TASKS if task.n_test) == 129_036
    assert CATALOG["birdset-vox"].splits[0].n_rows == 20_331
    assert BY_NAME["NES"].classes[74] == "rucwar1"
    assert BY_NAME["HSN"].classes[:3] == ("gcrfin", "whcspa", "amepip")
    tasks = {code for task in TASKS if task.n_test for code in task.classes}
    assert tasks == set(class_list("birdset-xcm"))


def test_what_to_download_is_named_exactly():
    told = CATALOG["birdset-hsn"].describe()
    assert COMMIT == "806ed2cda4ddcbe6efa194ccafff930aa0e557ce"
    assert f"--revision {COMMIT}" in told
    assert "HSN/HSN_metadata_train.parquet HSN/HSN_train_shard_{0001..0007}.tar.gz" in told
    assert "HSN/HSN_metadata_test_5s.parquet HSN/HSN_test5s_shard_0001.tar.gz" in told
    assert "HSN_metadata_test.parquet" not in told
    assert "XCL/XCL_metadata.parquet XCL/XCL_shard_{0001..0098}.tar.gz" in CATALOG["birdset-xcl"].describe()
    assert all(
        number in CATALOG["birdset-xcl"].describe() for number in ("495640", "495763", "497541", "498645", "501254")
    )
    assert BY_NAME["SSW"].archives("test_5s")[-1] == "SSW_test5s_shard_0004.tar.gz"


def test_the_published_layout(published, tmp_path):
    prepared = prepare(SMALL, published, tmp_path / "hsn.csv")
    manifest, clips = loads(prepared.manifest)
    assert manifest.columns["split"] == ["train"] * 5 + ["test_5s"] * 4
    assert manifest.keys[0] == "BirdSet/HSN/audio/HSN_train_shard_0001/XC11.ogg"
    assert manifest.columns["label"] == [*CODES, "", "", "", ""]
    assert manifest.columns["labels"][0] == "gcrfin;amepip"
    assert manifest.columns["labels"][5:] == ["gcrfin", "", "whcspa;amepip", "gcrfin"]
    assert manifest.columns["group"][:2] == ["XC11", "XC22"]
    assert manifest.columns["group"][5:] == ["HSN_093_20150712_085105"] * 3 + ["HSN_001_20150708_061805"]
    assert manifest.columns["lat"][0] == "-34.5"
    assert manifest.columns["license"][0].endswith("by-nc-sa/4.0/")
    assert [event[:2] for event in read_events(manifest.columns["detected_events"][0])] == [(0.1, 0.35), (0.4, 0.5)]
    assert "whcspa" in clips.classes
    whole = published / "HSN/audio/HSN_train_shard_0001/XC11.ogg"
    assert whole.read_bytes() == sound()
    assert sorted(path.name for path in (published / "HSN/audio/HSN_train_shard_0002").iterdir()) == TRAIN[3:]


def test_boxes_are_segments_with_frequencies(published, tmp_path):
    manifest, _ = loads(prepare(BOXES, published / "HSN", tmp_path / "b.csv").manifest, examples="segments", clip_s=0.5)
    assert manifest.onset_s.tolist() == [0.05, 0.1, 0.0]
    assert manifest.offset_s.tolist() == [0.5, 0.6, 0.55]
    assert manifest.columns["low_hz"] == ["500"] * 3
    assert manifest.columns["high_hz"] == ["3000"] * 3
    assert manifest.columns["group"][0] == manifest.columns["group"][1] == "HSN_093_20150712_085105"
    assert len(set(manifest.keys)) == 2


def test_a_missing_shard_is_named_and_the_rest_is_kept(published, tmp_path, capsys):
    shard = published / "HSN/HSN_train_shard_0002.tar.gz"
    kept = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UsageError, match=r"HSN/HSN_train_shard_0002\.tar\.gz.*train has 3 rows instead of 5"):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    assert not (tmp_path / "hsn.csv").exists()
    prepared = prepare(SMALL, published, tmp_path / "hsn.csv", partial=True)
    assert len(prepared.rows) == 7
    assert "HSN_train_shard_0002" in (tmp_path / "failures.csv").read_text()
    for path in published.glob("HSN/*.tar.gz"):
        path.unlink()
    shard.write_bytes(kept)
    capsys.readouterr()
    assert len(prepare(SMALL, published, tmp_path / "hsn.csv").rows) == 9
    assert capsys.readouterr().err == "birdjepa: HSN_train_shard_0002.tar.gz: unpacking (1 of 1)\n"


@pytest.mark.parametrize("cut", [0.3, 0.9, -4])
def test_an_archive_cut_short_leaves_no_folder(published, tmp_path, cut):
    shard = published / "HSN/HSN_train_shard_0001.tar.gz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(len(whole) * cut) if cut > 0 else cut])
    with pytest.raises(UsageError, match=r"HSN_train_shard_0001\.tar\.gz \(damaged: "):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    assert [path.name for path in (published / "HSN/audio").glob("*train*")] == ["HSN_train_shard_0002"]
    shard.write_bytes(whole)
    assert len(prepare(SMALL, published, tmp_path / "hsn.csv").rows) == 9


def test_a_flipped_bit_is_found_by_the_checksum(published, tmp_path):
    shard = published / "HSN/HSN_train_shard_0001.tar.gz"
    whole = bytearray(shard.read_bytes())
    whole[-6] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(UsageError, match="damaged: CRC"):
        prepare(SMALL, published, tmp_path / "hsn.csv")


def test_a_killed_run_goes_on(published, tmp_path):
    def stop_at_the_second(archive, folder):
        if "0002" in archive.name:
            (folder / "XC44.ogg").write_bytes(b"half")
            raise KeyboardInterrupt
        shards.untar(archive, folder)

    audio = published / "HSN/audio"
    left = audio / ".HSN_train_shard_0002.0123abcd.tmp"
    left.mkdir(parents=True)
    (left / "XC44.ogg").write_bytes(b"half")
    both = [
        shards.Shard(published / f"HSN/HSN_train_shard_{n}.tar.gz", audio / f"HSN_train_shard_{n}")
        for n in ("0001", "0002")
    ]
    with pytest.raises(KeyboardInterrupt):
        shards.unpack_all(both, stop_at_the_second)
    assert [path.name for path in audio.iterdir() if path.name != ".lock"] == ["HSN_train_shard_0001"]
    assert len(prepare(SMALL, published, tmp_path / "hsn.csv").rows) == 9


def test_a_name_without_a_recording(published, tmp_path):
    write_tar(published / "HSN/HSN_train_shard_0001.tar.gz", {name: sound() for name in TRAIN[:2]})
    with pytest.raises(UsageError, match=r"1 of the listed files are missing or empty \(XC33\.ogg\)"):
        prepare(SMALL, published, tmp_path / "hsn.csv")


def test_stale_or_foreign_metadata(published, tmp_path):
    stale = published / "HSN/HSN_metadata_train_old.parquet"
    (published / "HSN/HSN_metadata_train.parquet").write_bytes(stale.read_bytes())
    with pytest.raises(UsageError, match=r"2 rows instead of 5: not the metadata of commit 806ed2cda4dd"):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    write_metadata(published / "HSN/HSN_metadata_train.parquet", [{**c, "ebird_code": "robin"} for c in train_cells()])
    with pytest.raises(LabelError, match="row 1: 'robin' is no class of HSN"):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    (published / "HSN/HSN_metadata_train.parquet").unlink()
    with pytest.raises(UsageError, match=r"missing or empty \(HSN/HSN_metadata_train\.parquet\)"):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    assert len(prepare(SMALL, published, tmp_path / "hsn.csv", partial=True).rows) == 4
    (published / "HSN/HSN_metadata_test_5s.parquet").unlink()
    with pytest.raises(
        UsageError, match=r"not a download of birdset-hsn, for it has no HSN/HSN_metadata_train\.parquet"
    ):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    with pytest.raises(UsageError, match="no HSN/HSN_metadata_train"):
        prepare(SMALL, tmp_path, tmp_path / "hsn.csv")


def test_clips_that_are_not_named_as_clips(published, tmp_path):
    renamed = [{**cell, "filepath": f"clip{i}.ogg"} for i, cell in enumerate(clip_cells())]
    write_metadata(published / "HSN/HSN_metadata_test_5s.parquet", renamed)
    write_tar(published / "HSN/HSN_test5s_shard_0001.tar.gz", {cell["filepath"]: sound() for cell in renamed})
    with pytest.raises(LabelError, match=r"clip0\.ogg: not named RECORDING_START_END"):
        prepare(SMALL, published, tmp_path / "hsn.csv")
    assert [task.name for task in TASKS if task.clip_is_recording] == ["NBP"]
    nbp = dataclasses.replace(HSN, clip_is_recording=True)
    prepared = prepare(entry(nbp, ("test_5s",)), published, tmp_path / "hsn.csv")
    assert [row["group"] for row in prepared.rows] == ["clip0", "clip1", "clip2", "clip3"]


def test_a_box_without_length_is_told(published, tmp_path):
    write_metadata(
        published / "HSN/HSN_metadata_test.parquet", [{**c, "end_time": c["start_time"]} for c in box_cells()]
    )
    with pytest.raises(UsageError, match=r"HSN_093_20150712_085105\.ogg \(row 1: a box without length\)"):
        prepare(BOXES, published, tmp_path / "b.csv")


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    write_tar(tmp_path / "x.tar.gz", {"../../evil.ogg": sound(), "/abs.ogg": sound()})
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    shards.untar(tmp_path / "x.tar.gz", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["abs.ogg", "evil.ogg"]
    assert not (tmp_path / "evil.ogg").exists()


def test_no_room_is_told_before_unpacking(published, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("birdjepa.data.catalog.shards.shutil.disk_usage", lambda _: usage)
    with pytest.raises(shards.StorageError, match="10 bytes are free, and HSN_train_shard_0001"):
        prepare(SMALL, published, tmp_path / "hsn.csv")


def test_focal_sets_have_shards_and_metadata_without_a_split(tmp_path):
    xcl = dataclasses.replace(BY_NAME["XCL"], n_train=6, also_n_train=5, train_shards=2)
    write_metadata(tmp_path / "XCL/XCL_metadata.parquet", train_cells())
    write_tar(tmp_path / "XCL/XCL_shard_0001.tar.gz", {name: sound() for name in TRAIN[:3]})
    write_tar(tmp_path / "XCL/XCL_shard_0002.tar.gz", {name: sound() for name in TRAIN[3:]})
    prepared = prepare(entry(xcl, ("train",)), tmp_path, tmp_path / "xcl.csv")
    assert len(loads(prepared.manifest)[0]) == 5


def test_background_has_no_metadata(tmp_path):
    write_tar(tmp_path / "dcase18/dcase18_shard_0001.tar.gz", {f"x/{i}.ogg": sound() for i in range(3)})
    reading = read_vox(tmp_path)
    assert [row["path"] for row in reading.rows] == [f"dcase18/audio/dcase18_shard_0001/{i}.ogg" for i in range(3)]
    assert {row["label"] for row in reading.rows} == {""}
    (tmp_path / "dcase18/dcase18_shard_0001.tar.gz").unlink()
    assert len(read_vox(tmp_path).rows) == 3
    with pytest.raises(UsageError, match="train has 3 rows instead of 20,331"):
        prepare(CATALOG["birdset-vox"], tmp_path, tmp_path / "vox.csv")
    with pytest.raises(UsageError, match=r"no \*_shard_\*\.tar\.gz"):
        read_vox(tmp_path / "dcase18" / "audio")


def resaved_table(cells, *, numbers, names=HSN.classes):
    """A table as `datasets` stores it: bytes beside the metadata, classes by number, their names in the schema."""
    index = {code: number for number, code in enumerate(HSN.classes)}
    rows = []
    for cell in cells:
        row = {"audio": {"bytes": sound(), "path": cell["filepath"]}, **cell}
        if numbers:
            code = row.get("ebird_code")
            row["ebird_code"] = None if code is None else index[code]
            row["ebird_code_multilabel"] = [index[each] for each in row["ebird_code_multilabel"]]
        rows.append(row)
    described = {"info": {"features": {"ebird_code": {"names": list(names), "_type": "ClassLabel"}}}}
    table = pyarrow.Table.from_pylist(rows)
    return table.replace_schema_metadata({"huggingface": json.dumps(described)} if names else {})


def write_arrow(path, table, *, as_file=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    make = pyarrow.ipc.new_file if as_file else pyarrow.ipc.new_stream
    with pyarrow.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_parquet(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)


LAYOUTS = {
    "push_to_hub": (write_parquet, "HSN/{split}-{number}-of-{total}.parquet"),
    "cache": (write_arrow, "samuelstevens___bird_set/HSN/0.0.0/fe90ff01/bird_set-{split}-{number}-of-{total}.arrow"),
    "save_to_disk": (write_arrow, "HSN/{split}/data-{number}-of-{total}.arrow"),
}


@pytest.mark.parametrize("numbers", [True, False], ids=["numbers", "codes"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_saved_again(layout, numbers, tmp_path):
    write, pattern = LAYOUTS[layout]
    root = tmp_path / "copy"
    cells = train_cells()
    for number, part in enumerate((cells[:2], cells[2:])):
        path = root / pattern.format(split="train", number=f"{number:05d}", total="00002")
        write(path, resaved_table(part, numbers=numbers))
    clips = root / pattern.format(split="test_5s", number="00000", total="00001")
    write(clips, resaved_table(clip_cells(), numbers=numbers))
    manifest, _ = loads(prepare(SMALL, root, tmp_path / "hsn.csv").manifest)
    assert manifest.columns["label"] == [*CODES, "", "", "", ""]
    assert manifest.columns["labels"][5:] == ["gcrfin", "", "whcspa;amepip", "gcrfin"]
    assert manifest.columns["group"][5] == "HSN_093_20150712_085105"
    assert manifest.path(0).read_bytes() == sound()
    again = prepare(SMALL, root, tmp_path / "hsn.csv")
    assert [row["path"] for row in again.rows] == manifest.keys


def test_a_copy_with_a_shard_missing(tmp_path):
    table = resaved_table(train_cells()[:2], numbers=True)
    write_parquet(tmp_path / "copy/HSN/train-00000-of-00003.parquet", table)
    (tmp_path / "copy/HSN/train-00002-of-00003.parquet").write_bytes(b"PAR1 cut short")
    only = entry(HSN, ("train",))
    with pytest.raises(
        UsageError, match=r"2 of the listed.*train-00002-of-00003\.parquet \(damaged: .*train-00001-of-00003"
    ):
        prepare(only, tmp_path / "copy", tmp_path / "hsn.csv")
    assert len(prepare(only, tmp_path / "copy", tmp_path / "hsn.csv", partial=True).rows) == 2
    write_parquet(tmp_path / "copy/HSN/data/train-00000-of-00003.parquet", table)
    with pytest.raises(UsageError, match="two copies of split train"):
        prepare(only, tmp_path / "copy", tmp_path / "hsn.csv")


def test_class_numbers_without_names_follow_the_official_list(tmp_path):
    write_arrow(tmp_path / "c/HSN/train.arrow", resaved_table(train_cells(), numbers=True, names=()), as_file=True)
    prepared = prepare(entry(HSN, ("train",)), tmp_path / "c", tmp_path / "hsn.csv")
    assert [row["label"] for row in prepared.rows] == CODES
    xcl = dataclasses.replace(BY_NAME["XCL"], n_train=5)
    (tmp_path / "c/HSN").rename(tmp_path / "c/XCL")
    with pytest.raises(LabelError, match="class 0 has no name"):
        prepare(entry(xcl, ("train",)), tmp_path / "c", tmp_path / "xcl.csv")


def test_a_copy_without_bytes(tmp_path):
    paths = pyarrow.Table.from_pylist([{"audio": "there/XC11.ogg", **train_cells()[0]}])
    write_parquet(tmp_path / "HSN/train-00000-of-00001.parquet", paths)
    with pytest.raises(LabelError, match="holds no bytes"):
        prepare(entry(HSN, ("train",)), tmp_path, tmp_path / "hsn.csv")


def test_two_processes_do_not_unpack_into_one_folder(published, tmp_path, monkeypatch):
    monkeypatch.setattr(files.fcntl, "lockf", lambda *_: (_ for _ in ()).throw(BlockingIOError()))
    with pytest.raises(UsageError, match="another process is unpacking there"):
        prepare(SMALL, published, tmp_path / "hsn.csv")
