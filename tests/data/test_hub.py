"""Data sets of the Hub as DATA: the same rows and samples as from the same shards in a folder."""

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from birdjepa.audio import decode
from birdjepa.cli import main
from birdjepa.core.errors import LabelError, MissingExtraError, UsageError
from birdjepa.data import hub, hub_http
from birdjepa.data.lengths import durations
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data, pinned
from tests.data.test_shards import COLUMNS, WRITERS, table
from tests.hub_server import environment, serving

SPLITS = {"train": 2, "test": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three shards of five recordings in each layout."""
    folder = tmp_path_factory.mktemp("repositories")
    for kind, write in WRITERS.items():
        (folder / kind / "data").mkdir(parents=True)
        for number, shard in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
            write(folder / kind / "data" / f"{shard}.{kind}", range(number * 5, number * 5 + 5))
        (folder / kind / "README.md").write_text("---\n---\n")
    return folder


@pytest.fixture
def server(made, tmp_path, monkeypatch):
    with serving() as running:
        for kind in WRITERS:
            running.add(f"me/{kind}", made / kind)
        for name, value in environment(running, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=4, base_s=0.01, stall_s=1.0))
        yield running


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_rows_and_samples_are_those_of_the_same_files(server, made, kind):
    found = open_data(f"hub:me/{kind}", COLUMNS)
    local = open_data(str(made / kind / "data" / "t*"), COLUMNS)
    order = [*range(5, 15), *range(5)]  # the Hub's train before its test
    local = local.select(order)
    assert found.keys == [f"data/{key}" for key in local.keys]
    assert found.columns["split"] == ["train"] * 10 + ["test"] * 5
    for name in ("label", "group", "json.place.site", "json.place.rank", "cls"):
        assert found.columns[name] == local.columns[name]
    np.testing.assert_array_equal(found.duration_s, local.duration_s)
    for row in (14, 0, 5, 9):
        np.testing.assert_array_equal(
            decode.read_samples(found.source(row))[0], decode.read_samples(local.source(row))[0]
        )
    assert found.path(0).parts[:2] == ("hub:me", kind)


def test_parquet_is_looked_into_without_its_sound(server, tmp_path):
    """A megabyte of sound in four row groups; the footer's read takes 64 kB whatever it needs."""
    rng = np.random.default_rng(0)
    rows = [{"audio": {"bytes": rng.bytes(1 << 17), "path": f"{n}.wav"}, "label": f"k{n}"} for n in range(8)]
    (tmp_path / "big").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "big" / "a.parquet", row_group_size=2)
    server.add("me/big", tmp_path / "big")
    assert open_data("hub:me/big").columns["label"] == [f"k{n}" for n in range(8)]
    assert all(server.ranges)
    assert server.sent < 100_000


def test_a_second_opening_asks_nothing_but_the_commit(server):
    for kind in WRITERS:
        open_data(f"hub:me/{kind}", COLUMNS)
        server.seen.clear()
        again = open_data(f"hub:me/{kind}", COLUMNS)
        assert [each for each, _, _ in server.seen] == ["api"]
        server.seen.clear()
        assert open_data(f"hub:me/{kind}#{server.sha(f'me/{kind}')}", COLUMNS).keys == again.keys
        assert not server.seen


def test_configuration_split_and_revision(server):
    assert set(open_data("hub:me/tar:train").columns["split"]) == {"train"}
    assert len(open_data("hub:me/tar:test#v1")) == 5
    server.configs["me/tar"] = [{"config_name": "small", "data_files": "data/test*"}]
    assert len(open_data("hub:me/tar:small:train#main")) == 5


def test_a_pinned_revision_stays_when_the_branch_moves_on(server, made):
    before = pinned("hub:me/parquet:train@2.5")
    assert before == f"hub:me/parquet:train#{server.sha('me/parquet')}@2.5"
    assert pinned("songs/@2") == "songs/@2"
    old = open_data(before.partition("@")[0])
    server.files["me/parquet"]["data/train-00009-of-00009.parquet"] = b"x" * 300
    assert pinned("hub:me/parquet") != before.partition("@")[0]
    assert open_data(before.partition("@")[0]).fingerprint() == old.fingerprint()


def test_the_fingerprint_does_not_depend_on_what_is_cached(server):
    found = open_data("hub:me/parquet", COLUMNS)
    before = found.fingerprint()
    decode.probe(found.source(0))
    assert open_data("hub:me/parquet", COLUMNS).fingerprint() == before
    assert not found.shards.at_hand


def test_a_split_of_the_rows_own_stays(server, made, tmp_path):
    rows = table(range(4)).append_column("split", [["a", None, "b", ""]])
    (tmp_path / "own").mkdir()
    parquet.write_table(rows, tmp_path / "own" / "test.parquet")
    server.add("me/own", tmp_path / "own")
    assert open_data("hub:me/own").columns["split"] == ["a", "test", "b", "test"]


def test_offline_touches_no_network(server, monkeypatch):
    for kind in WRITERS:
        found = open_data(f"hub:me/{kind}:train", COLUMNS)
        for row in range(len(found)):
            decode.probe(found.source(row))
    open_data("hub:me/parquet", COLUMNS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    server.seen.clear()
    for kind in WRITERS:
        found = open_data(f"hub:me/{kind}:train", COLUMNS)
        assert len(found) == 10
        for row in range(10):
            decode.read_samples(found.source(row))
    missing = open_data("hub:me/parquet:test", COLUMNS)
    with pytest.raises(UsageError, match=r"hub:me/parquet/data/test.*is not in .*HF_HUB_OFFLINE forbids"):
        decode.probe(missing.source(0))
    with pytest.raises(UsageError, match="hub:you/x#main: is not in the cache, and HF_HUB_OFFLINE"):
        open_data("hub:you/x")
    assert not server.seen


def test_the_login_goes_to_the_hub_and_nowhere_else(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    decode.probe(open_data("hub:me/tar").source(0))
    told = {kind: set() for kind in ("api", "resolve", "cdn")}
    for kind, _, secret in server.seen:
        told[kind].add(secret)
    assert told == {"api": {"Bearer hf_secret"}, "resolve": {"Bearer hf_secret"}, "cdn": {""}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("hub:me", r"is not hub:OWNER/NAME\[:CONFIG\]\[:SPLIT\]\[#REVISION\]"),
        ("hub:me/x:a:b:c", "is not hub:OWNER/NAME"),
        ("hub:../x", "is not hub:OWNER/NAME"),
        ("hub:you/x", r"hub:you/x#main: the Hub has no such repository, revision or file \(404\)"),
        ("hub:me/tar#v9", r"hub:me/tar#v9: the Hub has no such"),
        ("hub:me/tar:dev", "hub:me/tar: has no split 'dev'; it has train, test"),
    ],
)
def test_what_does_not_exist_is_one_line(server, data, said):
    with pytest.raises(UsageError, match=said):
        open_data(data)
    assert server.count("api") <= 1


@pytest.mark.parametrize(
    ("status", "said"), [("401", "log in with `hf auth login`"), ("403", "accept the conditions"), ("418", "HTTP 418")]
)
def test_a_refusal_is_told_at_once(server, status, said):
    server.always["api"] = status
    with pytest.raises(UsageError, match=rf"^hub:me/tar#main: .*{said}"):
        open_data("hub:me/tar")
    assert server.count("api") == 1


def test_a_wrong_column_names_those_that_would_do(server):
    with pytest.raises(UsageError, match=r"no column 'sound' with encoded audio \(one of audio\).*columns\.audio"):
        open_data("hub:me/parquet", ColumnConfig(audio="sound"))


def test_a_damaged_shard_is_named(server, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1" + bytes(500) + b"PAR1")
    server.add("me/bad", tmp_path / "bad")
    with pytest.raises(LabelError, match=r"hub:me/bad/train\.parquet: cannot be read as parquet"):
        open_data("hub:me/bad")


def test_paths_that_leave_the_cache_are_refused(server):
    server.files["me/evil"] = {"../../x.tar": bytes(300)}
    with pytest.raises(UsageError, match="description of it cannot be read"):
        open_data("hub:me/evil")


def test_without_huggingface_hub_one_line_says_what_to_install(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'birdjepa\[hub\]'"):
        hub.pinned("hub:me/tar")


def test_what_is_here_can_be_read_without_the_network(server, monkeypatch):
    """A report must not fetch a data set to draw a map of it."""
    found = open_data("hub:me/parquet", ColumnConfig(label="cls"))
    assert len(found.here()) == 0
    decode.probe(found.source(6))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    here = found.here()
    assert here.keys == found.keys[5:10]
    assert durations(here).tolist() == [0.5] * 5
    with pytest.raises(UsageError, match="finding it would fetch them all"):
        durations(found)


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_a_scan_reads_every_recording(server, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "scan", f"hub:me/{kind}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_good"] == 15
