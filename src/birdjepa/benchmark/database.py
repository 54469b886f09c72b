"""Results as one SQLite file, on a disk of the machine that all its writers run on.

Each call opens a connection, does one transaction and closes it: what a result costs is seconds at least, a connection
half a millisecond. So nothing is carried into a forked process, a file that has been replaced is noticed, and threads
need no care. A transaction that writes begins by taking the lock; whoever has to wait asks again at random moments,
which keeps waiting fair. The journal is SQLite's rollback journal, never its write-ahead log: results remain one file
that can be copied, and a race of that log (SQLite before 3.51.3) cannot happen.

Never open the file in other ways in a process that uses it here: closing it would drop SQLite's locks.

Times of claims are those of the machine's clock, which all its processes share.
"""

import contextlib
import dataclasses
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from birdjepa.benchmark import schema
from birdjepa.benchmark.claims import Claim, Owner
from birdjepa.benchmark.result import Result, estimate, number
from birdjepa.benchmark.rows import Rows
from birdjepa.core.errors import StorageError, UsageError
from birdjepa.core.files import free_bytes

T = TypeVar("T")
Connection = sqlite3.Connection

OLDEST = (3, 37, 0)
"""The first SQLite with STRICT tables."""
LOCKS_FROM = 2**30
"""SQLite locks bytes of a file from here on."""


class Database(Rows):
    """A database of results. `prepare` before anything is written."""

    def __init__(self, path: Path, patience_s: float) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            raise UsageError(f"Python's SQLite is {sqlite3.sqlite_version}; results need 3.37 or newer: update Python")
        self.path = path.absolute()
        self._patience_s = patience_s
        self._file = self._identity()

    def prepare(self) -> None:
        """Makes the file or brings an older one up to date; of several processes one does, and the others wait.

        Raises:
          UsageError: if it is something else, or newer than this program.
        """
        if self._file is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"{self.path.parent} cannot be made ({error.strerror}): name another place") from None
            self._patiently(lambda: self._connect("rwc").close())
            self._file = self._identity()
        if self._transact("BEGIN", self._version) < len(schema.MIGRATIONS):
            self._transact("BEGIN IMMEDIATE", self._migrate)

    def exists(self) -> bool:
        return self._file is not None or self.path.exists()

    def find(self, key: str) -> Result | None:
        return next(iter(self._read(lambda connection: _select(connection, "WHERE key = ?", key))), None)

    def all(self) -> list[Result]:
        return self._read(_select)

    def add(self, result: Result) -> bool:
        return self.add_all([result]) == 1

    def add_all(self, results: Sequence[Result]) -> int:
        """Adds all that are not there in one transaction, and says how many those were."""
        return self._write(lambda connection: sum(_insert(connection, result) for result in results))

    def claim(self, key: str, owner: Owner, lease_s: float) -> Claim | None:
        def take(connection: Connection) -> Claim | None:
            if connection.execute("SELECT 1 FROM results WHERE key = ?", (key,)).fetchone():
                return None
            held = connection.execute("SELECT * FROM claims WHERE key = ?", (key,)).fetchone()
            if held and _live(held, lease_s):
                return None
            claim = Claim(key, owner, held["number"] + 1 if held else 0)
            values = {**dataclasses.asdict(owner), "key": key, "number": claim.number, "renewed": time.time()}
            names = ", ".join(values)
            places = ", ".join(f":{name}" for name in values)
            connection.execute(f"INSERT OR REPLACE INTO claims ({names}) VALUES ({places})", _bindable(values))
            return claim

        return self._write(take)

    def holder(self, key: str, lease_s: float) -> Owner | None:
        def read(connection: Connection) -> Owner | None:
            held = connection.execute("SELECT * FROM claims WHERE key = ?", (key,)).fetchone()
            return _live(held, lease_s) if held else None

        return self._read(read)

    def renew(self, claim: Claim) -> None:
        values = (time.time(), claim.key, claim.owner.token)
        self._write(lambda connection: connection.execute(f"UPDATE claims SET renewed = ? {_OWN}", values))

    def release(self, claim: Claim) -> None:
        values = (claim.key, claim.owner.token)
        self._write(lambda connection: connection.execute(f"DELETE FROM claims {_OWN}", values))

    def _read(self, act: Callable[[Connection], T]) -> T:
        return self._transact("BEGIN", lambda connection: self._of_this_version(connection, act))

    def _write(self, act: Callable[[Connection], T]) -> T:
        return self._transact("BEGIN IMMEDIATE", lambda connection: self._of_this_version(connection, act))

    def _of_this_version(self, connection: Connection, act: Callable[[Connection], T]) -> T:
        if self._version(connection) < len(schema.MIGRATIONS):
            raise UsageError(f"{self.path} was made by an older birdjepa: open it once where it can be written to")
        return act(connection)

    def _version(self, connection: Connection) -> int:
        """The version of the tables; 0 where there are none.

        Raises:
          UsageError: if it is newer, or not one of ours.
        """
        [version] = connection.execute("PRAGMA user_version").fetchone()
        [mark] = connection.execute("PRAGMA application_id").fetchone()
        if mark != schema.MARK and connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise UsageError(f"{self.path} is a database of something else: name another file for the results")
        if version > len(schema.MIGRATIONS):
            known = len(schema.MIGRATIONS)
            newer = f"{self.path} was made by a newer birdjepa (its version is {version}, this one knows {known})"
            raise UsageError(f"{newer}: update birdjepa, or name another file")
        return version

    def _migrate(self, connection: Connection) -> None:
        for statements in schema.MIGRATIONS[self._version(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.MARK}")
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")

    def _transact(self, begin: str, act: Callable[[Connection], T]) -> T:
        """What act returns, after its transaction has reached the disk. Without that it has left nothing there."""

        def once() -> T:
            with contextlib.closing(self._connect("rw")) as connection:
                if begin != "BEGIN":
                    self._use_rollback_journal(connection)
                connection.execute(begin)
                self._require_same_file()
                connection.execute(f"PRAGMA busy_timeout = {round(1000 * self._patience_s)}")  # for readers to end
                done = act(connection)
                connection.execute("COMMIT")
            self._require_same_file()
            return done

        return self._patiently(once)

    def _patiently(self, once: Callable[[], T]) -> T:
        """Tries again while another process has the lock.

        Raises:
          StorageError: if that lasts too long, or the disk fails.
          UsageError: if the file cannot be used.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return once()
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise self._in_words(error, code) from error
                if time.monotonic() > deadline:
                    held = f"{self.path} has been locked for {self._patience_s:g} s by {self._locker()}"
                    raise StorageError(f"{held}: let it go on or end it, then start again") from None
            time.sleep(random.uniform(0.001, 0.03))

    def _connect(self, mode: str) -> Connection:
        uri = f"{self.path.as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = EXTRA")  # a result that was acknowledged survives a power cut
            return connection
        except BaseException:
            connection.close()
            raise

    def _use_rollback_journal(self, connection: Connection) -> None:
        [journal] = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        if journal != "delete":
            raise StorageError(f"{self.path} stays in SQLite's journal mode {journal}: set it to DELETE with sqlite3")

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _require_same_file(self) -> None:
        if self._file is None:
            self._file = self._identity()
        if self._identity() != self._file:
            raise StorageError(
                f"{self.path} was deleted or replaced while it was in use, and what was just to be written is not in "
                "it: put it back, or start again"
            )

    def _in_words(self, error: sqlite3.Error, code: int) -> Exception:
        """What went wrong, as a line that says what to do; other errors are ours and stay as they are."""
        if self._file is not None:
            self._require_same_file()
        match code:
            case sqlite3.SQLITE_NOTADB:
                return UsageError(f"{self.path} is not a database of results: name another file")
            case sqlite3.SQLITE_CORRUPT:
                return StorageError(
                    f"{self.path} is damaged ({error}): use a copy, or rescue rows with sqlite3 .recover"
                )
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return UsageError(f"{self.path} cannot be written to ({error}): name a file where you may write")
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                room = f"{free_bytes(self.path.parent)} bytes are free"
                return StorageError(f"{self.path} cannot be read or written ({error}; {room})")
        return error

    def _locker(self) -> str:
        """Who has the lock, as Linux tells it."""
        with contextlib.suppress(OSError, ValueError):
            inode = str(self.path.stat().st_ino)
            for line in Path("/proc/locks").read_text().splitlines():
                _, family, _, kind, pid, file, first, _ = line.split()[:8]
                is_ours = file.rpartition(":")[2] == inode and first.isdecimal() and int(first) >= LOCKS_FROM
                if (family, kind) == ("POSIX", "WRITE") and is_ours and pid != str(os.getpid()):
                    return f"process {pid}"
        return "another process"


_OWN = "WHERE key = ? AND token = ?"


def _live(row: sqlite3.Row, lease_s: float) -> Owner | None:
    """Owner of a claim that has not ended."""
    owner = Owner(**{field.name: row[field.name] for field in dataclasses.fields(Owner)})
    alive = owner.is_alive()
    if alive is None:
        alive = time.time() - row["renewed"] < lease_s
    return owner if alive else None


def _insert(connection: Connection, result: Result) -> bool:
    plain = result.to_json()
    values = {"key": result.key} | {name: plain[name] for name in schema.COLUMNS if name != "key"}
    values |= {name: json.dumps(plain[name]) for name in schema.JSON_COLUMNS}
    names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    done = connection.execute(
        f"INSERT INTO results ({names}) VALUES ({places}) ON CONFLICT (key) DO NOTHING", _bindable(values)
    )
    if done.rowcount == 0:
        return False
    metrics = [{"result": done.lastrowid, "name": name, **each} for name, each in plain["metrics"].items()]
    connection.executemany(
        "INSERT INTO metrics (result, name, value, low, high) VALUES (:result, :name, :value, :low, :high)",
        map(_bindable, metrics),
    )
    per_class = [
        {"result": done.lastrowid, "metric": metric, "class": name, "value": value}
        for metric, values in plain["per_class"].items()
        for name, value in values.items()
    ]
    connection.executemany(
        "INSERT INTO per_class (result, metric, class, value) VALUES (:result, :metric, :class, :value)",
        map(_bindable, per_class),
    )
    return True


def _select(connection: Connection, where: str = "", *values: str) -> list[Result]:
    found = {row["id"]: row for row in connection.execute(f"SELECT * FROM results {where}", values)}
    ids = f"SELECT id FROM results {where}"
    metrics: dict[int, dict[str, Any]] = {each: {} for each in found}
    for row in connection.execute(f"SELECT * FROM metrics WHERE result IN ({ids})", values):
        metrics[row["result"]][row["name"]] = estimate(value=row["value"], low=row["low"], high=row["high"])
    per_class: dict[int, dict[str, dict[str, float]]] = {each: {} for each in found}
    for row in connection.execute(f"SELECT * FROM per_class WHERE result IN ({ids})", values):
        per_class[row["result"]].setdefault(row["metric"], {})[row["class"]] = number(row["value"])
    return [
        Result(
            **{name: row[name] for name in schema.COLUMNS if name != "key"},
            **{name: json.loads(row[name]) for name in schema.JSON_COLUMNS if name != "notes"},
            notes=tuple(json.loads(row["notes"])),
            metrics=metrics[id_],
            per_class=per_class[id_],
        )
        for id_, row in found.items()
    ]


def _bindable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Names from the disk that are no Unicode (a folder in Latin-1) are written with escapes, which SQLite takes."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in values.items()
    }
