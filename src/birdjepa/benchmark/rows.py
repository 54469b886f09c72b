"""What a store keeps its results in, of which there are two kinds: a database, and a folder of files."""

import abc

from birdjepa.benchmark.claims import Claim, Owner
from birdjepa.benchmark.result import Result


class Rows(abc.ABC):
    """Results by their keys, and who is at work on which. Any number of processes may call any of these at any time."""

    @abc.abstractmethod
    def find(self, key: str) -> Result | None:
        """One result."""

    @abc.abstractmethod
    def all(self) -> list[Result]:
        """Every result, in any order."""

    @abc.abstractmethod
    def add(self, result: Result) -> bool:
        """Keeps a result, on the disk when this returns; False if there is one of its key, which stays as it is."""

    @abc.abstractmethod
    def claim(self, key: str, owner: Owner, lease_s: float) -> Claim | None:
        """Gives the experiment to this owner alone; None if a live one has it, or its result is here."""

    @abc.abstractmethod
    def holder(self, key: str, lease_s: float) -> Owner | None:
        """The live owner of a claim."""

    @abc.abstractmethod
    def renew(self, claim: Claim) -> None:
        """Notes that the owner is still there."""

    @abc.abstractmethod
    def release(self, claim: Claim) -> None:
        """Ends a claim; nothing happens if it has been taken over."""
