"""Miniatures of public data sets in their own layouts, and a web server that misbehaves on request."""

import contextlib
import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.sources import Manifest, open_data

RATE = 8_000


@functools.cache
def sound(seconds: float = 0.6, *, hertz: float = 700.0, form: str = "OGG") -> bytes:
    """A tone as an encoded file's bytes, the same each time although an Ogg stream's number is drawn by chance. Written
    in blocks of 8,000 frames: libsndfile's Vorbis encoder keeps a block on its stack.
    """
    tone = (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE)).astype(np.float32)
    boxed = io.BytesIO()
    with soundfile.SoundFile(boxed, "w", RATE, 1, format=form, subtype="VORBIS" if form == "OGG" else None) as file:
        for start in range(0, len(tone), 8_000):
            file.write(tone[start : start + 8_000])
    return boxed.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """A tar.gz of files by their paths inside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def loads(manifest: Path, **settings: Any) -> tuple[Manifest, Clips]:
    """Opens a prepared manifest and draws a batch from it, so that its paths, times and labels have been used."""
    opened = open_data(str(manifest))
    config = LoaderConfig(**{"clip_s": 0.5, **settings})
    clips = Clips([opened], [1.0], config, sampling_rate=RATE, batch_size=4, rank=0, world=1, seed=0)
    batch = clips.batch(0)
    assert batch.clips.shape == (4, RATE // 2)
    assert not batch.refused
    assert torch.isfinite(batch.clips).all()
    return opened, clips


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Address of a local web server that answers GET requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(
    request: http.server.BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    announced: int | None = None,
) -> None:
    """Sends an answer; `announced` is the Content-Length where it lies."""
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body) if announced is None else announced))
    request.end_headers()
    request.wfile.write(body)
