"""Every entry of the catalog: a whole miniature becomes a manifest that training hears, a broken one is refused."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from miniatures import MINIATURES, audioset_list, hear, librispeech, speech_commands, write_sound

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog import CATALOG, prepare
from birdjepa.data.catalog.base import classes_of
from birdjepa.data.catalog.speech_commands import COMMANDS
from birdjepa.data.sources import open_data

PUBLISHED = {
    "esc50": {"all": (2000, 50)},
    "esc10": {"all": (400, 10)},
    "fsd50k": {"train": (36796, None), "val": (4170, None), "test": (10231, 200)},
    "audioset-20k": {"train": (22160, 527), "test": (20371, 527)},
    "audioset-2m": {"train": (22160 + 2041789, 527), "test": (20371, 527)},
    "speech-commands-v1": {"train": (51088, 30), "val": (6798, 30), "test": (6835, 30)},
    "speech-commands-v2": {"train": (84843, 35), "val": (9981, 35), "test": (11005, 35)},
    "birdsong-recognition": {"all": (None, None)},
    "fsdd": {"train": (2700, 10), "test": (300, 10)},
    "voxceleb1": {"train": (138361, 1251), "val": (6904, 1251), "test": (8251, 1251)},
    "librispeech": {
        "train-clean-100": (28539, 251),
        "train-clean-360": (104014, 921),
        "train-other-500": (148688, 1166),
        "dev-clean": (2703, 40),
        "dev-other": (2864, 33),
        "test-clean": (2620, 40),
        "test-other": (2939, 33),
    },
    "librilight": {"small": (None, None), "medium": (None, None), "large": (None, None)},
    "inatsounds": {"train": (137012, 5569), "val": (45698, 1212), "test": (49527, 1212)},
}
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "catalog.md"
every = pytest.mark.parametrize("name", MINIATURES)


def built(name, tmp_path):
    """The miniature of a data set in a folder of its own, and its entry with the miniature's counts."""
    folder = tmp_path / "downloads" / "set"
    MINIATURES[name].build(folder)
    return folder, MINIATURES[name].dataset(name)


def by_split(rows):
    found = {}
    for row in rows:
        found.setdefault(row["split"], []).append(row)
    return {split: (len(each), len({c for row in each for c in classes_of(row)})) for split, each in found.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    dataset = CATALOG[name]
    assert {split.name: (split.n_rows, split.n_classes) for split in dataset.splits} == PUBLISHED[name]
    told = dataset.describe()
    for n_rows, n_classes in PUBLISHED[name].values():
        rows = "rows not published" if n_rows is None else f"{n_rows:,} rows"
        assert f"({rows}{'' if n_classes is None else f', {n_classes:,} classes'})" in told
    for needed in (dataset.homepage, dataset.licence, dataset.citation, f"data prepare {name} "):
        assert needed in told
    assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in dataset.archives.values())


def test_sums_that_papers_give():
    assert 36796 + 4170 == 40966
    assert sum(n for n, _ in PUBLISHED["speech-commands-v2"].values()) == 105829
    assert sum(n for n, _ in PUBLISHED["speech-commands-v1"].values()) == 64721
    assert sum(n for n, _ in PUBLISHED["voxceleb1"].values()) == 153516
    assert sum(n for n, _ in PUBLISHED["librispeech"].values()) == 292367
    for count in ("22,160", "2,041,789", "20,371"):
        assert count in CATALOG["audioset-2m"].describe()
    assert len(CATALOG["fsd50k"].archives) == 9


@every
def test_a_whole_download_becomes_a_manifest_that_training_hears(name, tmp_path):
    folder, dataset = built(name, tmp_path)
    done = prepare(dataset, folder, tmp_path / "manifests" / "set.csv")
    assert by_split(done.rows) == MINIATURES[name].counts
    assert (done.missing, done.problems) == ((), ())
    assert [path.name for path in done.manifest.parent.iterdir()] == ["set.csv"]
    data = open_data(str(done.manifest))
    assert len(data) == sum(rows for rows, _ in MINIATURES[name].counts.values())
    assert all(key.startswith("../downloads/set/") for key in data.keys)
    hear(done.manifest)
    beside = prepare(dataset, folder, folder / "set.csv")
    hear(beside.manifest)


@every
def test_the_published_counts_refuse_the_miniature(name, tmp_path):
    folder, _ = built(name, tmp_path)
    if any(split.n_rows for split in CATALOG[name].splits):
        with pytest.raises(UsageError, match=r"not the whole of .*rows instead of"):
            prepare(CATALOG[name], folder, tmp_path / "set.csv")
        assert not (tmp_path / "set.csv").exists()


@every
@pytest.mark.parametrize("empty", [False, True])
def test_a_recording_that_lacks_is_named_and_partial_takes_the_rest(name, empty, tmp_path):
    folder, dataset = built(name, tmp_path)
    lacking = MINIATURES[name].recording
    (folder / lacking).unlink()
    if empty:
        (folder / lacking).touch()
    stem = lacking if empty or not name.startswith("audioset") else "train/"
    with pytest.raises(UsageError, match=f"1 of the listed files are missing or empty .*{stem}") as refused:
        prepare(dataset, folder, tmp_path / "set.csv")
    assert "--partial" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]
    done = prepare(dataset, folder, tmp_path / "set.csv", partial=True)
    assert len(done.rows) == sum(rows for rows, _ in MINIATURES[name].counts.values()) - 1
    assert len(done.missing) == 1
    with (tmp_path / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reason"] == ("empty" if empty else "missing")
    hear(done.manifest)


@every
def test_a_list_that_lacks_is_named(name, tmp_path):
    folder, dataset = built(name, tmp_path)
    listed = MINIATURES[name].listed
    if not listed:
        pytest.skip("the set has no list")
    (folder / listed).unlink()
    with pytest.raises(UsageError, match=listed):
        prepare(dataset, folder, tmp_path / "set.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


@every
def test_a_wrong_folder_is_refused(name, tmp_path):
    folder, dataset = built(name, tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        prepare(dataset, tmp_path / "absent", tmp_path / "set.csv")
    with pytest.raises(UsageError, match=r"not a download of .*did you mean .*downloads/set\?"):
        prepare(dataset, folder.parent, tmp_path / "set.csv")
    (tmp_path / "other").mkdir()
    write_sound(tmp_path / "other" / "songs" / "a.wav")
    with pytest.raises(UsageError, match=r"not a download of .*data describe"):
        prepare(dataset, tmp_path / "other", tmp_path / "set.csv")


def test_speech_commands_keep_speakers_and_tell_of_twelve_classes(tmp_path):
    folder, dataset = built("speech-commands-v1", tmp_path)
    rows = prepare(dataset, folder, tmp_path / "set.csv").rows
    assert {row["label12"] for row in rows} == {*COMMANDS, "unknown"}
    assert [row["label12"] for row in rows if row["label"] == "bed"] == ["unknown"] * 3
    assert {row["split"]: row["group"] for row in rows} == {"train": "aaaa0001", "val": "bbbb0002", "test": "cccc0003"}
    assert not any("_background_noise_" in row["path"] for row in rows)


def test_a_version_of_speech_commands_is_not_taken_for_the_other(tmp_path):
    second, _ = built("speech-commands-v2", tmp_path)
    with pytest.raises(UsageError, match="'backward', which speech-commands-v1 has not"):
        prepare(CATALOG["speech-commands-v1"], second, tmp_path / "set.csv")
    speech_commands(tmp_path / "half", ("yes", "no"))
    with pytest.raises(UsageError, match=r"28 of the listed files are missing or empty \(up/, down/, left/"):
        prepare(MINIATURES["speech-commands-v1"].dataset("speech-commands-v1"), tmp_path / "half", tmp_path / "set.csv")
    (second / "testing_list.txt").write_text("yes/a.wav\nyes\n")
    with pytest.raises(LabelError, match=r"testing_list\.txt: line 2 is not WORD/FILE\.wav: 'yes'"):
        prepare(CATALOG["speech-commands-v2"], second, tmp_path / "set.csv")


def test_voxceleb_is_found_where_its_archives_were_unpacked_apart(tmp_path):
    folder, dataset = built("voxceleb1", tmp_path)
    for speaker, part in (("id10001", "dev"), ("id10270", "test")):
        (folder / part / "wav").mkdir(parents=True)
        shutil.move(folder / "wav" / speaker, folder / part / "wav" / speaker)
    (folder / "wav").rmdir()
    done = prepare(dataset, folder, tmp_path / "set.csv")
    assert {row["path"].split("/")[2] for row in done.rows} == {"dev", "test"}
    assert "id10001/-K1nFIaGRWA" in open_data(str(done.manifest)).columns["group"]
    with (folder / "iden_split.txt").open("a") as file:
        file.write("1 id10001/00001.wav\n")
    with pytest.raises(LabelError, match=r"iden_split\.txt: line 9 is not"):
        prepare(dataset, folder, tmp_path / "set.csv")


def test_several_labels_of_a_clip(tmp_path):
    folder, dataset = built("fsd50k", tmp_path)
    done = prepare(dataset, folder, tmp_path / "set.csv")
    assert "Bark;Dog;Animal" in open_data(str(done.manifest)).columns["labels"]
    assert hear(done.manifest).labels.sum() > 4
    listed = folder / "FSD50K.ground_truth" / "dev.csv"
    listed.write_text(listed.read_text().rstrip()[:-1])
    with pytest.raises(LabelError, match="has the splits va beside train and val"):
        prepare(dataset, folder, tmp_path / "set.csv")
    listed.write_text(listed.read_text().rpartition(",")[0])
    with pytest.raises(LabelError, match=r"dev\.csv: line 7 has no split: not the published list, or cut short"):
        prepare(dataset, folder, tmp_path / "set.csv")


def test_audioset_is_known_by_the_names_of_videos(tmp_path):
    folder, dataset = built("audioset-2m", tmp_path)
    done = prepare(dataset, folder, folder / "set.csv")
    data = open_data(str(done.manifest))
    found = dict(
        zip(data.keys, zip(*(data.columns[c] for c in ("labels", "start_s", "list")), strict=True), strict=True)
    )
    assert found["audio/balanced_train_segments/--PJHxphWEs.wav"] == (
        "Speech;Male speech, man speaking",
        "30.000",
        "balanced_train_segments",
    )
    assert found["audio/unbalanced/part00/---1_cCGK4M_0_10000.flac"][2] == "unbalanced_train_segments"
    assert "zzzz_zzzz-Z.wav" in found
    assert "onset_s" not in data.columns
    assert (data.onset_s == 0).all()
    shutil.move(folder / "zzzz_zzzz-Z.wav", folder / "-zzz_zzzz-Z.wav")
    audioset_list(folder / "eval_segments.csv", [("-0RWZT-miFs", 420, "/m/09x0r"), ("-zzz_zzzz-Z", 1, "/t/dd00088")])
    flat = prepare(dataset, folder, folder / "set.csv", partial=True)
    assert "./-zzz_zzzz-Z.wav" in open_data(str(flat.manifest)).keys
    hear(flat.manifest)


def test_audioset_refuses_lists_cut_short_unknown_classes_and_clips_that_are_there_twice(tmp_path):
    folder, dataset = built("audioset-20k", tmp_path)
    listed = folder / "eval_segments.csv"
    whole = listed.read_text()
    listed.write_text("\n".join(whole.splitlines()[:-1]))
    with pytest.raises(LabelError, match=r"eval_segments\.csv: has 1 segments, and promises 2: download it again"):
        prepare(dataset, folder, tmp_path / "set.csv", partial=True)
    listed.write_text(whole.replace("/t/dd00088", "/m/absent"))
    with pytest.raises(LabelError, match=r"eval_segments\.csv: line 5 is not VIDEO, START, END, CLASSES"):
        prepare(dataset, folder, tmp_path / "set.csv")
    listed.write_text(whole)
    write_sound(folder / "eval_again" / "Y-0RWZT-miFs.wav")
    with pytest.raises(UsageError, match="-0RWZT-miFs is there twice"):
        prepare(dataset, folder, tmp_path / "set.csv")


def test_parts_of_librispeech_are_taken_without_the_others(tmp_path):
    dataset = MINIATURES["librispeech"].dataset("librispeech")
    librispeech(tmp_path / "LibriSpeech", ("dev-clean", "test-other"))
    with pytest.raises(UsageError, match="only the splits that you have with --splits dev-clean test-other, or"):
        prepare(dataset, tmp_path / "LibriSpeech", tmp_path / "set.csv")
    done = prepare(dataset, tmp_path / "LibriSpeech", tmp_path / "set.csv", splits=("dev-clean",))
    assert by_split(done.rows) == {"dev-clean": (4, 2)}
    assert done.rows[0]["group"] == "100-1240"
    assert open_data(str(done.manifest)).columns["text"] == ["WHAT, IT'S SAID"] * 4
    (tmp_path / "LibriSpeech/test-other/101/1240/101-1240-0000.flac").unlink()
    assert len(prepare(dataset, tmp_path / "LibriSpeech", tmp_path / "set.csv", splits=("dev-clean",)).rows) == 4
    with pytest.raises(UsageError, match=r"101-1240-0000\.flac"):
        prepare(dataset, tmp_path / "LibriSpeech", tmp_path / "set.csv", splits=("dev-clean", "test-other"))
    with pytest.raises(UsageError, match="librispeech has no split 'dev'; it has train-clean-100, "):
        prepare(dataset, tmp_path / "LibriSpeech", tmp_path / "set.csv", splits=("dev",))
    (tmp_path / "LibriSpeech/dev-clean/100/1240/100-1240.trans.txt").write_text("100-1240-0000\n")
    with pytest.raises(LabelError, match="line 1 is not an utterance and its words"):
        prepare(dataset, tmp_path / "LibriSpeech", tmp_path / "set.csv", splits=("dev-clean",))


def test_librilight_tells_what_its_descriptions_say(tmp_path):
    folder, dataset = built("librilight", tmp_path)
    row = prepare(dataset, folder, tmp_path / "set.csv", splits=("small",)).rows[0]
    assert {name: row[name] for name in ("label", "group", "snr", "speech_s", "genre")} == {
        "label": "1182",
        "group": "319",
        "snr": "5.391",
        "speech_s": "0.15",
        "genre": "Literature",
    }
    next((folder / "medium").rglob("*.json")).write_text('{"speaker": "1"')
    with pytest.raises(LabelError, match="no description of a recording"):
        prepare(dataset, folder, tmp_path / "set.csv")


@pytest.mark.parametrize("spelt", ["train/00000_Animalia/a.wav", "00000_Animalia/a.wav", "a.wav"])
def test_inatsounds_however_its_list_spells_the_files(spelt, tmp_path):
    folder, dataset = built("inatsounds", tmp_path)
    shutil.move(folder / "train/00000_Animalia/train-0.wav", folder / "train/00000_Animalia/a.wav")
    listed = folder / "train.json"
    listed.write_text(listed.read_text().replace("train/00000_Animalia/train-0.wav", spelt))
    done = prepare(dataset, folder, tmp_path / "set.csv")
    data = open_data(str(done.manifest))
    row = data.keys.index("downloads/set/train/00000_Animalia/a.wav")
    assert data.columns["label"][row] == "Turdus merula"
    assert data.columns["longitude"][row] == "-71.25"
    assert data.columns["common_name"][row] == "Common Blackbird"


def test_inatsounds_of_one_part_and_a_list_cut_short(tmp_path):
    folder, dataset = built("inatsounds", tmp_path)
    (folder / "train.json").unlink()
    shutil.rmtree(folder / "train")
    assert by_split(prepare(dataset, folder, tmp_path / "set.csv", splits=("val", "test")).rows) == {
        "val": (4, 2),
        "test": (4, 2),
    }
    (folder / "val.json").write_text((folder / "val.json").read_text()[:-50])
    with pytest.raises(LabelError, match=r"val\.json: not the published list, or cut short"):
        prepare(dataset, folder, tmp_path / "set.csv", splits=("test",))
    (folder / "val.json").write_text(json.dumps([]))
    with pytest.raises(LabelError, match=r"val\.json: not the published list"):
        prepare(dataset, folder, tmp_path / "set.csv", splits=("val",))


def test_fsdd_with_a_speaker_of_ones_own(tmp_path):
    folder, dataset = built("fsdd", tmp_path)
    write_sound(folder / "recordings" / "0_nora_0.wav")
    with pytest.raises(UsageError, match="499 of the listed files are missing"):
        prepare(dataset, folder, tmp_path / "set.csv")
    assert len(prepare(dataset, folder, tmp_path / "set.csv", partial=True).rows) == 501


def links(shared, name, folder, place):
    """Real recordings of the shared data linked into the layout of the set's makers."""
    with (shared / name / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        target = folder / place(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(shared / name / row["path"])
    return rows


def test_real_recordings_of_fsdd(shared_data, tmp_path):
    links(shared_data, "fsdd", tmp_path / "fsdd", lambda row: row["path"])
    done = prepare(CATALOG["fsdd"], tmp_path / "fsdd", tmp_path / "set.csv")
    assert by_split(done.rows) == PUBLISHED["fsdd"]
    assert len({row["speaker"] for row in done.rows}) == 6
    hear(done.manifest)


def test_real_recordings_of_esc10(shared_data, tmp_path):
    rows = links(shared_data, "esc10", tmp_path / "ESC-50", lambda row: f"audio/{row['path'].rpartition('/')[2]}")
    (tmp_path / "ESC-50" / "meta").mkdir()
    with (tmp_path / "ESC-50" / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for row in rows:
            name = row["path"].rpartition("/")[2]
            writer.writerow([name, row["split"][-1], 0, row["label"], "True", row["split_group"], "A"])
    done = prepare(CATALOG["esc10"], tmp_path / "ESC-50", tmp_path / "set.csv")
    assert by_split(done.rows) == PUBLISHED["esc10"]
    assert sorted({row["fold"] for row in done.rows}) == ["1", "2", "3", "4", "5"]
    hear(done.manifest)
    with pytest.raises(UsageError, match="split all has 400 rows instead of 2,000; split all has 10 classes instead"):
        prepare(CATALOG["esc50"], tmp_path / "ESC-50", tmp_path / "set.csv")


def test_every_miniature_is_of_the_catalog_and_no_entry_is_without():
    own = {name for name in CATALOG if name in PUBLISHED}
    assert own == set(PUBLISHED) == set(MINIATURES)
    assert all(dataset.name == name for name, dataset in CATALOG.items())
    assert all(dataclasses.is_dataclass(dataset) for dataset in CATALOG.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_documentation_has_the_entry_with_its_numbers(name):
    (told,) = [line for line in DOCUMENTATION.read_text().split("\n") if line.startswith(f"| `{name}` |")]
    _, _, title, parts, _, size, _ = (cell.strip() for cell in told.split("|"))
    assert (title, size) == (CATALOG[name].title, CATALOG[name].size)
    named = ((split, rows) for split, (rows, _) in PUBLISHED[name].items())
    assert parts == ", ".join(split if rows is None else f"{split} {rows:,}" for split, rows in named)
