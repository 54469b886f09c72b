"""An open recording: libsndfile behind checks, reading forwards from wherever it was asked to go.

Headers are never trusted: the container is told from the content, reading goes in bounded blocks until the decoder has
no more, and a file is opened only if it is a regular one.

Seeking equals decoding from the start, bit for bit, but for two codecs with a memory. In MP3, mpg123 lands on the right
sample with an empty bit reservoir: low bit rates came back wrong by 0.4 of full scale. So seeks land at least
8 frames early, on the decoder's own period, and what was asked for equals the whole decode within 1e-6 of full scale
(MPEG-1 with LAME's tag: bit for bit). In Opus the prediction fades over a second or two (wrong by 0.002 at first), so
seeks land that much early. A seek in a long MP3 walks all frame headers before it, some 50 microseconds a second of
sound: read hours-long MP3s from first to last, or convert them. Codecs in which seeking goes wrong once a file is
damaged (ALAC, G.72x and the like; FLAC whose header is wrong about its blocks) are decoded from the start.

An MP3 without a Xing header is opened through a view that exaggerates its size: libsndfile would estimate its length
from the first frame and stop there. One whose Xing header counts too few frames (two MP3s joined by `cat`) is read as
far as its header counts.

Axes: s samples | c channels
"""

import contextlib
import dataclasses
import errno
import io
import math
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from jaxtyping import Float

from birdjepa.audio import containers
from birdjepa.audio.source import Deferred, Part, Source
from birdjepa.core.errors import AudioError

KINDS = (
    *("missing", "permission", "not a file", "io", "empty", "not audio", "unsupported", "header"),
    *("channels", "rate", "truncated", "not finite", "range", "too short"),
)
"""How a reason begins, up to its colon. `io` may pass (a network file system's hiccup): try again before counting the
file as bad.
"""

MIN_RATE, MAX_RATE = 1_000, 500_000
MAX_CHANNELS = 256
MAX_AMPLITUDE = 1e10
"""Larger float samples overflow in power spectra; 32-bit integers stored unscaled as floats stay below."""

_UNKNOWN = (1 << 63) - 1
"""libsndfile's length of a FLAC whose header leaves it open."""
_BLOCK = 1 << 16
"""Samples of all channels together that one read asks the decoder for."""
_MPEG_PERIOD = 4608
"""Output samples after which mpg123's synthesis filter is back in phase: 4 frames of MPEG-1, 8 of MPEG-2."""
_OPUS_PREROLL_S = 2
_ADPCM = ("IMA_ADPCM", "MS_ADPCM")
_ADPCM_PREROLL = 1 << 16
"""Samples, more than a block: the decoder fills up a last block that was cut with what it decoded before."""
_SEEKABLE = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS")
"""Beginnings of subtypes (beside those above) in which seeking is sure even where a file is damaged."""
_EXAGGERATION = 40
"""Highest over lowest bit rate of an MP3 (320 / 8 kbit/s): how far a length estimated from one frame can fall short."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a recording's header says."""

    sampling_rate: int
    n_channels: int
    n_samples: int
    """Per channel, as the header claims: not to be trusted. Counted where the header says nothing (MP3 without Xing
    frame, piped FLAC).
    """
    format: str
    subtype: str

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sampling_rate


class _Decoder(soundfile.SoundFile):
    """libsndfile's reader without soundfile's habit of seeking after every read, to where the read has just ended.

    In an MP3 that seek empties the bit reservoir, so that block after block begins with wrong samples; elsewhere it
    costs time.
    """

    def seekable(self) -> bool:
        return False


class _Memory(io.BytesIO):
    """Bytes as a file that stays where it is when told to seek before its start, as damaged headers ask."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


class _View:
    """The bytes of a recording from its stream's first on, as the file object that soundfile reads.

    With stretch > 1 it pretends to be that many times longer, the end reading as zeros, so that a length estimated
    from it errs upwards.
    """

    def __init__(self, read: containers.Read, offset: int, size: int, stretch: int) -> None:
        self._read, self._offset, self._position = read, offset, 0
        self.size = (size - offset) * stretch
        self.failure: AudioError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        target = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = target if target >= 0 else self._position
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, n_bytes: int) -> bytes:
        try:
            data = self._read(self._offset + self._position, n_bytes)
        except AudioError as error:
            self.failure, data = error, b""
        if not data and n_bytes <= 128 and self._position + n_bytes == self.size:
            data = bytes(n_bytes)  # where mpg123 looks for an ID3v1 tag
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:  # cffi's own buffer type
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Recording:
    """An open recording, read forwards from where `seek` has put it; use it in a `with` block."""

    def __init__(self, source: Source) -> None:
        self.name = "<bytes>" if isinstance(source, bytes) else str(source)
        self._is_part = False
        self._first = 0
        """Byte of the open file that the recording begins with."""
        self._descriptor: int | None = None
        self._decoder: _Decoder | None = None
        self._view: _View | None = None
        self._position = 0
        held = source.fetch() if isinstance(source, Deferred) else source
        self._data = held if isinstance(held, bytes) else b""
        if isinstance(held, bytes):
            self.size = len(held)
        elif isinstance(held, Part):
            self._is_part, self._first, self.size = True, held.offset, held.size
            n_bytes = self._open_file(held.file)
            if n_bytes < held.offset + held.size:
                self.close()
                raise self.error(f"truncated: {held.file.name} ends within this recording, at {n_bytes} bytes")
        else:
            self.size = self._open_file(held)
        try:
            self.container = self._recognise()
            self._open_decoder()
        except AudioError:
            self.close()
            raise

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder and the file."""
        if self._decoder is not None:
            with contextlib.suppress(soundfile.SoundFileError):
                self._decoder.close()
            self._decoder = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def sampling_rate(self) -> int:
        return self._file.samplerate

    @property
    def decoder_samples(self) -> int:
        """How long the decoder believes the recording to be; of a WAV file, how much of its claim the file holds."""
        return self._file.frames

    def info(self) -> AudioInfo:
        """What the header says."""
        file = self._file
        n_samples = file.frames
        if not self.container.counted:
            n_samples = containers.count_mpeg_samples(self.read_bytes, self.container.offset)
        elif self.container.name == "wav":
            n_samples = containers.claimed_wav_samples(self.read_bytes, self.size) or n_samples
        elif n_samples == _UNKNOWN:
            n_samples = self._count()
        return AudioInfo(
            sampling_rate=file.samplerate,
            n_channels=file.channels,
            n_samples=n_samples,
            format=file.format,
            subtype=file.subtype,
        )

    def crop(self, start: int, n_samples: int | None, channel: int | None) -> Float[np.ndarray, " s"]:
        """Mono samples [start, start + n_samples), fewer only at the end; n_samples=None reads up to there."""
        if start < 0 or (n_samples is not None and n_samples < 0):
            raise ValueError(f"start and n_samples must be >= 0, got {start} and {n_samples}")
        self.seek(start)
        pieces, missing = [], math.inf if n_samples is None else n_samples
        while missing > 0 and len(piece := self.read(int(min(missing, _BLOCK)), channel)):
            pieces.append(piece)
            missing -= len(piece)
        if not pieces and n_samples != 0:
            raise self.error("too short: the recording ends before this point")
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])

    def seek(self, start: int) -> None:
        """Moves to native sample `start`; where the container cannot, by decoding up to there."""
        if start == self._position:
            return
        landing = self._landing(start)
        if landing is None:
            if start < self._position:
                self._open_decoder()
            landing = self._position
        try:
            if landing > self._file.frames:
                raise self.error("too short: the recording ends before this point", start)
            self._position = self._file.seek(landing) if landing != self._position else landing
        except soundfile.SoundFileError:
            self._open_decoder()
        while self._position < start and len(self._decode(min(start - self._position, self._block))):
            pass

    def _landing(self, start: int) -> int | None:
        """Where the decoder must begin for sample `start` to come out as in a decode of the whole; None to go on from
        where it is.
        """
        if self._file.subtype.startswith("MPEG"):
            n_periods, delay = (2, 0) if self.sampling_rate > 24_000 else (4, 1105)  # LAME's delay shifts short frames
            return max(0, (start // _MPEG_PERIOD - n_periods) * _MPEG_PERIOD - delay)
        if self._file.subtype == "OPUS":
            return max(0, start - _OPUS_PREROLL_S * self.sampling_rate)
        if self._file.subtype in _ADPCM:
            return max(0, start - _ADPCM_PREROLL)
        if self._file.format == "FLAC" and not containers.flac_blocks_agree(self.read_bytes, self.container.offset):
            return None
        return start if self._file.subtype.startswith(_SEEKABLE) else None

    def read(self, n_samples: int, channel: int | None) -> Float[np.ndarray, " s"]:
        """The next n_samples in mono; fewer only at the recording's end."""
        n_channels = self._file.channels
        if channel is not None and not 0 <= channel < n_channels:
            raise self.error(f"channels: there are {n_channels}, channel {channel} (counted from 0) was asked for")
        start, pieces, missing = self._position, [], n_samples
        while missing > 0 and len(frames := self._decode(min(missing, self._block))):
            pieces.append(_mono(frames, channel))
            missing -= len(frames)
        mono = pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])
        self._check(mono, start)
        return mono

    def _decode(self, n_frames: int) -> Float[np.ndarray, "s c"]:
        """The decoder's next samples of all channels, at most n_frames."""
        try:
            frames = self._file.read(n_frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            self._raise_failure()
            detail = _detail(error)
            undecodable = f"truncated: undecodable from sample {self._position} on ({detail})"
            raise self.error(f"io: {detail}" if _may_pass(detail) else undecodable) from error
        self._raise_failure()
        self._position += len(frames)
        return frames

    def _check(self, mono: Float[np.ndarray, " s"], start: int) -> None:
        """Raises AudioError at the first sample that is no sound."""
        if len(mono) == 0 or max(mono.max(), -mono.min()) <= MAX_AMPLITUDE:  # false for NaN
            return
        place = int(np.flatnonzero(~(np.abs(mono) <= MAX_AMPLITUDE))[0])
        kind = "range" if np.isfinite(mono[place]) else "not finite"
        raise self.error(f"{kind}: sample {start + place} is {mono[place]:g}", start + place)

    def _count(self) -> int:
        """Samples there are, by decoding them all."""
        while len(self._decode(self._block)):
            pass
        n_samples = self._position
        self._open_decoder()
        return n_samples

    @property
    def _file(self) -> _Decoder:
        assert self._decoder is not None
        return self._decoder

    @property
    def _block(self) -> int:
        return max(1, _BLOCK // self._file.channels)

    def _open_file(self, path: str | Path) -> int:
        """Opens a regular file, and nothing that could block or act on being opened; returns its size."""
        try:
            _require_regular(os.stat(path).st_mode)
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(path, flags)
            status = os.fstat(self._descriptor)
            _require_regular(status.st_mode)
            return status.st_size
        except (containers.Refused, OSError, ValueError) as error:
            self.close()
            raise self.error(_open_reason(error)) from error

    def _recognise(self) -> containers.Container:
        try:
            return containers.recognise(self.read_bytes, self.size)
        except containers.Refused as refusal:
            raise self.error(str(refusal)) from refusal

    def _open_decoder(self) -> None:
        """(Re)opens libsndfile at the first sample and checks what it makes of the header."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        self._position = 0
        container = self.container
        try:
            if not (container.plain and container.counted) or self._is_part:
                stretch = 1 if container.counted else _EXAGGERATION
                self._view = _View(self.read_bytes, container.offset, self.size, stretch)
                self._decoder = _Decoder(cast(BinaryIO, self._view))
            elif self._descriptor is None:
                self._decoder = _Decoder(_Memory(self._data))
            else:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                self._decoder = _Decoder(self._descriptor, closefd=False)
        except soundfile.SoundFileError as error:
            self._raise_failure()
            raise self.error(_header_reason(error)) from error
        file = self._file
        if not 1 <= file.channels <= MAX_CHANNELS:
            raise self.error(f"channels: the header says {file.channels}, 1 to {MAX_CHANNELS} are read")
        if not MIN_RATE <= file.samplerate <= MAX_RATE:
            raise self.error(f"rate: the header says {file.samplerate} Hz, {MIN_RATE} to {MAX_RATE} Hz are read")
        if file.frames <= 0:
            raise self.error("empty: there is a header but no samples")
        if file.format == "AU":  # begins to read behind its 24 bytes of header, even where that says less
            file.seek(0)

    def _raise_failure(self) -> None:
        """Raises what went wrong while libsndfile was reading through the view: exceptions cannot cross it."""
        if self._view is not None and self._view.failure is not None:
            raise self._view.failure

    def read_bytes(self, offset: int, n_bytes: int) -> bytes:
        if self._descriptor is None:
            return self._data[offset : offset + n_bytes]
        if offset > self.size:  # headers name places that no system call takes
            return b""
        n_bytes = max(0, min(n_bytes, self.size - offset))
        try:
            if hasattr(os, "pread"):
                return os.pread(self._descriptor, n_bytes, self._first + offset)
            os.lseek(self._descriptor, self._first + offset, os.SEEK_SET)
            return os.read(self._descriptor, n_bytes)
        except OSError as error:
            raise self.error(_open_reason(error)) from error

    def error(self, reason: str, sample: int | None = None) -> AudioError:
        """The error at a sample, by default at the next one."""
        decoder = self._decoder
        rate = decoder.samplerate if decoder is not None else 0
        place = self._position if sample is None and decoder is not None else sample or 0
        return AudioError(self.name, place / rate if rate else 0.0, reason)


def _mono(frames: Float[np.ndarray, "s c"], channel: int | None) -> Float[np.ndarray, " s"]:
    """One channel, or the mean over them, added in order so that a sample's value does not depend on its neighbours."""
    if channel is not None or frames.shape[1] == 1:
        return np.ascontiguousarray(frames[:, channel or 0])
    with np.errstate(over="ignore", invalid="ignore"):
        mono = frames[:, 0].copy()
        for other in range(1, frames.shape[1]):
            mono += frames[:, other]
        mono *= np.float32(1.0 / frames.shape[1])
    return mono


def _require_regular(mode: int) -> None:
    names = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    if not stat.S_ISREG(mode):
        raise containers.Refused(f"not a file: {names.get(stat.S_IFMT(mode), 'something special')}")


def _open_reason(error: Exception) -> str:
    """Names why a file could not be opened or read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        return "missing: no such file"
    if isinstance(error, PermissionError):
        return "permission: not allowed to read this file"
    if isinstance(error, OSError):
        looped = error.errno == errno.ELOOP
        long = error.errno == errno.ENAMETOOLONG
        return "missing: a loop of links" if looped else "missing: name too long" if long else f"io: {error.strerror}"
    return str(error)


def _header_reason(error: Exception) -> str:
    """Names why libsndfile would not open the content."""
    detail = _detail(error)
    if _may_pass(detail):
        return f"io: {detail}"
    if "SF_INFO struct incomplete" in detail:
        return "header: the sampling rate, the number of channels or the length makes no sense"
    unsupported = any(word in detail.lower() for word in ("unimplemented", "unsupported", "not supported", "unknown"))
    return f"{'unsupported' if unsupported else 'header'}: {detail}"


def _may_pass(detail: str) -> bool:
    """libsndfile met an error of the disk or the network."""
    numbers = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
    return "system error" in detail.lower() and any(os.strerror(number) in detail for number in numbers)


def _detail(error: Exception) -> str:
    """libsndfile's own words in one line of at most 160 characters."""
    text = getattr(error, "error_string", "") or str(error)
    return " ".join(text.split())[:160].rstrip(".")
