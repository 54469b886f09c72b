"""Results as a folder of files, for network file systems, on which the locks of a database may lock nothing.

A result is one file, KEY.json, that is made once and never changed: whole files get their names by hard links, of which
every file system gives a name to one only. Nothing is ever locked.

Claims are files too, KEY.0.claim, and KEY.1.claim when that one's owner has ended without a result, and so on. A name
is used once, and goes away only when the result is there; so whoever makes the next number is the only one, however
late its look at the others was, or finds the result. Times are the file server's own: that of a claim is its file's,
and what time it is now is told by a new file.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from birdjepa.benchmark.claims import Claim, Owner
from birdjepa.benchmark.result import Result
from birdjepa.benchmark.rows import Rows
from birdjepa.core import files
from birdjepa.core.errors import StorageError, UsageError

VERSION = 1
_RELEASED = b"{}"


class Spool(Rows):
    """A folder of results. It may be missing where it is only read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        with self._storing():
            self.folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> Result | None:
        path = self.folder / f"{key}.json"
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror})") from None
        return _parse(path, text)

    def all(self) -> list[Result]:
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be read ({error.strerror})") from None
        keys = [name.removesuffix(".json") for name in names if re.fullmatch(r"[0-9a-f]{64}\.json", name)]
        return [found for found in map(self.find, keys) if found is not None]

    def add(self, result: Result) -> bool:
        value = {"version": VERSION, "result": result.to_json()}
        with self._storing():
            return files.create_bytes(self.folder / f"{result.key}.json", json.dumps(value, indent=2).encode())

    def claim(self, key: str, owner: Owner, lease_s: float) -> Claim | None:
        with self._storing():
            for number in itertools.count():
                path = self._claim(key, number)
                if files.create_bytes(path, json.dumps(dataclasses.asdict(owner), indent=2).encode()):
                    if self.find(key) is None:
                        return Claim(key, owner, number)
                    path.unlink(missing_ok=True)
                    return None
                if self._live(path, lease_s) is not None:
                    return None
        raise AssertionError

    def holder(self, key: str, lease_s: float) -> Owner | None:
        with self._storing():
            for number in itertools.count():
                path = self._claim(key, number)
                owner = self._live(path, lease_s)
                if owner is not None or not path.exists():
                    return owner
        raise AssertionError

    def renew(self, claim: Claim) -> None:
        with self._storing():
            os.utime(self._claim(claim.key, claim.number))

    def release(self, claim: Claim) -> None:
        with self._storing():
            if self.find(claim.key) is None:
                files.write_bytes(self._claim(claim.key, claim.number), _RELEASED, durable=False)
                return
            for number in range(claim.number + 1):
                self._claim(claim.key, number).unlink(missing_ok=True)

    def _claim(self, key: str, number: int) -> Path:
        return self.folder / f"{key}.{number}.claim"

    def _live(self, path: Path, lease_s: float) -> Owner | None:
        """Owner of a claim that has not ended."""
        try:
            with path.open("rb") as file:
                value, renewed = json.load(file), os.fstat(file.fileno()).st_mtime
            if not value:
                return None
            owner = Owner(**value)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}): remove it if nobody works on that experiment") from None
        alive = owner.is_alive()
        if alive is None:
            alive = self._now() - renewed < lease_s
        return owner if alive else None

    def _now(self) -> float:
        clock = self.folder / f".now.{secrets.token_hex(4)}.tmp"
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink()
        return now

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """One line for whatever a disk may do."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise StorageError(f"{self.folder} is gone: it was deleted or moved while in use; start again") from None
        except OSError as error:
            room = f"{files.free_bytes(self.folder.parent)} bytes are free"
            raise StorageError(f"{self.folder} cannot be written to ({error.strerror}; {room})") from None


def _parse(path: Path, text: bytes) -> Result:
    try:
        value = json.loads(text)
        newer = value["version"] > VERSION
        if not newer:
            result = Result.from_json(value["result"])
            if path.stem == result.key:
                return result
            raise ValueError("it holds another experiment than its name says")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}): remove it, and its experiment can run again") from None
    raise UsageError(f"{path} was written by a newer birdjepa: update this one to read it")
