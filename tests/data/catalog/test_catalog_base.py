"""What `prepare` does for any data set: selects, counts, refuses, and leaves other people's files alone."""

import csv
import dataclasses

import pytest
from miniatures import esc50, hear, write_sound

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.catalog import Dataset, Split, prepare
from birdjepa.data.catalog.base import Reading, present, read_table
from birdjepa.data.sources import open_data


def a_set(*rows, missing=(), missing_splits=None, **counts) -> Dataset:
    """A data set that reads as these rows, and whose splits have these counts."""
    return Dataset(
        name="made-up",
        title="Made up",
        homepage="https://example.org",
        licence="none",
        citation="nobody",
        size="small",
        how_to_get="\nmake it up\nput it there\n",
        splits=tuple(Split(name=name, n_rows=n) for name, n in counts.items()),
        read=lambda _: Reading(rows, missing, missing_splits or {}),
    )


def row(path, split, **cells):
    return {"path": path, "split": split, "label": "x", **cells}


def test_too_many_rows_and_unknown_splits_are_told(tmp_path):
    rows = [row("a.wav", "train"), row("b.wav", "train"), row("c.wav", "odd")]
    told = "split train has 2 rows instead of 1; rows of an unknown split 'odd'"
    with pytest.raises(UsageError, match=told):
        prepare(a_set(*rows, train=1), tmp_path, tmp_path / "set.csv")
    done = prepare(a_set(*rows, train=1), tmp_path, tmp_path / "set.csv", partial=True)
    assert "; ".join(done.problems) == told
    assert done.missing == ()
    assert not (tmp_path / "failures.csv").exists()


def test_with_splits_nothing_else_has_to_be_there(tmp_path):
    rows = [row("a.wav", "train"), row("b.wav", "test")]
    missing = {"c.wav": "train", "d.wav": "test"}
    dataset = a_set(*rows, missing=list(missing), missing_splits=missing, train=2, test=1)
    with pytest.raises(UsageError, match=r"split train has 1 rows instead of 2") as refused:
        prepare(dataset, tmp_path, tmp_path / "set.csv", splits=("train",))
    assert "1 of the listed files are missing or empty (c.wav)" in str(refused.value)
    done = prepare(dataset, tmp_path, tmp_path / "set.csv", splits=("train",), partial=True)
    assert [each["path"] for each in done.rows] == ["a.wav"]
    assert done.missing == ("c.wav",)
    unknown = a_set(*rows, missing=["list.csv"], train=1, test=1)
    with pytest.raises(UsageError, match=r"list\.csv"):
        prepare(unknown, tmp_path, tmp_path / "set.csv", splits=("train",))


def test_nothing_of_the_set_is_refused_even_partially(tmp_path):
    with pytest.raises(UsageError, match=r"nothing of made-up is there: 1 of the listed files .* \(a\.wav\)"):
        prepare(a_set(missing=["a.wav"], train=None), tmp_path, tmp_path / "set.csv", partial=True)
    assert list(tmp_path.iterdir()) == []


def test_no_file_but_a_manifest_is_written_over(tmp_path):
    esc50(tmp_path / "set")
    dataset = a_set(row("audio/1-10000-A-0.wav", "train"), train=1)
    listed = tmp_path / "set" / "meta" / "esc50.csv"
    before = listed.read_bytes()
    with pytest.raises(UsageError, match=r"esc50\.csv exists and is no manifest, so it is left alone"):
        prepare(dataset, tmp_path / "set", listed)
    assert listed.read_bytes() == before
    with pytest.raises(UsageError, match="exists and is no manifest"):
        prepare(dataset, tmp_path / "set", tmp_path / "set" / "audio")
    for _ in range(2):
        prepare(dataset, tmp_path / "set", tmp_path / "set.csv")


def test_names_and_numbers_that_look_like_formulas_stay_what_they_are(tmp_path):
    for name in ("-a.wav", "=b.wav", "+c.wav", "@d.wav"):
        write_sound(tmp_path / name)
    rows = [row(name, "all", west="-71.25") for name in ("-a.wav", "=b.wav", "+c.wav", "@d.wav")]
    manifest = prepare(a_set(*rows, all=4), tmp_path, tmp_path / "set.csv").manifest
    data = open_data(str(manifest))
    assert data.keys == ["./-a.wav", "./=b.wav", "./+c.wav", "./@d.wav"]
    assert data.columns["west"] == ["-71.25"] * 4
    hear(manifest)


def test_rows_with_different_columns_share_a_header(tmp_path):
    rows = [row("a.wav", "all", first="1"), row("b.wav", "all", second="2")]
    with prepare(a_set(*rows, all=2), tmp_path, tmp_path / "set.csv").manifest.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(each["first"], each["second"]) for each in read] == [("1", ""), ("", "2")]


def test_the_manifest_may_lie_anywhere(tmp_path, monkeypatch):
    write_sound(tmp_path / "disk" / "set" / "a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "set")
    monkeypatch.chdir(tmp_path)
    for where in ("near.csv", "far/away/set.csv", "link/set.csv"):
        manifest = tmp_path / where
        hear(prepare(a_set(row("a.wav", "all"), all=1), tmp_path / "link", manifest).manifest)


def test_missing_files_know_their_split(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "empty.wav").touch()
    rows = [row("a.wav", "train"), row("empty.wav", "test"), row("gone.wav", "train"), row("a.wav", "test")]
    found = present(tmp_path, rows)
    assert found.rows == [rows[0], rows[3]]
    assert list(found.missing) == ["empty.wav", "gone.wav"]
    assert found.missing_splits == {"empty.wav": "test", "gone.wav": "train"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a,b\n1,2\n3\n", "line 3 has no b"),
        (b"a,c\n1,2\n", "line 2 has no b"),
        (b"a,b\n,\n", "line 2 has no a and no b"),
        (b'a,b\n1,"2\n', "cannot be read as csv"),
        (b"a,b\n\xff\xfe,2\n", "cannot be read as csv"),
    ],
)
def test_a_list_that_is_another_or_cut_short(text, reason, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(text)
    with pytest.raises(LabelError, match=reason) as refused:
        read_table(path, ("a", "b"))
    assert str(path) in str(refused.value)
    path.write_text("a,b,c\n1,2,\n")
    assert read_table(path, ("a", "b")) == [{"a": "1", "b": "2", "c": ""}]


def test_describe_tells_what_to_do_and_to_check():
    dataset = dataclasses.replace(a_set(train=1234), notes=("mind the gap",), archives={"a.zip": "0" * 32})
    told = dataset.describe()
    assert told.startswith("made-up: Made up\nhttps://example.org\nsize: small\nlicence: none\ncite: nobody\n")
    assert "splits: train (1,234 rows)" in told
    assert "note: mind the gap" in told
    assert "how to get it:\n  make it up\n  put it there\n" in told
    assert told.endswith(f"\n  {'0' * 32}  a.zip")
    assert "md5sum" not in a_set(train=None).describe()
