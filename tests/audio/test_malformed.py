"""The 58 kinds of malformed audio: what becomes of each, in one table.

The second word of a row is what the reliability facts (section 2.6) expect, the third what happens here, one outcome
per file of that kind: `right` (decodes, without a note, to the sound that was put in), `N samples` (decodes, without a
note, to that many), the notes of an examination, or the kind of reason of a refusal. Comments say where the two differ.
"""

import contextlib
import os
import socket
import threading
from pathlib import Path

import flac_faults
import malformed
import numpy as np
import pytest

from birdjepa.audio.decode import probe, read_samples, stream_samples
from birdjepa.audio.examine import examine
from birdjepa.audio.isolate import IsolatedWorkers
from birdjepa.audio.recording import Recording
from birdjepa.core.errors import AudioError

SHORT = "shorter than its header says"
KINDS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("EMPTY", ("empty",)),
    2: ("HEADER", ("header", "header")),
    3: ("EMPTY", ("empty",)),
    4: ("TRUNCATED or REPAIRED", (SHORT,)),  # what is there is read, and noted
    5: ("REPAIRED", (SHORT,)),
    6: ("OK", ("right",)),
    7: ("OK/REPAIRED", ("31999 samples",)),  # all the whole samples of the claim
    8: ("OK", ("right", "right")),
    9: ("HEADER", ("header",)),
    10: ("HEADER, or first wins", ("header", "header", "header")),
    11: ("OK", ("right",)),
    12: ("OK or TOO_LONG", ("right", "right")),  # and 5 GiB of each below
    13: ("CHANNELS", ("header",)),  # libsndfile refuses it before we count
    14: ("CHANNELS", ("channels", "header")),  # the same
    15: ("RATE", ("header",)),  # the same
    16: ("RATE", ("rate", "header")),  # the same
    17: ("OK", ("right", "right", "right", "right")),
    18: ("HEADER / OK as legal", ("unsupported", "64000 samples", "right", "unsupported", "right")),  # 7 bits in a byte
    19: ("UNSUPPORTED / OK", ("header", "right")),  # `Malformed 'fmt ' chunk` is what libsndfile says of tag BEEF
    20: ("UNSUPPORTED", ("right", "unsupported")),  # the ordinary GUID and the odd one
    21: ("HEADER/MEMORY", ("header",)),
    22: (
        "NONFINITE; denormals OK",
        ("not finite", "not finite", "range", "silent"),
    ),  # 1e38 is finite; denormals too low
    23: ("SILENT", ("silent",)),  # decodes: noted, not refused
    24: ("SILENT", ("silent",)),
    25: ("DC_ONLY", ("DC only", "DC only")),
    26: ("CLIPPED (warn)", ("clipped",)),
    27: ("OK / SILENT after down-mix", ("32000 samples", "32000 samples")),  # 16 bits never cancel to below -100 dB
    28: ("TOO_SHORT / padded by rule", ("empty", "DC only", "799 samples", "800 samples", "801 samples")),
    # a lone sample does not vary; what is too short for a clip is for the loader to say
    30: ("no crash/hang", ("right",)),
    31: ("no crash/hang", ("right",)),
    32: ("no crash/hang", ("right",)),
    33: ("no crash/hang", ("truncated",)),
    34: ("no crash/hang", ("16000 samples", SHORT)),  # what lies behind a claim that is too low is not read
    35: ("no crash/hang", ("unsupported",)),
    36: ("no crash/hang", ("right",)),
    37: ("no crash/hang", ("truncated",)),
    38: ("no crash/hang", ("DC only",)),
    39: ("no crash/hang", ("unsupported",)),
    40: ("no crash/hang", ("unsupported",)),
    41: ("TIMEOUT caught, or TRUNCATED", ("unsupported", "truncated")),  # cut inside its header, and behind
    42: ("HEADER/TRUNCATED", ("truncated",)),
    43: ("OK", ("right", "right", "right")),
    44: ("OK, length = frames read", ("33408 samples",)),  # 29 frames; no header says how much of them is padding
    45: ("HEADER, no allocation", ("header", "right", "right")),  # the others are good tags
    46: ("QUARANTINED or first stream", ("right", SHORT)),  # the first stream; the second is too small to be noted
    47: ("NOT_AUDIO", ("not audio", "not audio")),
    48: ("TRUNCATED", ("no end mark", "header")),  # decodes up to the cut, and is noted
    49: ("reason, no crash", ("more behind its end", "damaged pages", "header")),  # the first two decode
    50: ("HEADER/TRUNCATED", ("unsupported", "unsupported")),  # MP4 is refused whole
    51: ("NOT_AUDIO / stream 0", ("unsupported", "unsupported")),  # the same
    52: ("OK by sniffing", ("48000 samples",)),  # bytes have no name at all
    53: ("NOT_AUDIO", ("not audio",) * 6),
    54: ("NETWORK_REFERENCE", ("not audio",) * 4),  # `a playlist that names other files`; nothing is followed
    55: ("NOT_AUDIO / OK", ("not audio", "not audio", "not audio", "not audio", "right")),
    56: ("NOT_REGULAR", ("unsupported",) * 4),  # exotic containers; what is no file is below
}
BELOW = {12: "sparse", 29: "day", 41: "seeking", 54: "listener", 56: "no_file", 57: "while_it_is_read", 58: "names"}
"""Kinds that are (also) tests of their own, and part of their names."""

GOOD = malformed.sound(1.0)
FILES = {**{name: data for name, (data, _) in malformed.malformed().items()}, **flac_faults.faults()}


def outcome(content: bytes) -> str:
    try:
        found = examine(content, deep=True)
    except AudioError as error:
        return error.reason.split(":")[0]
    samples, _ = read_samples(content)
    assert len(samples) == found.n_samples
    if found.notes:
        return "; ".join(found.notes)
    same = (
        len(samples) == len(GOOD) and np.corrcoef(samples, GOOD)[0, 1] > 0.98 and np.std(samples) > 0.9 * np.std(GOOD)
    )
    return "right" if same else f"{len(samples)} samples"


@pytest.mark.parametrize("number", KINDS)
def test_kind(number: int) -> None:
    names = [name for name in FILES if int(name[:2]) == number]
    assert tuple(outcome(FILES[name]) for name in names) == KINDS[number][1], names


def test_no_kind_is_forgotten() -> None:
    assert {int(name[:2]) for name in FILES} == set(KINDS)
    assert set(KINDS) | set(BELOW) == set(range(1, 59))
    tests = [name for name in globals() if name.startswith("test_")]
    assert [part for part in BELOW.values() if not any(part in name for name in tests)] == []


def sparse(path: Path, head: bytes, n_bytes: int) -> None:
    """A file of so many bytes, zeros behind its head; takes no room."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(n_bytes)


def test_sparse_w64_of_5_gib_is_cheap(tmp_path: Path) -> None:
    """RF64 is in test_decode."""
    head, n_bytes = bytearray(malformed.encode(GOOD, kind="W64")), 5 << 30
    place = bytes(head).index(b"data\xf3\xac\xd3\x11")
    head[16:24] = (place + 24 + n_bytes).to_bytes(8, "little")
    head[place + 16 : place + 24] = (24 + n_bytes).to_bytes(8, "little")
    sparse(tmp_path / "long.w64", bytes(head[: place + 24]), place + 24 + n_bytes)
    assert probe(tmp_path / "long.w64").n_samples == n_bytes // 2
    crop, _ = read_samples(tmp_path / "long.w64", n_bytes // 2 - 1000, 5000)
    assert len(crop) == 1000


def test_a_day_is_streamed(tmp_path: Path) -> None:
    """24 h at 8 kHz, in blocks; a worker with 100 MiB to spare examines an hour of it."""
    n_samples = 24 * 3600 * 8_000
    head = bytearray(malformed.wav(rate=8_000, data=b""))
    head[40:44] = (2 * n_samples).to_bytes(4, "little")
    sparse(tmp_path / "day.wav", bytes(head), 44 + 2 * n_samples)
    assert probe(tmp_path / "day.wav").duration_s == 24 * 3600
    assert len(next(stream_samples(tmp_path / "day.wav", 1 << 20))) == 1 << 20
    assert len(read_samples(tmp_path / "day.wav", n_samples - 10, 99)[0]) == 10
    head[40:44] = (2 * 3600 * 8_000).to_bytes(4, "little")
    sparse(tmp_path / "hour.wav", bytes(head), 44 + 2 * 3600 * 8_000)
    with IsolatedWorkers(1, memory_bytes=100 << 20) as workers:
        [(_, found)] = workers.map(deep, [str(tmp_path / "hour.wav")])
    assert found == 3600 * 8_000


def deep(path: str) -> int:
    """Samples; for a worker."""
    return examine(path, deep=True).n_samples


def test_seeking_behind_the_cut_of_a_flac_raises() -> None:
    flac = malformed.encode(malformed.sound(10.0), kind="FLAC")
    for share in (0.2, 0.5, 0.9):
        with pytest.raises(AudioError, match="truncated:"):
            read_samples(flac[: int(share * len(flac))], 9 * malformed.RATE + 16_000, 1000)


def test_a_listener_hears_nothing_of_playlists(tmp_path: Path) -> None:
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listener = threading.Thread(target=lambda: heard.append(server.accept()), daemon=True)
        listener.start()
        for number, text in enumerate(
            (
                f"#EXTM3U\nhttp://127.0.0.1:{port}/x\n",
                f"ffconcat version 1.0\nfile http://127.0.0.1:{port}/x\n",
                f"http://127.0.0.1:{port}/x\n",
                f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio {port} RTP/AVP 0\r\n",
                "#EXTM3U\nfile:///etc/passwd\n",
            )
        ):
            path = tmp_path / f"{number}.wav"
            path.write_text(text)
            with pytest.raises(AudioError, match="not audio:"):
                examine(path, deep=True)
        assert heard == []
        socket.create_connection(("127.0.0.1", port)).close()
        listener.join(5)
        assert len(heard) == 1  # it would have heard
        heard[0][0].close()


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a pipe, a device and links to nowhere are in test_decode. A link to a good file is that file."""
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        server.bind("socket.wav")
        with pytest.raises(AudioError, match="not a file: a socket"):
            probe(tmp_path / "socket.wav")
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside.wav").write_bytes(malformed.encode(GOOD))
    (inside / "link.wav").symlink_to(tmp_path / "outside.wav")
    assert probe(inside / "link.wav").n_samples == len(GOOD)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_a_file_that_shrinks_or_vanishes_while_it_is_read(tmp_path: Path, container: str) -> None:
    """Nothing maps files into memory, so no SIGBUS: what is gone is a shorter recording or a refusal."""
    path = tmp_path / "a"
    data = malformed.encode(
        malformed.sound(10.0), kind=container, subtype={"OGG": "VORBIS", "MP3": None}.get(container, "PCM_16")
    )
    path.write_bytes(data)
    with Recording(path) as recording:
        first = recording.read(1000, None)
        os.truncate(path, len(data) // 3)
        with contextlib.suppress(AudioError):
            assert len(recording.read(10 * malformed.RATE, None)) < 9 * malformed.RATE
    path.write_bytes(data)
    with Recording(path) as recording:
        path.unlink()
        np.testing.assert_array_equal(recording.read(1000, None), first)
    with pytest.raises(AudioError, match="missing:"):
        probe(path)


NAMES = (
    "new\nline",
    "-rf",
    "=cmd()",
    "\udcff\udcfe",
    "é",
    "e\u0301",
    "\u202egnp",
    "x" * 251,
    " ",
    "a;b|c&d$(e)`f`",
    "%s%n",
    "\x1b[2J",
)


def test_names_reach_no_shell_and_come_back(tmp_path: Path) -> None:
    """What a scan writes about them is in tests/data/test_scan.py."""
    data = malformed.encode(GOOD)
    for name in NAMES:
        (tmp_path / f"{name}.wav").write_bytes(data)
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    assert len(paths) == len(NAMES)
    with IsolatedWorkers(1) as workers:
        assert list(workers.map(deep, paths)) == [(path, len(GOOD)) for path in paths]
    with pytest.raises(AudioError) as caught:
        probe(tmp_path / f"{NAMES[0]}.txt")
    assert caught.value.path.endswith("new\nline.txt")
