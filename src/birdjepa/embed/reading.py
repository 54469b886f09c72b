"""Reading ahead of the encoder: recordings to pieces, decoded and resampled by a few threads or isolated processes.

The unit of work is a stretch: some consecutive pieces of one manifest row. Recordings are read stretch by stretch, so
their length does not matter, and seeking gives the same samples as reading from the start. A piece is a clip of a
recording or a tile of a labelled segment in its context; each is resampled alone, as `SoundEncoder.embed` does.

Nothing here imports torch: isolated workers import this module. Decoding and resampling release Python's lock, so
threads do as well as processes.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import queue
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from birdjepa.audio.decode import resample
from birdjepa.audio.recording import Recording
from birdjepa.audio.source import Source
from birdjepa.core.errors import InputError, LabelError
from birdjepa.embed.segments import Geometry, n_tiles, window_around

_LIMIT = 1 << 24
"""Native samples that a stretch holds at most (if it has more than one piece): 64 MiB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How recordings are read. Changes speed and safety, never a number."""

    n_readers: int = 2
    """Threads, or processes with isolate."""
    isolate: bool = False
    """Decode in worker processes with limits, so that a file which crashes or hangs the decoder costs its own rows
    only. For collections that nobody has scanned."""
    timeout_s: float = 60.0
    """With isolate: seconds that one stretch (some minutes of sound) may take."""

    def __post_init__(self) -> None:
        if self.n_readers < 1:
            raise ValueError(f"n_readers must be >= 1, got {self.n_readers}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be > 0 seconds, got {self.timeout_s}")


class Request(NamedTuple):
    """Some pieces of a manifest row, from piece `first` on."""

    row: int
    source: Source
    onset_s: float
    offset_s: float
    """Infinite up to the recording's end; NaN for a whole recording in clips."""
    first: int
    n_pieces: int
    """At most so many."""


class Piece(NamedTuple):
    """One clip for the encoder."""

    samples: Float[np.ndarray, " s"]
    start_s: float
    """What the piece stands for: [start_s, end_s) of the recording."""
    end_s: float
    inside_s: tuple[float, float]
    """The same stretch counted from the first of the samples; (0, inf) for a whole clip."""


class Stretch(NamedTuple):
    """Consecutive pieces, and whether the row has no more."""

    pieces: list[Piece]
    ended: bool


def read_stretch(geometry: Geometry, request: Request) -> Stretch:
    """Decodes what was asked for.

    Raises:
      AudioError: where the recording cannot be decoded.
      LabelError: if a segment lies behind the recording's end.
    """
    with Recording(request.source) as recording:
        read = _read_clips if math.isnan(request.offset_s) else _read_tiles
        return read(recording, geometry, request)


def read_ahead(
    requests: Iterable[Request], geometry: Geometry, config: ReadConfig, *, clips_ahead: int
) -> Generator[tuple[Request, Stretch | InputError], None, None]:
    """Yields every request's stretches in order, or the error that ends its row; about clips_ahead more are decoded
    meanwhile.

    Close it (contextlib.closing) to stop the readers early.
    """
    pending = iter(requests)
    waiting: collections.deque[tuple[Request, Future[Stretch | InputError]]] = collections.deque()
    n_stretches, n_clips = 0, 0
    with _readers(geometry, config) as submit:
        while True:
            depth = max(config.n_readers + 1, clips_ahead * (n_stretches + 1) // (n_clips + 1))
            while len(waiting) < min(depth, clips_ahead) and (request := next(pending, None)) is not None:
                waiting.append((request, submit(request)))
            if not waiting:
                return
            request, future = waiting.popleft()
            result = future.result()
            if isinstance(result, Stretch):
                n_stretches, n_clips = n_stretches + 1, n_clips + len(result.pieces)
                if not result.ended:
                    following = request._replace(first=request.first + len(result.pieces))
                    waiting.appendleft((following, submit(following)))
            yield request, result


Submit = Callable[[Request], "Future[Stretch | InputError]"]


@contextlib.contextmanager
def _readers(geometry: Geometry, config: ReadConfig) -> Iterator[Submit]:
    """A function that has a request read in the background; pending ones are dropped at the end."""
    with contextlib.ExitStack() as stack:
        read = functools.partial(read_stretch, geometry)
        answer = _isolated(read, config, stack) if config.isolate else functools.partial(_answer, read)
        pool = ThreadPoolExecutor(config.n_readers, thread_name_prefix="birdjepa-read")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield functools.partial(pool.submit, answer)


def _answer(read: Callable[[Request], Stretch], request: Request) -> Stretch | InputError:
    try:
        return read(request)
    except InputError as error:
        return error


def _isolated(
    read: Callable[[Request], Stretch], config: ReadConfig, stack: contextlib.ExitStack
) -> Callable[[Request], Stretch | InputError]:
    """Each thread borrows a worker process of its own for each request."""
    from birdjepa.audio.isolate import IsolatedWorkers  # POSIX only

    idle: queue.SimpleQueue[IsolatedWorkers] = queue.SimpleQueue()
    for _ in range(config.n_readers):
        idle.put(stack.enter_context(IsolatedWorkers(1, timeout_s=config.timeout_s)))

    def answer(request: Request) -> Stretch | InputError:
        workers = idle.get()
        try:
            [(_, result)] = workers.map(read, [request], name=lambda item: str(item.source))
            return result
        finally:
            idle.put(workers)

    return answer


def _read_clips(recording: Recording, geometry: Geometry, request: Request) -> Stretch:
    """Clips as `clips.cut` cuts them, from any clip on."""
    rate, clips, first = recording.sampling_rate, geometry.clips, request.first
    longest = max(1, _LIMIT // round(clips.clip_s * rate))
    last = first + min(request.n_pieces, longest) - 1
    begin, stop = clips.bounds(first, rate)[0], clips.bounds(last, rate)[1]
    samples = recording.crop(begin, stop - begin + 1, None)  # one more tells whether the recording goes on
    end = begin + len(samples)
    covered = clips.bounds(first - 1, rate)[1] if first else 0
    pieces = []
    for index in range(first, last + 1):
        start, clip_end = clips.bounds(index, rate)
        clip_end = min(clip_end, end)
        whole = clip_end == clips.bounds(index, rate)[1]
        rest = clip_end > max(covered, start) and (index == 0 or clip_end - start >= geometry.least_s * rate)
        if whole or rest:
            clip = resample(samples[start - begin : clip_end - begin], rate, geometry.sampling_rate)
            pieces.append(Piece(clip[: geometry.seen(len(clip))], start / rate, clip_end / rate, (0.0, math.inf)))
        if not whole:
            break
        covered = clip_end
    return Stretch(pieces, ended=end <= stop)


def _read_tiles(recording: Recording, geometry: Geometry, request: Request) -> Stretch:
    """Tiles of a labelled segment, each in its context."""
    rate = recording.sampling_rate
    n_total = recording.info().n_samples
    onset_s, offset_s = request.onset_s, min(request.offset_s, n_total / rate)
    if offset_s <= onset_s:
        raise _behind_the_end(request, n_total / rate)
    count = n_tiles(offset_s - onset_s, geometry)
    edges = [onset_s + (offset_s - onset_s) * i / count for i in range(count)] + [offset_s]
    last = min(request.first + request.n_pieces, count)
    pieces = []
    for index in range(request.first, last):
        piece, n_total = _read_tile(recording, geometry, (edges[index], edges[index + 1]), n_total)
        if piece is None:
            if not pieces and request.first == 0:
                raise _behind_the_end(request, n_total / rate)
            return Stretch(pieces, ended=True)
        pieces.append(piece)
    return Stretch(pieces, ended=last == count)


def _read_tile(
    recording: Recording, geometry: Geometry, tile_s: tuple[float, float], n_total: int
) -> tuple[Piece | None, int]:
    """A tile, None if it is behind the recording's end; and the samples there are, should the header claim more."""
    rate = recording.sampling_rate
    onset_s, offset_s = tile_s
    while True:
        offset_s = min(offset_s, n_total / rate)
        if offset_s <= onset_s:
            return None, n_total
        window = window_around(onset_s, offset_s, rate, n_total, geometry)
        samples = recording.crop(window.start, window.n_native, None)
        if len(samples) == window.n_native:
            break
        n_total = window.start + len(samples)
    clip = resample(samples, rate, geometry.sampling_rate, window.n_out)
    sample_s = 1 / geometry.sampling_rate
    begin_s = min(onset_s - window.start / rate, (window.n_out - 1) * sample_s)
    inside_s = (begin_s, max(offset_s - window.start / rate, begin_s + sample_s))
    return Piece(clip, onset_s, offset_s, inside_s), n_total


def _behind_the_end(request: Request, duration_s: float) -> LabelError:
    reason = f"the segment begins behind the recording's end ({duration_s:.3f} s)"
    return LabelError(str(request.source), request.onset_s, reason)
