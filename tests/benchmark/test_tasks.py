"""Tasks: what is heard, what is true of it, how it is divided; and the sheet's numbers in what users are told."""

import dataclasses

import numpy as np
import pytest
from tiny_tasks import pow_hub, prepared, tone, write_manifest

from birdjepa.benchmark.tasks import TASKS, birdset
from birdjepa.benchmark.tasks.beans import overlaps, windows
from birdjepa.benchmark.tasks.common import by_fold, by_split, hold_out, names_of
from birdjepa.benchmark.tasks.own import OwnTask, own_task
from birdjepa.core.errors import UsageError
from birdjepa.data.catalog import CATALOG
from birdjepa.data.catalog.classes import class_list
from birdjepa.data.catalog.events import Event
from birdjepa.data.sources import open_data
from birdjepa.recipes.benchmark_data import read_examples

SHEET = {
    "per": (16_802, 15_120, 132),
    "nes": (16_117, 24_480, 89),
    "uhh": (3_626, 36_637, 27),
    "hsn": (5_460, 12_000, 21),
    "nbp": (24_327, 563, 51),
    "pow": (14_911, 4_560, 48),
    "ssw": (28_403, 205_200, 81),
    "sne": (19_390, 23_756, 56),
}


@pytest.mark.parametrize("name", SHEET)
def test_birdset_is_described_with_its_published_counts(name):
    n_train, n_test, n_classes = SHEET[name]
    (dataset,) = TASKS[name].datasets
    told = CATALOG[dataset].describe()
    assert f"train ({n_train:,} rows" in told
    assert f"test_5s ({n_test:,} rows" in told
    assert len(class_list(dataset)) == n_classes


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("watkins", (1017, 339, 339, 31)),
        ("dogs", (415, 139, 139, 10)),
        ("esc50", (1200, 400, 400, 50)),
        ("speech-commands", (84_843, 9_981, 11_005, 35)),
    ],
)
def test_beans_is_described_with_its_published_counts(name, counts):
    told = CATALOG[TASKS[f"beans-{name}"].datasets[0]].describe()
    for split, n in zip(("train", "valid", "test"), counts, strict=False):
        assert f"{split} ({n:,} rows" in told
    assert f"{counts[3]} classes" in told


def test_there_are_all_tasks():
    suites = {
        suite: [t.name for t in TASKS.values() if t.suite == suite]
        for suite in ("birdset", "birb-style", "beans", "general", "syllables")
    }
    assert {len(names) for names in suites.values()} == {8, 7, 12, 6, 11}
    assert set(SHEET) == set(suites["birdset"])
    assert TASKS["beans-dcase"].metric == "map_beans"
    assert TASKS["beans-cbi"].metric == "accuracy"
    assert {TASKS[name].metric for name in suites["birdset"]} == {"cmap"}


@pytest.mark.parametrize("name", TASKS)
def test_each_task_reads_a_miniature(name, tmp_path):
    task = TASKS[name]
    prepared(tmp_path, task)
    if any(split.n_rows or split.n_classes for split in CATALOG[task.datasets[0]].splits):
        with pytest.raises(UsageError, match="not the whole of"):
            read_examples(task, tmp_path, partial=False, say=print)
    examples, _ = read_examples(task, tmp_path, partial=True, say=print)
    assert len(set(examples.ids)) == len(examples)
    assert examples.truth.shape == (len(examples), len(examples.classes))
    assert set(np.unique(examples.truth)) <= {0, 1}
    for part in examples.parts:
        assert len(part.train)
        assert len(part.test)
        parts = [set(rows.tolist()) for rows in part[1:]]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        groups = [{examples.groups[row] for row in rows} for rows in parts]
        assert not groups[0] & groups[1]
    assert len(examples.parts) == (5 if name in ("esc10", "esc50") else 3 if task.protocol == "frames" else 1)
    assert (len(examples.labels) > 0) == (task.protocol == "frames")
    again, _ = read_examples(task, tmp_path, partial=True, say=print)
    assert again.fingerprint() == examples.fingerprint()
    other = dataclasses.replace(examples, truth=1 - examples.truth)
    assert other.heard() == examples.heard()
    assert other.fingerprint() != examples.fingerprint()


def test_a_download_is_prepared_on_the_way(tmp_path):
    pow_hub(tmp_path / "data" / "BirdSet")
    said = []
    with pytest.raises(UsageError, match="not the whole of birdset-pow"):
        read_examples(TASKS["pow"], tmp_path / "data", partial=False, say=said.append)
    examples, problems = read_examples(TASKS["pow"], tmp_path / "data", partial=True, say=said.append)
    assert "birdset-pow.csv: made from" in said[-1]
    assert any("split test_5s has 9 rows instead of 4,560" in each for each in problems)
    (part,) = examples.parts
    assert len(part.test) == 9
    assert examples.truth[part.test].sum() == 8  # one clip is a no-call, and stays
    assert len(part.train) + len(part.validation) == 24  # two events of each recording
    assert {examples.groups[row] for row in part.test} == {f"POW_{site:03d}_20200501_050000" for site in range(3)}
    assert (examples.length_s == 5.0).all()
    assert "45 of 48 classes have no training clip" in examples.notes[0]
    assert sorted(examples.ids[row] for row in part.test)[0] == "POW_000_20200501_050000_0_5.ogg"


def test_training_clips_lie_around_events(tmp_path):
    (tmp_path / "a.wav").write_bytes(tone(0))
    events = ";".join(f"{start}-{start + 1}" for start in range(10, 200, 10))
    rows = [{"path": "a.wav", "label": "x", "split": "train", "group": "a", "detected_events": events}]
    rows += [{"path": "a.wav", "label": "x", "split": "test_5s", "group": "b"}]
    write_manifest(tmp_path, "m", rows)
    clips = birdset._training_clips(open_data(str(tmp_path / "m.csv")), [0])
    assert len(clips) == birdset.EVENTS
    assert [clip.onset_s for clip in clips] == [8.0, 48.0, 98.0, 148.0, 188.0]  # 5 of 19, evenly; centres at +0.5 s


def test_a_class_is_capped_by_first_events_first(tmp_path, monkeypatch):
    monkeypatch.setattr(birdset, "CAP", 5)
    rows = [
        {"path": f"{n}.wav", "label": "x" if n < 4 else "y", "split": "train", "detected_events": "1-2;11-12;21-22"}
        for n in range(5)
    ]
    manifest = open_data(str(write_manifest(tmp_path, "m", rows)))
    clips = birdset._training_clips(manifest, list(range(5)))
    numbers = [(clip.row, clip.number) for clip in clips]
    assert [row for row, number in numbers if number == 0] == [0, 1, 2, 3, 4]
    assert sum(row < 4 for row, _ in numbers) == 5
    assert sum(row == 4 for row, _ in numbers) == 3
    backwards = open_data(str(write_manifest(tmp_path, "m2", rows[::-1])))
    again = birdset._training_clips(backwards, list(range(5)))
    named = {(manifest.keys[clip.row], clip.number) for clip in clips}
    assert {(backwards.keys[clip.row], clip.number) for clip in again} == named


@pytest.mark.parametrize(
    ("duration", "window", "hop", "n"),
    [(60, 2, 1, 59), (61.5, 2, 1, 59), (2.9, 2, 1, 1), (1.5, 2, 1, 1), (1, 2, 1, 0), (60, 10, 5, 11), (3.9, 4, 2, 1)],
)
def test_beans_windows(duration, window, hop, n):
    """(length - window) / hop cut towards zero, plus one; files count up to a minute."""
    assert windows(float(duration), float(window), float(hop)) == [hop * number for number in range(n)]


@pytest.mark.parametrize(
    ("event", "positive"),
    [
        ((0.0, 0.4), False),  # long before
        ((10.0, 10.4), True),
        ((9.0, 10.2), False),  # 0.2 / 1.2 = 0.17
        ((9.0, 10.24), False),  # 0.24 / 1.24 = 0.19
        ((9.0, 10.26), True),  # 0.26 / 1.26 = 0.206
        ((9.0, 13.0), True),  # covers it
        ((8.0, 10.3), False),  # 0.3 / min(2, 2.3) = 0.15
        ((8.0, 10.5), True),
        ((11.0, 11.0), False),  # no length
        ((12.0, 13.0), False),  # touches
    ],
)
def test_beans_overlap(event, positive):
    """Hand-computed for the window [10, 12)."""
    assert overlaps(Event(*event, "x"), 10.0, 2.0) is positive


def test_a_fifth_is_not_more_than_a_fifth():
    assert not overlaps(Event(8.0, 10.5, "x"), 10.0, 10.0)  # 0.5 / 2.5


def test_names_do_not_know_the_machine():
    assert names_of(["../x/a/1.wav", "../x/b/1.wav"]) == ["a/1.wav", "b/1.wav"]
    assert names_of(["1.wav", "b/1.wav"]) == ["1.wav", "b/1.wav"]
    assert names_of(["/data/a/1.wav"]) == ["1.wav"]


def test_divisions():
    truth = np.eye(2, dtype=np.int8)[[0, 1] * 10]
    groups = [f"g{n // 2}" for n in range(20)]
    train, validation = hold_out(np.arange(20), truth, groups)
    assert len(validation) == 4
    assert not {groups[row] for row in train} & {groups[row] for row in validation}
    alone, none = hold_out(np.arange(6), truth, groups)
    assert len(alone) == 6
    assert len(none) == 0
    part = by_split(["train"] * 10 + ["Val"] * 5 + ["TEST"] * 5, truth, groups)
    assert [len(rows) for rows in part[1:]] == [10, 5, 5]
    with pytest.raises(UsageError, match="split train and of split test, found: pool"):
        by_split(["pool"] * 20, truth, groups)
    parts = by_fold(["10", "9", "", "9"])
    assert [part.name for part in parts] == ["9", "10"]
    assert parts[0].test.tolist() == [1, 3]
    assert parts[0].train.tolist() == [0]


def test_own_recordings_are_a_task(tmp_path):
    rows = [
        {"path": f"{n}.wav", "label": "frog" if n % 2 else "toad", "split": "train" if n < 8 else "test"}
        for n in range(12)
    ]
    single = own_task("frogs", OwnTask(data=str(write_manifest(tmp_path, "a", rows))))
    assert (single.kind, single.metric, single.suite) == ("single-label", "accuracy", "own")
    examples = single.read([open_data(single.datasets[0])])
    assert examples.classes == ("frog", "toad")
    assert len(examples.parts) == 1
    several = [{**row, "labels": "frog;toad"} for row in rows[:2]] + [{**row, "label": ""} for row in rows[2:4]] + rows
    multi = own_task("pond", OwnTask(data=str(write_manifest(tmp_path, "b", several)), clip_s=None))
    assert (multi.kind, multi.metric) == ("multi-label", "cmap")
    crossed = own_task(
        "c", OwnTask(data=str(write_manifest(tmp_path, "c", [{**r, "fold": r["path"][0]} for r in rows])))
    )
    assert len(crossed.read([open_data(crossed.datasets[0])]).parts) == 10
    with pytest.raises(UsageError, match="no row has a label"):
        own_task("d", OwnTask(data=str(write_manifest(tmp_path, "d", [{"path": "1.wav"}]))))


def test_songs_of_a_label_file_are_a_task(tmp_path):
    notes = [(0.0, 0.1, "a"), (0.2, 0.3, "b"), (0.4, 0.5, "call"), (0.6, 0.7, " ")]
    rows = [
        {"path": f"bird{bird}/{song}.wav", "onset_s": f"{on}", "offset_s": f"{off}", "label": name}
        for bird in (1, 2)
        for song in range(4)
        for on, off, name in notes
    ]
    data = str(write_manifest(tmp_path, "notes", rows))
    spec = OwnTask(data=data, protocol="frames", only="bird1/*", skip=("bird1/3.wav",), without=("call",))
    task = own_task("bird1", spec)
    assert (task.kind, task.metric) == ("single-label", "macro_frame_error")
    examples = task.read([open_data(data)])
    assert examples.ids == ("0.wav", "1.wav", "2.wav")
    assert examples.classes == ("a", "b")
    assert [[each[:3] for each in song] for song in examples.labels] == [[(0.0, 0.1, "a"), (0.2, 0.3, "b")]] * 3
    assert [[each[2].strip() for each in song] for song in examples.unscored] == [["call", ""]] * 3
    assert [part.test.tolist() for part in examples.parts] != [[], [], []]
    scored = own_task("bird1", dataclasses.replace(spec, without=())).read([open_data(data)])
    assert scored.fingerprint() != examples.fingerprint()
    with pytest.raises(UsageError, match=r"no labelled syllable .* in bird9"):
        own_task("x", dataclasses.replace(spec, only="bird9/*")).read([open_data(data)])
