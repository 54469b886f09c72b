"""Trials of a results store that need processes of their own: killed, stopped, forked, without rights, out of room.

Run as a script with a folder, a step and names of trials, it prints what they found as JSON. Of the moments of a kill
each step-th is tried. It forks, and imports once.
"""

import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import store_crowd

from birdjepa.benchmark import schema
from birdjepa.benchmark.results import Store
from birdjepa.core.errors import UserError

SCORES = {"scores": np.arange(6, dtype=np.float32).reshape(3, 2), "ids": np.array(["a", "b", "ü"])}


def forked(act: Callable[[], Any]) -> tuple[int, Any]:
    """Exit code, and what act returned, or the line of its error."""
    reader, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = act()
        except UserError as error:
            answer = f"{type(error).__name__}: {error}"
        except BaseException as error:
            answer = f"a bug: {error!r}"
        os.write(told, json.dumps(answer).encode())
        os._exit(0)
    os.close(told)
    with open(reader, "rb") as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(text) if text else None


def killed_at(event: int) -> Callable[[], None]:
    """Kills this process at so many statements of SQL, and of Python's calls that open, rename or remove a file, and
    tells nothing. Returns what ends the count.
    """
    left, listening = event, True

    def count(*_: object) -> None:
        nonlocal left
        left -= listening
        if listening and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def end() -> None:
        nonlocal listening
        listening = False

    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = traced
    heard = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "shutil.copyfile", "sqlite3.connect")
    sys.addaudithook(lambda name, _: count() if name in heard else None)
    return end


def merges(folder: Path, step: int) -> dict[str, Any]:
    """A merge is killed at every event in turn, into a target that holds one of the results already."""
    with Store.open(folder / "results.sqlite", spool=True) as source:
        for number in range(4):
            result = store_crowd.made(number, 0, n_classes=2)
            name = source.write_scores(result.key, SCORES, 10**6) if number % 2 else None
            source.add(store_crowd.dataclasses.replace(result, scores=name))
        wanted = source.all()
    wrong, n_events = [], 1 - step
    while True:
        n_events += step
        target = folder / f"{n_events}" / "merged.sqlite"
        with Store.open(target) as store:
            store.add(store_crowd.made(0, 0, n_classes=2))

        def merge(target: Path = target, event: int = n_events) -> int:
            with Store.open(folder / "results.sqlite", spool=True) as source:
                end = killed_at(event)
                n_new = source.merge(target)
                end()
                return n_new

        code, answer = forked(merge)
        for again in range(2):  # as the kill left it, and completed
            with Store.open(target) as store:
                rows = store.all()
                wrong += [f"event {n_events}: {row.task}" for row in rows if row not in wanted]
                read = [store.read_scores(row)["ids"].tolist() for row in rows if row.scores]
                wrong += [f"event {n_events}: scores" for ids in read if ids != SCORES["ids"].tolist()]
            if again and rows != wanted:
                wrong.append(f"event {n_events}: {len(rows)} rows at the end")
            with Store.open(folder / "results.sqlite", spool=True) as source:
                n_new = source.merge(target)
            if again and n_new:
                wrong.append(f"event {n_events}: a second merge found {n_new} new")
        shutil.rmtree(target.parent)
        if code == 0:
            return {"n_events": n_events - step, "last": answer, "wrong": wrong}


def adds(folder: Path, step: int) -> dict[str, Any]:
    """A writer is killed at every event of an add, in both modes; a row that is there is whole."""
    wrong, n_events = [], {}
    result = store_crowd.made(7, 1, n_classes=2)
    for spool in (False, True):
        event = 1 - step
        while True:
            event += step
            path = folder / f"{spool}{event}" / "results.sqlite"

            def add(path: Path = path, spool: bool = spool, event: int = event) -> bool:
                end = killed_at(event)
                with Store.open(path, spool=spool) as store:
                    claim = store.claim(result.key, "to be killed")
                    assert claim
                    added = store.add(result)
                    store.release(claim)
                end()
                return added

            code, answer = forked(add)
            with Store.open(path, spool=spool) as store:
                was_there = store.all()
                claim = store.claim(result.key, "the next")
                if was_there not in ([], [result]) or (claim is None) != bool(was_there):
                    wrong.append(f"{spool} {event}: {was_there}, {claim}")
                if store.add(result) == bool(was_there) or store.all() != [result]:
                    wrong.append(f"{spool} {event}: a second add")
            shutil.rmtree(path.parent)
            if code == 0:
                wrong += [] if answer is True else [f"{spool}: {answer}"]
                n_events[str(spool)] = event - step
                break
    return {"n_events": n_events, "wrong": wrong}


def migrations(folder: Path) -> dict[str, Any]:
    """Eight processes open a database of the version before at once; then this older program opens the newer one."""
    path, old = folder / "results.sqlite", schema.MIGRATIONS
    with Store.open(path) as store:
        store.add(store_crowd.made(0, 0))
    new = (*old, ("ALTER TABLE results ADD COLUMN added TEXT", "UPDATE results SET added = 'before'"))
    gate, start = os.pipe()
    openers = []

    def open_it() -> None:
        schema.MIGRATIONS = new
        os.read(gate, 1)
        code = 1
        with Store.open(path) as store:
            code = int(len(store.all()) != 1)
        os._exit(code)

    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            open_it()
        openers.append(pid)
    os.write(start, b"x" * 8)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in openers]
    connection = sqlite3.connect(path)
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [added] = connection.execute("SELECT added FROM results").fetchone()
    connection.close()
    return {"codes": codes, "version": version, "added": added, "older": forked(lambda: Store.open(path).describe())[1]}


def stopped(folder: Path) -> dict[str, Any]:
    """A writer is stopped with the lock in hand, and goes on later."""
    path = folder / "results.sqlite"
    Store.open(path).close()
    pid = os.fork()
    if pid == 0:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        os.kill(os.getpid(), signal.SIGSTOP)
        connection.execute("COMMIT")
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    store = Store.open(path, patience_s=0.3)
    [_, during] = forked(lambda: store.add(store_crowd.made(0, 0)))
    reading = forked(lambda: len(store.all()))[1]
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    return {"pid": pid, "during": during, "reading": reading, "after": store.add(store_crowd.made(0, 0))}


def inherited(folder: Path) -> dict[str, Any]:
    """Forked processes use their parent's store, which claims something and keeps that."""
    found = {}
    for spool in (False, True):
        store = Store.open(folder / f"{spool}" / "results.sqlite", spool=spool)
        claim = store.claim("0" * 64, "parent's")
        assert claim

        def use(number: int, store: Store = store) -> bool:
            own = store.claim(f"{number}" * 64, "child's")
            added = store.add(store_crowd.made(number, number))
            store.close()
            return added and own is not None

        answers = [forked(lambda number=number: use(number))[1] for number in range(1, 5)]
        holders = [store.holder(f"{number}" * 64) is not None for number in range(5)]
        found[str(spool)] = [answers, len(store.all()), holders]
        store.close()
    return found


def without_rights(folder: Path) -> dict[str, Any]:
    """A store in a folder that this user may read only, and a new one there."""
    found: dict[str, Any] = {}
    for spool in (False, True):
        path = folder / f"{spool}" / "results.sqlite"
        with Store.open(path, spool=spool) as store:
            store.add(store_crowd.made(0, 0))
        for inner in (*path.parent.rglob("*"), path.parent):
            inner.chmod(0o555 if inner.is_dir() else 0o444)

        def as_somebody(act: Callable[[], Any]) -> Any:
            def acting() -> Any:
                if os.getuid() == 0:
                    os.setuid(65534)
                return act()

            return forked(acting)[1]

        found[str(spool)] = {
            "read": as_somebody(lambda path=path, spool=spool: len(Store.open(path, spool=spool).all())),
            "add": as_somebody(
                lambda path=path, spool=spool: Store.open(path, spool=spool).add(store_crowd.made(1, 1))
            ),
            "new": as_somebody(lambda path=path, spool=spool: Store.open(path.with_name("b"), spool=spool).all()),
        }
        for inner in (path.parent, *path.parent.rglob("*")):
            inner.chmod(0o755)
    return found


def no_room(folder: Path) -> dict[str, Any]:
    """No file may grow, as under a quota; the next attempt has room."""
    found: dict[str, Any] = {}
    noise = {"scores": np.random.default_rng(0).random((200, 100))}
    for spool in (False, True):
        with Store.open(folder / f"{spool}" / "results.sqlite", spool=spool) as store:
            store.add(store_crowd.made(0, 0))
            big = store_crowd.made(1, 1, n_classes=3000)

            def limited(act: Callable[[], Any]) -> Any:
                def acting() -> Any:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
                    return act()

                return forked(acting)[1]

            add = limited(lambda store=store, big=big: store.add(big))
            scores = limited(lambda store=store, big=big: store.write_scores(big.key, noise, 10**9))
            left = [path.name for path in store.path.parent.rglob("*") if path.suffix in (".npz", ".tmp")]
            found[str(spool)] = {
                "add": add,
                "scores": scores,
                "left": left,
                "rows": len(store.all()),
                "after": store.add(big),
            }
    return found


TRIALS: dict[str, Callable[..., dict[str, Any]]] = {
    trial.__name__: trial for trial in (merges, adds, migrations, stopped, inherited, without_rights, no_room)
}

if __name__ == "__main__":
    base = Path(sys.argv[1])
    found = {}
    for name in sys.argv[3:]:
        (base / name).mkdir()
        enumerated = {"step": int(sys.argv[2])} if TRIALS[name] in (merges, adds) else {}
        found[name] = TRIALS[name](base / name, **enumerated)
    print(json.dumps(found))
