"""A store of results, in both of its kinds: each experiment once, claims, scores, merging, and clear refusals."""

import dataclasses
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_crowd import made, quick_folder

from birdjepa.benchmark import claims, database, mounts
from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.database import Database
from birdjepa.benchmark.results import Claim, Result, Store, key_of
from birdjepa.core import files
from birdjepa.core.errors import StorageError, UsageError

KEY = key_of({"job": 1})


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture(params=[False, True], ids=["database", "spool"])
def spool(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def store(folder: Path, spool: bool) -> Iterator[Store]:
    with Store.open(folder / "results.sqlite", spool=spool) as store:
        yield store


def taken(claim: Claim | None) -> Claim:
    assert claim is not None
    return claim


def test_each_experiment_once(store: Store) -> None:
    first = made(1, 1)
    assert store.find(first.key) is None
    assert store.add(first)
    assert not store.add(dataclasses.replace(first, seconds=99.0))
    assert store.find(first.key) == first
    assert store.all() == [first]


def test_the_first_stays_when_two_come_at_once(store: Store) -> None:
    """Both have looked, and found nothing."""
    assert store._home.add(made(1, 1))
    assert not store._home.add(made(1, 2))
    assert store.all() == [made(1, 1)]


def test_order_does_not_depend_on_when(store: Store) -> None:
    few = dataclasses.replace(made(3, 0), n_train=5)
    other = dataclasses.replace(made(4, 0), task="hsn")
    wanted = [other, few, made(0, 0), made(1, 0), made(2, 0)]
    for result in (made(2, 0), few, made(0, 0), other, made(1, 0)):
        store.add(result)
    assert store.all() == wanted


def test_a_database_and_files_are_read_together(folder: Path) -> None:
    with Store.open(folder / "r", spool=False) as rows, Store.open(folder / "r", spool=True) as spool:
        assert rows.add(made(0, 0))
        assert spool.add(made(1, 1))
        assert not rows.add(made(1, 2))
        assert not spool.add(made(0, 2))
        assert rows.all() == spool.all() == [made(0, 0), made(1, 1)]
        assert rows.find(made(1, 0).key) == made(1, 1)
        assert spool.claim(made(0, 0).key, "done already") is None


def test_reading_makes_nothing(folder: Path, spool: bool) -> None:
    with pytest.raises(UsageError, match="there are no results"):
        Store.open(folder / "no.sqlite", make=False, spool=spool)
    assert list(folder.iterdir()) == []
    with Store.open(folder / "r", spool=True) as store:
        store.add(made(0, 0))
    with Store.open(folder / "r", make=False, spool=spool) as store:
        assert store.all() == [made(0, 0)]
    assert [path.name for path in folder.iterdir()] == ["r.spool"]


def test_sql(folder: Path) -> None:
    """Tables and view as docs/results.md shows them."""
    with Store.open(folder / "r") as store:
        store.add(made(0, 0, n_classes=2))
        undefined = dataclasses.replace(made(1, 0), metrics={"cmAP": Estimate(0.5, float("nan"), float("nan"))})
        store.add(undefined)
    connection = sqlite3.connect(folder / "r")
    tables = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    headlines = connection.execute("SELECT task, seed, value, low FROM headlines ORDER BY seed").fetchall()
    classes = connection.execute(
        "SELECT class, value FROM per_class JOIN results ON results.id = result WHERE seed = 0 ORDER BY class"
    ).fetchall()
    connection.close()
    assert len(tables) == 4
    assert all("STRICT" in sql for [sql] in tables)
    first = made(0, 0, 2).metrics["cmAP"]
    assert headlines == [("pow", 0, first.value, first.low), ("pow", 1, 0.5, None)]
    assert dict(classes) == made(0, 0, 2).per_class["AP"]


def test_the_queries_of_the_page(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    block = page.partition("```sql\n")[2].partition("```")[0]
    shell = re.findall(r'sqlite3 results.sqlite "(.+)"', page)
    with Store.open(folder / "r") as store:
        experiment = {"classifier": {"lr": 0.1}}
        store.add(dataclasses.replace(made(0, 0), experiment=experiment))
        store.add(dataclasses.replace(made(0, 1), model="logmel"))
    connection = sqlite3.connect(folder / "r")
    means, classes, settings = ([*connection.execute(each)] for each in (*shell, *block.split(";")[:2]))
    connection.close()
    assert [(task, model, n) for task, model, _, n in means] == [("pow", "birdjepa", 1), ("pow", "logmel", 1)]
    ours, theirs = (made(0, writer).per_class["AP"] for writer in (0, 1))
    assert classes == sorted([(name, ours[name], theirs[name]) for name in ours], key=lambda row: -abs(row[1] - row[2]))
    assert {lr for lr, _ in settings} == {0.1, None}


# ---- claims


def test_a_claim_is_one_process_alone(store: Store) -> None:
    claim = taken(store.claim(KEY, "POW, linear"))
    assert store.claim(KEY, "another") is None
    holder = store.holder(KEY)
    assert holder == claim.owner
    assert f"process {os.getpid()} on " in str(holder)
    assert str(holder).endswith("(POW, linear)")
    store.release(claim)
    assert store.holder(KEY) is None
    again = taken(store.claim(KEY, "again"))
    store.release(claim)  # an old one takes nothing away
    assert store.holder(KEY) == again.owner


def test_what_is_done_cannot_be_claimed(store: Store) -> None:
    result = made(1, 1)
    claim = taken(store.claim(result.key, "this"))
    store.add(result)
    store.release(claim)
    assert store.claim(result.key, "late") is None
    assert store.holder(result.key) is None
    left = [path for path in store.path.parent.rglob("*") if path.suffix in (".claim", ".tmp")]
    assert left == []


def test_claims_end_with_the_store(folder: Path, spool: bool) -> None:
    with Store.open(folder / "r", spool=spool) as store:
        assert store.claim(KEY, "this")
    with Store.open(folder / "r", spool=spool) as store:
        assert store.claim(KEY, "that")


def age(store: Store, seconds: float) -> None:
    """Puts the last renewal of every claim back in time."""
    if store.spooled:
        for path in store.path.parent.rglob("*.claim"):
            os.utime(path, (time.time() - seconds, time.time() - seconds))
    else:
        connection = sqlite3.connect(store.path)
        connection.execute("UPDATE claims SET renewed = ?", (time.time() - seconds,))
        connection.commit()
        connection.close()


def renewed(store: Store) -> float:
    """Seconds since the last renewal of the only claim."""
    if store.spooled:
        [path] = store.path.parent.rglob("*.claim")
        return time.time() - path.stat().st_mtime
    connection = sqlite3.connect(store.path)
    [[last]] = connection.execute("SELECT renewed FROM claims").fetchall()
    connection.close()
    return time.time() - last


def test_the_lease_of_another_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = taken(store.claim(KEY, "here"))
    monkeypatch.setattr(claims, "_place", lambda: "elsewhere")
    age(store, 500.0)
    assert store.claim(KEY, "there") is None
    age(store, 700.0)
    assert store.holder(KEY) is None
    second = taken(store.claim(KEY, "there"))
    assert second.number == claim.number + 1
    assert store.claim(KEY, "there too") is None
    store.release(claim)
    assert store.holder(KEY) == second.owner


def test_on_its_own_machine_a_claim_lasts_as_long_as_its_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.claim(KEY, "slow")
    age(store, 10 * claims.LEASE_S)
    assert store.claim(KEY, "in a hurry") is None
    monkeypatch.setattr(claims, "_started", lambda pid: "another process of this number")
    assert taken(store.claim(KEY, "the next")).number == 1


def test_claims_are_renewed_beside_the_work(folder: Path, spool: bool) -> None:
    with Store.open(folder / "r", spool=spool, lease_s=0.5) as store:
        assert store.claim(KEY, "long work")
        age(store, 1000.0)
        deadline = time.monotonic() + 20
        while renewed(store) > 500 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert renewed(store) < 100


def test_a_damaged_claim_is_named(folder: Path) -> None:
    with Store.open(folder / "r", spool=True) as store:
        (folder / "r.spool" / f"{KEY}.0.claim").write_text("{")
        with pytest.raises(UsageError, match=r"0\.claim is damaged .*: remove it if nobody works on that experiment"):
            store.claim(KEY, "this")


# ---- scores


ARRAYS = {
    "scores": np.arange(12, dtype=np.float32).reshape(4, 3),
    "half": np.linspace(0, 1, 5, dtype=np.float16),
    "ids": np.array(["a", "bé", "c", ""]),
    "truth": np.eye(3, dtype=bool),
    "counts": np.arange(3),
}


def test_scores_come_back_as_they_were(store: Store) -> None:
    result = made(0, 0)
    name = store.write_scores(result.key, ARRAYS, 10**6)
    assert name is not None
    assert name.startswith(result.key)
    store.add(dataclasses.replace(result, scores=name))
    read = store.read_scores(store.all()[0])
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_scores_over_the_limit_are_not_kept(store: Store) -> None:
    size = (store.path.parent / "results.sqlite.scores" / str(store.write_scores(KEY, ARRAYS, 10**6))).stat().st_size
    assert store.write_scores(KEY, ARRAYS, size) is not None
    assert store.write_scores(KEY, ARRAYS, size - 1) is None
    assert store.write_scores(KEY, {"scores": np.zeros(100)}, 799) is None
    assert len(list((store.path.parent / "results.sqlite.scores").iterdir())) == 2
    with pytest.raises(UsageError, match="over the size limit"):
        store.read_scores(made(0, 0))


def test_scores_are_of_the_run_that_made_the_result(store: Store) -> None:
    result = made(0, 0)
    killed, first, second = (store.write_scores(result.key, {"a": np.array([n])}, 10**6) for n in range(3))
    assert store.add(dataclasses.replace(result, scores=first))
    late = store.write_scores(result.key, {"a": np.array([3])}, 10**6)
    assert not store.add(dataclasses.replace(result, scores=late))
    assert store.read_scores(store.all()[0])["a"] == [1]
    assert len({killed, first, second, late}) == 4
    assert [path.name for path in (store.path.parent / "results.sqlite.scores").iterdir()] == [first]


def test_scores_that_are_damaged_or_gone(store: Store) -> None:
    result = dataclasses.replace(made(0, 0), scores=store.write_scores(KEY, ARRAYS, 10**6))
    path = store.path.parent / "results.sqlite.scores" / str(result.scores)
    for damage in (path.read_bytes()[:100], path.read_bytes().replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x40"), b""):
        path.write_bytes(damage)
        with pytest.raises(UsageError, match=r"scores cannot be read .*; remove the result to run it again"):
            store.read_scores(result)
    path.unlink()
    with pytest.raises(UsageError, match=r"scores cannot be read \(No such file"):
        store.read_scores(result)
    with pytest.raises(ValueError, match="scores 'x' hold Python objects"):
        store.write_scores(KEY, {"x": np.array([{}])}, 10**6)


# ---- merging


def test_merge_into_its_own_name(folder: Path) -> None:
    """What ran on several machines becomes the database of the same name; files and scores stay where they are."""
    with Store.open(folder / "r", spool=True) as store:
        results = [
            dataclasses.replace(made(n, 0), scores=store.write_scores(made(n, 0).key, ARRAYS, 10**6)) for n in range(3)
        ]
        for result in results:
            store.add(result)
        assert store.merge(folder / "r") == 3
        assert store.merge(folder / "r") == 0
        assert store.all() == results
    with Store.open(folder / "r", spool=False) as store:
        assert [row.counts for row in Database(folder / "r", 1.0).all()] == [result.counts for result in results]
        assert store.all() == results
        assert store.read_scores(results[1]).keys() == ARRAYS.keys()


def test_merge_keeps_what_is_there(folder: Path) -> None:
    with Store.open(folder / "a" / "r", spool=True) as store, Store.open(folder / "b" / "r") as target:
        own = dataclasses.replace(made(0, 7), scores=target.write_scores(made(0, 7).key, ARRAYS, 10**6))
        target.add(own)
        for number in range(2):
            name = store.write_scores(made(number, 0).key, ARRAYS, 10**6)
            store.add(dataclasses.replace(made(number, 0), scores=name))
        assert store.merge(folder / "b" / "r") == 1
        assert target.all() == [own, store.all()[1]]
        assert all(target.read_scores(row) for row in target.all())
        assert len(list((folder / "b" / "r.scores").iterdir())) == 2


def test_merge_into_a_network_file_system_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = folder / "mountinfo"
    table.write_text(f"1 0 0:1 / {folder}/net rw - nfs4 server:/x rw\n2 0 0:2 / / rw - ext4 /dev/a rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    with Store.open(folder / "net" / "r") as store:
        assert store.spooled
        assert store.describe() == f"{folder}/net/r.spool (a file per result; {folder}/net/r is on nfs4)"
        store.add(made(0, 0))
        assert not (folder / "net" / "r").exists()
        with pytest.raises(UsageError, match="/net/r is on nfs4: merge into a file on a disk of this machine"):
            store.merge(folder / "net" / "r")
        assert store.merge(folder / "here" / "r") == 1
    with Store.open(folder / "here" / "r") as store:
        assert not store.spooled
        assert store.describe() == str(folder / "here" / "r")


# ---- what can be wrong with the file


def other_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.write_text("task,model,score\n" * 100), "is not a database of results: name another file"),
        (lambda path: path.write_text("short"), "is not a database of results: name another file"),
        (other_database, "is a database of something else: name another file"),
        (lambda path: path.mkdir(), "cannot be written to .*: name a file where you may write"),
    ],
    ids=["table", "short", "database", "folder"],
)
def test_another_file_is_refused_and_left_alone(folder: Path, make: Any, line: str) -> None:
    make(folder / "r")
    before = (folder / "r").read_bytes() if (folder / "r").is_file() else b""
    with pytest.raises(UsageError, match=line):
        Store.open(folder / "r")
    assert [path.name for path in folder.iterdir()] == ["r"]
    assert not (folder / "r").is_file() or (folder / "r").read_bytes() == before


def test_an_empty_file_becomes_a_database(folder: Path) -> None:
    """A process that is killed at its first moment leaves one."""
    (folder / "r").touch()
    with Store.open(folder / "r") as store:
        assert store.add(made(0, 0))


def test_a_file_that_goes_while_it_is_open(store: Store) -> None:
    store.add(made(0, 0))
    gone = store.path.parent / "gone"
    (store.path.parent / f"results.sqlite{'.spool' if store.spooled else ''}").rename(gone)
    with pytest.raises(StorageError, match=r"was deleted or (replaced|moved)"):
        store.add(made(1, 1))
    assert [path.name for path in store.path.parent.iterdir()] == ["gone"]


def test_a_file_that_is_replaced_while_it_is_open(folder: Path) -> None:
    with Store.open(folder / "r") as store:
        Store.open(folder / "other").close()
        (folder / "other").replace(folder / "r")
        for act in (lambda: store.add(made(0, 0)), store.all, lambda: store.claim(KEY, "this")):
            with pytest.raises(StorageError, match="was deleted or replaced while it was in use"):
                act()
    with Store.open(folder / "r") as store:
        assert store.all() == []


def test_a_file_that_goes_at_the_last_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged that went into a file without a name."""
    insert = database._insert

    def inserting(connection: sqlite3.Connection, result: Result) -> bool:
        (folder / "r").unlink()
        return insert(connection, result)

    with Store.open(folder / "r") as store:
        monkeypatch.setattr(database, "_insert", inserting)
        with pytest.raises(StorageError, match="was deleted or replaced while it was in use"):
            store.add(made(0, 0))


def test_a_database_that_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = Database._connect

    def limited(self: Database, mode: str) -> sqlite3.Connection:
        connection = connect(self, mode)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    with Store.open(folder / "r") as store:
        store.add(made(0, 0))
        with monkeypatch.context() as patched:
            patched.setattr(Database, "_connect", limited)
            with pytest.raises(
                StorageError, match=r"cannot be read or written \(database or disk is full; [\d,]+ bytes"
            ):
                store.add(made(1, 1, n_classes=5000))
        assert store.all() == [made(0, 0)]
        assert store.add(made(1, 1, n_classes=5000))


def test_a_disk_that_is_full(folder: Path, spool: bool) -> None:
    (folder / "disk").mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder / "disk"], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        with Store.open(folder / "disk" / "r", spool=spool) as store:
            store.add(made(0, 0))
            with pytest.raises(StorageError, match=r"bytes are free\)$"):
                store.add(made(1, 1, n_classes=8000))
            with pytest.raises(StorageError, match=r"No space left on device; [\d,]+ bytes are free"):
                store.write_scores(KEY, {"x": np.random.default_rng(0).random(100_000)}, 10**9)
            assert store.all() == [made(0, 0)]
            assert store.add(made(2, 2))
            assert not list((folder / "disk").rglob("*.tmp"))
    finally:
        subprocess.run(["umount", folder / "disk"], check=True)


def test_a_database_that_is_damaged(folder: Path) -> None:
    with Store.open(folder / "r") as store:
        for number in range(20):
            store.add(made(number, 0))
        content = bytearray((folder / "r").read_bytes())
        content[4096:] = b"\x55" * (len(content) - 4096)
        (folder / "r").write_bytes(content)
        with pytest.raises(StorageError, match=r"is damaged .*: use a copy, or rescue rows with sqlite3"):
            store.all()


def test_a_log_that_somebody_switched_on_is_switched_off(folder: Path) -> None:
    Store.open(folder / "r").close()
    connection = sqlite3.connect(folder / "r")
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    connection.close()
    with Store.open(folder / "r") as store:
        store.add(made(0, 0))
    connection = sqlite3.connect(folder / "r")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    assert [path.name for path in folder.iterdir()] == ["r"]


def test_an_old_sqlite_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(UsageError, match=r"results need 3\.37 or newer"):
        Store.open(folder / "r")


def test_names_that_are_no_unicode(store: Store) -> None:
    """A label from a folder whose name is Latin-1."""
    odd = dataclasses.replace(made(0, 0), per_class={"AP": {os.fsdecode(b"caf\xe9"): 0.5}})
    store.add(odd)
    [name] = store.all()[0].per_class["AP"]
    assert name == (os.fsdecode(b"caf\xe9") if store.spooled else "caf\\udce9")


def test_damaged_and_newer_files_of_a_spool(folder: Path) -> None:
    with Store.open(folder / "r", spool=True) as store:
        store.add(made(0, 0))
        [path] = (folder / "r.spool").iterdir()
        text = path.read_text()
        for damage in (text[:50], "[]", "{}", text.replace('"seed": 0', '"seed": 5')):
            path.write_text(damage)
            with pytest.raises(UsageError, match=r"\.json is damaged .*: remove it, and its experiment can run again"):
                store.all()
        path.write_text(text.replace('"version": 1', '"version": 2'))
        with pytest.raises(UsageError, match="was written by a newer birdjepa"):
            store.find(made(0, 0).key)


def test_a_file_system_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with Store.open(folder / "r", spool=True) as store:
        monkeypatch.setattr(files.os, "link", link)
        with pytest.raises(UsageError, match="without hard links"):
            store.add(made(0, 0))
        assert list((folder / "r.spool").iterdir()) == []
