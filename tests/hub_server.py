"""A Hub for tests, on this machine alone: repositories that the test makes, in the Hub's own layout, and faults."""

import contextlib
import hashlib
import http.server
import json
import os
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

SMALL = 200
"""Bytes below which a file is no LFS file here."""


class FakeHub:
    """What the server holds, does wrong and has seen."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Bytes of each file by repository."""
        self.configs: dict[str, list[dict]] = {}
        self.faults: dict[str, deque[str]] = {"api": deque(), "resolve": deque(), "cdn": deque()}
        """What to do wrong with the next requests of a kind, one each; an empty text does nothing wrong."""
        self.always: dict[str, str] = {}
        """A fault of every request of a kind."""
        self.delay_s = 0.0
        """Time that each file takes before it comes."""
        self.seen: list[tuple[str, str, str]] = []
        """Kind, path and Authorization of each request."""
        self.ranges: list[str] = []
        self.sent = 0
        """Bytes of files."""
        self.url = ""

    def add(self, repository: str, folder: Path, configs: list[dict] | None = None) -> None:
        """A repository from the files below a folder."""
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files[repository] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        if configs:
            self.configs[repository] = configs

    def sha(self, repository: str) -> str:
        described = repr(sorted((path, len(data)) for path, data in self.files[repository].items()))
        return hashlib.sha1(described.encode()).hexdigest()

    def count(self, kind: str) -> int:
        return sum(each == kind for each, _, _ in self.seen)

    def downloads(self) -> list[str]:
        """Paths whose bytes were asked for, once for each time."""
        return [path for kind, path, _ in self.seen if kind == "cdn"]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        kind = "api" if path.startswith("/api/") else "cdn" if path.startswith("/cdn/") else "resolve"
        self.hub.seen.append((kind, path, self.headers.get("Authorization", "")))
        fault = self.hub.faults[kind].popleft() if self.hub.faults[kind] else self.hub.always.get(kind, "")
        if fault.isdecimal() or fault.startswith("429"):
            status, _, after = fault.partition(" ")
            self.reply(int(status), b"{}", **({"Retry-After": after} if after else {}))
        elif fault == "html":
            self.reply(200, b"<html>please log in to the hotel's network</html>")
        elif fault == "loop":
            self.reply(301, b"", Location=self.path)
        elif kind == "api":
            self.describe(path)
        elif kind == "resolve":
            self.lead(path)
        else:
            self.send_file(path, fault)

    def describe(self, path: str) -> None:
        found = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/revision/(.+)", path)
        held = self.hub.files.get(found[1]) if found else None
        if found is None or held is None or found[2] not in ("main", "v1", self.hub.sha(found[1])):
            return self.reply(404, b'{"error": "Repository not found"}')
        siblings = []
        for name, data in held.items():
            git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(data), "blobId": git})
            if len(data) >= SMALL:
                siblings[-1] |= {"lfs": lfs, "blobId": "0" * 40}
        card = {"cardData": {"configs": self.hub.configs[found[1]]}} if found[1] in self.hub.configs else {}
        told = {"id": found[1], "sha": self.hub.sha(found[1]), "siblings": siblings, **card}
        return self.reply(200, json.dumps(told).encode())

    def lead(self, path: str) -> None:
        """Where a file lies: on another host, as the Hub's large files do."""
        found = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        data = self.hub.files.get(found[1], {}).get(found[3]) if found else None
        if found is None or data is None:
            return self.reply(404, b"Entry not found")
        there = self.hub.url.replace("127.0.0.1", "localhost")
        return self.reply(
            302,
            b"",
            Location=f"{there}/cdn/{found[1]}/{found[3]}",
            **{
                "X-Repo-Commit": self.hub.sha(found[1]),
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            },
        )

    def send_file(self, path: str, fault: str) -> None:
        owner, name, rest = path.removeprefix("/cdn/").split("/", 2)
        data = self.hub.files[f"{owner}/{name}"][rest]
        time.sleep(self.hub.delay_s)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        self.hub.ranges.append(self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        piece = data[first : int(asked[2]) + 1 if asked and asked[2] else None]
        if fault == "wrong":
            piece = bytes(255 - byte for byte in piece)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{len(data)}")
        length = {"short": len(piece) // 2, "long": len(piece) + 100}.get(fault, len(piece))
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"x"')
        self.end_headers()
        whole = fault in ("", "wrong", "long")
        piece = piece if whole else piece[: len(piece) // 2]
        self.hub.sent += len(piece)
        self.wfile.write(piece)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(3)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = bool(fault)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up here all the time."""


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
    """A server on a port of its own."""
    hub = FakeHub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """The variables that lead a process to the server, with a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BIRDJEPA_CACHE"))}
    return {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
