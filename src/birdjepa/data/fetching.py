"""Fetching over HTTP from a server that others use too: slowly, patiently, and whole files or none.

One `Fetcher` starts at most one request per interval, whatever it asks for. What may pass is tried again a bounded
number of times: answers 429 and 5xx, connections that break or never come, bodies that end early. Between tries it
waits as long as the server asks (Retry-After), or else twice as long each time, with jitter, so that clients which
failed together do not come back together. Addresses in messages have lost their query, which can hold a key.
"""

import contextlib
import email.utils
import http.client
import json
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from birdjepa.core import files
from birdjepa.core.errors import Unreachable

ATTEMPTS = 6
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 120.0
LONGEST_ASKED_WAIT_S = 3600.0
"""A server that asks for more is not waited for."""
_BLOCK = 1 << 16
_PASSING = (429, 500, 502, 503, 504)
_BREAKS = (
    *(urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError),
    ValueError,  # a document that is no JSON, as of a server that is down for repairs
)


class Answered(Exception):
    """The server's answer is an error that trying again does not mend."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body


class Fetcher:
    """Requests to one server, paced and repeated."""

    def __init__(
        self,
        *,
        interval_s: float,
        agent: str,
        timeout_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval_s = interval_s
        self._agent = agent
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0

    def json(self, url: str) -> Any:
        """A JSON document.

        Raises:
          Answered: at an error status that does not pass.
          Unreachable: if no try gave a document.
        """
        return self._patiently(url, lambda: json.loads(b"".join(self._body(url))))

    def file(self, url: str, path: Path) -> None:
        """Writes a body beside path and renames it, once it is as long as the server said.

        Raises:
          Answered: at an error status that does not pass.
          Unreachable: if no try gave the whole of it.
        """

        def attempt() -> None:
            with files.replacing(path) as temporary, temporary.open("wb") as file:
                for block in self._body(url):
                    file.write(block)

        self._patiently(url, attempt)

    def _patiently(self, url: str, attempt: Callable[[], Any]) -> Any:
        """The first result of at most ATTEMPTS tries."""
        for number in range(1, ATTEMPTS + 1):
            self._pace()
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in _PASSING:
                        raise Answered(error.code, _text(error)) from None
                    wait_s, why = retry_after_s(error.headers.get("Retry-After")), f"HTTP {error.code}"
            except _BREAKS as error:
                wait_s, why = None, str(getattr(error, "reason", "") or error or type(error).__name__)
            if wait_s is not None and wait_s > LONGEST_ASKED_WAIT_S:
                asked = f"the server asks to come back in {wait_s:.0f} s: start the same command again then"
                raise Unreachable(f"{_shown(url)}: {why}; {asked}")
            if number == ATTEMPTS:
                raise Unreachable(f"{_shown(url)}: {why}, {ATTEMPTS} times; start the same command again later")
            self._sleep(_own_wait(number) if wait_s is None else wait_s)

    def _pace(self) -> None:
        now = self._clock()
        if now < self._next:
            self._sleep(self._next - now)
            now = self._next
        self._next = now + self._interval_s

    def _body(self, url: str) -> Iterator[bytes]:
        """The body in blocks; ConnectionError where it is shorter than announced."""
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise Answered(0, f"not fetched: {_shown(url)} is no address of a web server")
        request = urllib.request.Request(url, headers={"User-Agent": self._agent})
        with contextlib.closing(urllib.request.urlopen(request, timeout=self._timeout_s)) as response:
            announced, n_bytes = response.headers.get("Content-Length"), 0
            while block := response.read(_BLOCK):
                n_bytes += len(block)
                yield block
            if announced and announced.isdigit() and n_bytes != int(announced):
                raise ConnectionError(f"the body ended after {n_bytes:,} of {int(announced):,} bytes")


def _own_wait(number: int) -> float:
    """Seconds after the number-th failure: about 2, 4, 8, ... and never more than LONGEST_WAIT_S."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (number - 1)) * random.uniform(0.75, 1.25)


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its two forms."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _text(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(_BLOCK).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _shown(url: str) -> str:
    return url.partition("?")[0]
