"""Many processes on one store of results, some of them killed: what they were told must be what is there.

Run as a script it does what a JSON list on its command line asks for (it forks, so it is a process of its own), and
prints a JSON list of what it found.
"""

import contextlib
import dataclasses
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.results import Result, Store, key_of

PATIENCE_S = 60.0


@dataclasses.dataclass
class Found:
    """What a crowd of writers left."""

    n_acknowledged: int
    """Distinct keys that some writer was told are kept."""
    n_added: int
    """How often a writer was told that its row is new."""
    n_rows: int
    n_killed: int
    n_lost: int
    """Acknowledged and not there, or with other values than were written."""
    n_double: int
    """Rows, or answers that a row is new, more than one to a key."""
    n_errors: int
    """Writers that ended by an error."""
    integrity: str
    commit_p50_s: float
    commit_p99_s: float
    commit_max_s: float
    seconds: float


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder that all may enter, in memory where there is such a disk: syncs are most of a test's time elsewhere."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="birdjepa-", dir=memory if os.access(memory, os.W_OK) else None))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def made(number: int, writer: int, n_classes: int = 8) -> Result:
    """A result of experiment `number`, whose values tell who wrote it."""
    numbers = np.random.default_rng([number, writer]).uniform(size=n_classes + 3)
    return Result(
        experiment={"task": "pow", "seed": number},
        task="pow",
        suite="birdset",
        model="birdjepa",
        classifier="linear",
        n_train=None,
        seed=number,
        layer=None,
        metric="cmAP",
        metrics={"cmAP": Estimate(*(float(each) for each in numbers[:3]))},
        per_class={"AP": {f"class {each}": float(numbers[3 + each]) for each in range(n_classes)}},
        counts={"writer": writer},
        notes=(),
        scores=None,
        seconds=float(number),
        provenance={"writer": writer},
    )


def numbers_of(writer: int, n_rows: int, collisions: float) -> list[int]:
    """Experiments of one writer: this share of them are also every other writer's, who come to them at about the same
    time.
    """
    n_shared = round(collisions * n_rows)
    own = [1_000_000 * (writer + 1) + number for number in range(n_rows - n_shared)]
    mixed = [*range(n_shared), *own]
    random.Random(0).shuffle(mixed)
    return mixed


def crowd(
    path: Path,
    *,
    spool: bool,
    n_writers: int,
    n_rows: int,
    collisions: float = 0.2,
    killed: float = 0.25,
    seed: int = 0,
    n_classes: int = 8,
) -> Found:
    """Writers that add their rows as fast as they can; a share of them is killed, each after a random share of its
    rows and a random moment more.
    """
    began, rng = time.monotonic(), random.Random(seed)
    pipes: list[tuple[int, int]] = []
    for writer in range(n_writers):
        reader, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _write(path, spool, writer, numbers_of(writer, n_rows, collisions), n_classes, told)
        os.close(told)
        pipes.append((pid, reader))
    doomed = {writer: rng.random() * n_rows for writer in rng.sample(range(n_writers), round(killed * n_writers))}
    heard: dict[int, bytes] = dict.fromkeys(range(n_writers), b"")
    n_killed, open_ = 0, {reader: writer for writer, (_, reader) in enumerate(pipes)}
    while open_:
        for reader in select.select(list(open_), [], [])[0]:
            writer, block = open_[reader], os.read(reader, 1 << 20)
            heard[writer] += block
            if not block:
                del open_[reader]
                os.close(reader)
            elif writer in doomed and heard[writer].count(b"\n") > doomed[writer]:
                del doomed[writer]
                time.sleep(rng.random() * 0.02)
                os.kill(pipes[writer][0], signal.SIGKILL)
                n_killed += 1
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in pipes]
    answers = [
        (writer, *json.loads(line))
        for writer, text in heard.items()
        for line in text.split(b"\n")[:-1]  # what follows is half a line of a killed one
    ]
    return _judge(path, spool, answers, n_killed, sum(code not in (0, -9) for code in codes), began, n_classes)


def _write(path: Path, spool: bool, writer: int, numbers: list[int], n_classes: int, told: int) -> None:
    code = 1
    try:
        with Store.open(path, spool=spool, patience_s=PATIENCE_S) as store:
            for number in numbers:
                start = time.monotonic()
                added = store.add(made(number, writer, n_classes))
                line = json.dumps([number, added, time.monotonic() - start]) + "\n"
                os.write(told, line.encode())
        code = 0
    except BaseException as error:
        print(f"writer {writer}: {error!r}", file=sys.stderr)
    finally:
        os._exit(code)


def _judge(
    path: Path, spool: bool, answers: list[Any], n_killed: int, n_errors: int, began: float, n_classes: int
) -> Found:
    seconds = time.monotonic() - began
    with Store.open(path, spool=spool) as store:
        rows = store.all()
    by_key = {row.key: row for row in rows}
    n_lost = 0
    for writer, number, added, _ in answers:
        row = by_key.get(key_of({"task": "pow", "seed": number}))
        whose = writer if added else row and row.counts["writer"]
        n_lost += row is None or row != made(number, int(whose or 0), n_classes)
    new = Counter(number for _, number, added, _ in answers if added)
    took = sorted(each for *_, each in answers)
    integrity = "files"
    if not spool:
        connection = sqlite3.connect(path)
        [integrity] = connection.execute("PRAGMA integrity_check").fetchone()
        integrity += "".join(map(str, connection.execute("PRAGMA foreign_key_check").fetchall()))
        connection.close()
    return Found(
        n_acknowledged=len({number for _, number, *_ in answers}),
        n_added=sum(new.values()),
        n_rows=len(rows),
        n_killed=n_killed,
        n_lost=n_lost,
        n_double=len(rows) - len(by_key) + sum(count - 1 for count in new.values()),
        n_errors=n_errors,
        integrity=integrity,
        commit_p50_s=took[len(took) // 2],
        commit_p99_s=took[len(took) * 99 // 100],
        commit_max_s=took[-1],
        seconds=seconds,
    )


def races(path: Path, *, spool: bool, n_racers: int, n_jobs: int, dead: bool) -> list[int]:
    """How many racers won each job. `dead`: a process that was killed has claimed all of them before."""
    keys = [key_of({"job": number}) for number in range(n_jobs)]
    Store.open(path, spool=spool).close()
    if dead:
        os.waitpid(_forked(lambda: _claim_and_die(path, spool, keys)), 0)
    reader, told = os.pipe()
    gate, start = os.pipe()
    racers = [_forked(lambda number=number: _race(path, spool, keys, gate, told, number)) for number in range(n_racers)]
    os.write(start, b"x" * n_racers)
    os.close(told)
    text = b""
    while block := os.read(reader, 1 << 16):
        text += block
        if text.count(b"end\n") == n_racers:  # racers wait until all have ended, for claims end with their process
            for pid in racers:
                os.kill(pid, signal.SIGKILL)
    for pid in racers:
        os.waitpid(pid, 0)
    won = Counter(text.decode().split())
    return [won[key] for key in keys]


def _claim_and_die(path: Path, spool: bool, keys: list[str]) -> None:
    store = Store.open(path, spool=spool)
    assert all(store.claim(key, "to be killed") for key in keys)
    os.kill(os.getpid(), signal.SIGKILL)


def _race(path: Path, spool: bool, keys: list[str], gate: int, told: int, number: int) -> None:
    store = Store.open(path, spool=spool)
    os.read(gate, 1)
    for key in keys:
        claim = store.claim(key, f"racer {number}")
        if claim is not None:
            os.write(told, f"{key}\n".encode())
    os.write(told, b"end\n")
    time.sleep(60)


def _forked(act: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:
            print(f"{error!r}", file=sys.stderr)
        os._exit(1)
    return pid


if __name__ == "__main__":
    answers = []
    for asked in json.loads(sys.argv[1]):
        what, where = asked.pop("what"), Path(asked.pop("path"))
        found = dataclasses.asdict(crowd(where, **asked)) if what == "crowd" else races(where, **asked)
        answers.append(found)
    print(json.dumps(answers))
