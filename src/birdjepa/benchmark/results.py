"""The results of a benchmark: finished experiments, each once, whoever writes them and wherever they lie.

`results.sqlite` on a disk of this machine is a database. On a network's file system, where databases lose rows, the
same name stands for a folder of files, `results.sqlite.spool`. Both are read together always. Scores of predictions are
in `results.sqlite.scores`.

    with Store.open(Path("results.sqlite")) as store:
        claim = store.claim(key, "POW, linear")
        if claim is None:
            ...  # store.find(key) has it by now, or store.holder(key) is at work on it
        else:
            store.add(Result(...))
            store.release(claim)
"""

import contextlib
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from birdjepa.benchmark import claims, mounts, sidecars
from birdjepa.benchmark.claims import LEASE_S, RENEWALS, Claim, Owner
from birdjepa.benchmark.database import Database
from birdjepa.benchmark.result import Result, key_of
from birdjepa.benchmark.rows import Rows
from birdjepa.benchmark.spool import Spool
from birdjepa.core.errors import StorageError, UsageError

__all__ = ["Claim", "Owner", "Result", "Store", "key_of"]

BATCH = 500
"""Results that a merge adds in one transaction."""


class Store:
    """Results at one path. Any number of processes may have it open; a forked one may use its parent's."""

    def __init__(self, path: Path, *, spooled: bool, patience_s: float, lease_s: float) -> None:
        self.path = path
        self.spooled = spooled
        """Whether results go to files rather than into the database."""
        self._patience_s = patience_s
        self._lease_s = lease_s
        self._spool = Spool(_beside(path, "spool"))
        self._scores = _beside(path, "scores")
        self._home: Rows = self._spool if spooled else Database(path, patience_s)
        self._held: dict[str, Claim] = {}
        self._ending = threading.Event()
        self._renewing: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        make: bool = True,
        spool: bool | None = None,
        patience_s: float = 60.0,
        lease_s: float = LEASE_S,
    ) -> "Store":
        """The results at a path, made if there are none and `make` allows it.

        `spool` says whether to write files, where what the system tells about the disk is wrong. `patience_s` is how
        long to wait for a lock.

        Raises:
          UsageError: if there are none, or the path is something else, newer than this program, or not writable.
          StorageError: if the disk fails, or another process keeps the lock.
        """
        spooled = not mounts.is_local(path) if spool is None else spool
        store = cls(path, spooled=spooled, patience_s=patience_s, lease_s=lease_s)
        if not make and not path.exists() and not store._spool.folder.exists():
            raise UsageError(f"{path}: there are no results")
        if isinstance(store._home, Database):
            if make or path.exists():
                store._home.prepare()
        elif make:
            store._spool.make()
        return store

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases what this process still claims."""
        self._ending.set()
        for claim in self._own_claims():
            with contextlib.suppress(StorageError, UsageError):  # it ends with the process
                self.release(claim)

    def describe(self) -> str:
        """Where results go, for people."""
        if not self.spooled:
            return str(self.path)
        kind = mounts.filesystem(self.path)
        return f"{self._spool.folder} (a file per result; {self.path} is on {kind or 'a file system'})"

    def find(self, key: str) -> Result | None:
        """One result."""
        return next((found for rows in self._all_rows() if (found := rows.find(key)) is not None), None)

    def all(self) -> list[Result]:
        """Every result, ordered by suite, task, model, classifier, n_train, layer, seed and key."""
        found: dict[str, Result] = {}
        for rows in self._all_rows():
            for result in rows.all():
                found.setdefault(result.key, result)
        return sorted(found.values(), key=_order)

    def add(self, result: Result) -> bool:
        """Keeps a result, on the disk when this returns. False: there is one of its key, which stays as it is.

        Raises:
          StorageError: if it could not be kept; nothing of it is there then.
        """
        added = self.find(result.key) is None and self._home.add(result)
        kept = result if added else self.find(result.key)
        sidecars.tidy(self._scores, result.key, kept.scores if kept else None)
        return added

    def claim(self, key: str, what: str) -> Claim | None:
        """Makes this process the only one that works on an experiment, until `release` or its end.

        None if another live one does, which `holder` names, or if the result is there, which `find` gives. A claim
        whose process has ended is taken over: at once on its machine, elsewhere when it was not renewed for a while.
        """
        if self.find(key) is not None:
            return None
        claim = self._home.claim(key, claims.this_process(what), self._lease_s)
        if claim is not None:
            self._held[claim.owner.token] = claim
            if self._renewing is None or not self._renewing.is_alive():
                self._renewing = threading.Thread(target=self._renew, name="claims", daemon=True)
                self._renewing.start()
        return claim

    def holder(self, key: str) -> Owner | None:
        """The live process that claims an experiment: its pid, its host, since when."""
        return self._home.holder(key, self._lease_s)

    def release(self, claim: Claim) -> None:
        """Ends a claim, with or without a result."""
        self._held.pop(claim.owner.token, None)
        self._home.release(claim)

    def write_scores(self, key: str, arrays: Mapping[str, np.ndarray], limit_bytes: int) -> str | None:
        """Keeps an experiment's arrays (scores, ids, classes, truth ..) in a file, whose name goes into its result;
        None, and no file, if it would be larger than allowed. Scores as float16 take half the room.
        """
        return sidecars.write(self._scores, key, arrays, limit_bytes)

    def read_scores(self, result: Result) -> dict[str, np.ndarray]:
        """The arrays of a result.

        Raises:
          UsageError: if none were kept, or the file is missing or damaged.
        """
        if result.scores is None:
            raise UsageError(f"{result.task}, {result.model}: no scores were kept, they were over the size limit")
        return sidecars.read(self._scores, result.scores)

    def merge(self, path: Path) -> int:
        """Brings all results, and their scores, into a database on a disk of this machine; says how many were new.

        What is there stays, nothing is removed here, and it may be killed and run again at any time.

        Raises:
          UsageError: if the path is on a network file system.
        """
        if not mounts.is_local(path):
            raise UsageError(f"{path} is on {mounts.filesystem(path)}: merge into a file on a disk of this machine")
        n_new = 0
        with Store.open(path, spool=False, patience_s=self._patience_s) as target:
            assert isinstance(target._home, Database)
            known = {result.key for result in target._home.all()}
            new = [result for result in self.all() if result.key not in known]
            for start in range(0, len(new), BATCH):
                batch = new[start : start + BATCH]
                for name in (result.scores for result in batch if result.scores):
                    sidecars.copy(name, self._scores, target._scores)
                n_new += target._home.add_all(batch)
        return n_new

    def _all_rows(self) -> list[Rows]:
        database = self._home if isinstance(self._home, Database) else Database(self.path, self._patience_s)
        return [database, self._spool] if database.exists() else [self._spool]

    def _own_claims(self) -> list[Claim]:
        """Without those that a forked process has from its parent."""
        return [claim for claim in list(self._held.values()) if claim.owner.pid == os.getpid()]

    def _renew(self) -> None:
        """Runs beside the work while this process claims something."""
        while not self._ending.wait(self._lease_s / RENEWALS):
            for claim in self._own_claims():
                with contextlib.suppress(StorageError, UsageError):  # the next time may be in time
                    self._home.renew(claim)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _order(result: Result) -> tuple[str | float | int, ...]:
    n_train = math.inf if result.n_train is None else result.n_train
    layer = math.inf if result.layer is None else result.layer
    names = (result.suite, result.task, result.model, result.classifier)
    return (*names, n_train, layer, result.seed, result.key)
