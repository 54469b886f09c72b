"""Talking to the Hub: requests that are tried again while that may help, and that end in one clear line.

The client is that of huggingface_hub, with its login, proxies and endpoint. Every wait is bounded: for a connection,
for the next bytes, between attempts. What the network spoils may work later (exit code 75); what the Hub refuses never
will.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from birdjepa.core.errors import MissingExtraError, Unreachable, UsageError
from birdjepa.core.telling import tell
from birdjepa.data.fetching import retry_after_s

T = TypeVar("T")

_MOST_JSON = 1 << 28
"""Bytes of a description of a repository; more is none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long it is tried to get something."""

    attempts: int = 7
    """Failures in a row, without a byte in between, after which it is given up."""
    base_s: float = 1.0
    """Wait after the first failure; doubled after each other, and cut at random by up to a half."""
    most_s: float = 60.0
    """Longest of these waits."""
    asked_s: float = 300.0
    """Longest wait that a server may ask for: the Hub counts requests in windows of that length."""
    stall_s: float = 20.0
    """Wait for a connection, and for the next bytes."""
    slowest: float = 1000.0
    """Bytes a second below which a transfer counts as stalled."""


PATIENCE = Patience()
_TOLD, _LONG_S = 3, 30.0
"""Failures in a row, and a wait in seconds, from which the user is told why nothing happens."""


class Transient(Exception):
    """An attempt that failed and may succeed when it is made again."""

    def __init__(self, reason: str, *, wait_s: float = 0.0, progressed: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        """What the server asks to wait."""
        self.progressed = progressed
        """Something came before it failed."""


def is_offline() -> bool:
    """Whether the user forbids the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def endpoint() -> str:
    """Where the Hub is."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def persist(name: str, attempt: Callable[[], T], *, rest: Callable[[float], None] = time.sleep) -> T:
    """What an attempt returns, made again while it fails in a way that may pass.

    Raises:
      Unreachable: when it is given up.
    """
    failures = 0
    while True:
        try:
            return attempt()
        except Transient as error:
            failures = 1 if error.progressed else failures + 1
            if failures >= PATIENCE.attempts:
                raise Unreachable(
                    f"{name}: given up after {failures} attempts ({error}); it may work later. With what is in the "
                    "cache HF_HUB_OFFLINE=1 works without the network"
                ) from None
            wait_s = _wait_s(failures, error.wait_s)
            if failures == _TOLD or wait_s > _LONG_S:
                tell(f"{name}: {error}; trying again in {wait_s:.0f} s")
            rest(wait_s)


def _wait_s(failures: int, asked_s: float) -> float:
    """Chance keeps processes that failed together from coming back together; it follows no seed, for it decides no
    result."""
    own_s = min(PATIENCE.most_s, PATIENCE.base_s * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
    return min(asked_s, PATIENCE.asked_s) + own_s


@contextlib.contextmanager
def opened(url: str, name: str, *, first: int = 0, last: int | None = None) -> Generator[Any, None, None]:
    """The Hub's answer to a request for bytes first to last of a file, its body still to be read.

    Raises:
      Transient: if it failed, here or in the block.
      UsageError: if the Hub refuses.
    """
    if is_offline():
        raise UsageError(f"{name}: is not in the cache, and HF_HUB_OFFLINE forbids to fetch it")
    hub, failure = _client()
    headers = {**hub.build_hf_headers(), "Accept-Encoding": "identity"}
    if first or last is not None:
        headers["Range"] = f"bytes={first}-{'' if last is None else last}"
    try:
        with hub.get_session().stream(
            "GET", url, headers=headers, timeout=PATIENCE.stall_s, follow_redirects=True
        ) as answer:
            _check(answer, url, name)
            yield answer
    except failure as error:
        raise Transient(f"{type(error).__name__}: {error}"[:200]) from None


def body(answer: Any) -> Iterator[bytes]:
    """The pieces of an answer's body as they come, never unpacked.

    Raises:
      Transient: if hardly any do.
    """
    began, n_bytes = time.monotonic(), 0
    for piece in answer.iter_raw():
        yield piece
        n_bytes += len(piece)
        seconds = time.monotonic() - began
        if seconds > PATIENCE.stall_s:
            if n_bytes < PATIENCE.slowest * seconds:
                raise Transient(f"stalled: {n_bytes} bytes in {seconds:.0f} s")
            began, n_bytes = time.monotonic(), 0


def read(url: str, name: str, first: int, last: int) -> bytes:
    """Bytes first to last of a file.

    Raises:
      Unreachable, UsageError: if they cannot be had.
    """

    def attempt() -> bytes:
        with opened(url, name, first=first, last=last) as answer:
            skipped = 0 if answer.status_code == 206 else first  # who knows no ranges sends all of it
            found = bytearray()
            for piece in body(answer):
                found += piece[skipped:]
                skipped = max(0, skipped - len(piece))
                if len(found) > last - first:
                    break
        if len(found) < last - first + 1:
            raise Transient(f"{len(found)} of {last - first + 1} bytes came")
        return bytes(found[: last - first + 1])

    return persist(name, attempt)


def read_json(url: str, name: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
      Unreachable, UsageError: if it cannot be had.
    """

    def attempt() -> Mapping[str, Any]:
        found = bytearray()
        with opened(url, name) as answer:
            for piece in body(answer):
                found += piece
                if len(found) > _MOST_JSON:
                    raise Transient("the answer has no end")
        try:
            value = json.loads(found)
        except (ValueError, RecursionError):
            raise Transient("the answer is no JSON: something stands between here and the Hub") from None
        if not isinstance(value, dict):
            raise Transient("the answer is no JSON object")
        return value

    return persist(name, attempt)


def _client() -> tuple[Any, type[Exception]]:
    """huggingface_hub's utilities, and what all errors of its HTTP library derive from, whichever that is."""
    try:
        from huggingface_hub import errors, utils
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    failure = next(each for each in errors.HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")
    return utils, failure


def _check(answer: Any, url: str, name: str) -> None:
    """Sorts refusals by whether another attempt may help.

    Raises:
      Transient, UsageError: which of them it is.
    """
    status = answer.status_code
    if status in (200, 206):
        return
    elsewhere = urlsplit(str(answer.url)).netloc != urlsplit(url).netloc
    if status in (408, 416, 425, 429) or status >= 500 or elsewhere:  # where it led may refuse a lease that ran out
        raise Transient(f"HTTP {status}", wait_s=_retry_after_s(answer.headers))
    if status == 401:
        text = "the Hub gives no access (401): check the name, and log in with `hf auth login` if it is private"
    elif status == 403:
        text = "the Hub refuses access (403): accept the conditions on its page, and log in with `hf auth login`"
    elif status == 404:
        text = "the Hub has no such repository, revision or file (404): check the name"
    else:
        text = f"the Hub answers HTTP {status}"
    raise UsageError(f"{name}: {text}")


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """What a server asks to wait, in seconds: a number, a date, or the rest of the Hub's window of requests."""
    asked_s = retry_after_s(headers.get("retry-after"))
    if asked_s is not None:
        return asked_s
    rest = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return float(rest[1]) if rest else 0.0
