"""Files of codes: round trips, one line for each kind of damage, and reading them without torch."""

import hashlib
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.codec.container import Codes, read_codes, write_codes
from birdjepa.core import files
from birdjepa.core.errors import CodeError, InputError
from birdjepa.nn.packing import Packing

ROOT = Path(__file__).parents[2]
CODEC = "0123456789abcdef" * 4


def codes_of(n_frames: int = 6, *, radices=(4,) * 128, group_size: int = 7, seed: int = 0, **changes) -> Codes:
    packing = Packing(radices=radices, group_size=group_size)
    packed = packing.pack(np.random.default_rng(seed).integers(0, radices, (n_frames, len(radices))))
    given = {"sampling_rate": 24_000, "hop": 1920, "n_samples": 1920 * n_frames - 7, "source": "a/b é.wav"}
    return Codes(**{**given, "packing": packing, "packed": packed, "codec": CODEC, **changes})


def build(header: dict | bytes, payload: bytes) -> bytes:
    """A file whose sizes and hash fit, whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<4sIQQ", b"\x89BJT", 1, len(text), len(payload)) + text + payload
    return data + hashlib.sha256(data).digest()


def parts(data: bytes) -> tuple[dict, bytes]:
    n_header = struct.unpack_from("<Q", data, 8)[0]
    return json.loads(data[24 : 24 + n_header]), data[24 + n_header : -32]


def refused(path: Path) -> str:
    with pytest.raises(CodeError) as caught:
        read_codes(path)
    assert isinstance(caught.value, InputError)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_round_trip(tmp_path):
    codes = codes_of(chunk_frames=5, overlap_frames=2)
    write_codes(tmp_path / "new" / "a.bjt", codes)
    back = read_codes(tmp_path / "new" / "a.bjt")
    for name in ("sampling_rate", "hop", "n_samples", "packing", "codec", "source", "chunk_frames", "overlap_frames"):
        assert getattr(back, name) == getattr(codes, name)
    assert back.packed.dtype == codes.packed.dtype == np.uint16
    assert (back.packed == codes.packed).all()
    assert (back.indices() == codes.packing.unpack(codes.packed)).all()
    assert (back.n_frames, back.duration_s) == (6, (1920 * 6 - 7) / 24_000)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.bjt"]
    back.packed[0, 0] = 1  # an array of one's own


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=12).map(tuple), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_round_trip_of_any_radices(tmp_path_factory, radices, group_size, seed):
    path = tmp_path_factory.mktemp("codes") / "a.bjt"
    codes = codes_of(3, radices=radices, group_size=group_size, seed=seed)
    write_codes(path, codes)
    back = read_codes(path)
    assert back.packing == codes.packing
    assert (back.packed == codes.packed).all()


def test_the_bytes_are_those_of_the_format(tmp_path):
    """Changing them makes old files unreadable: that is a new version."""
    codes = codes_of(2, radices=(4, 4, 3), group_size=2, source="x.wav")
    write_codes(tmp_path / "a.bjt", codes)
    header, payload = parts((tmp_path / "a.bjt").read_bytes())
    assert header == {
        "sampling_rate": 24_000,
        "hop": 1920,
        "n_samples": 3833,
        "n_frames": 2,
        "radices": [[4, 2], [3, 1]],
        "group_size": 2,
        "order": "little",
        "dtype": "uint8",
        "codec": CODEC,
        "source": "x.wav",
        "chunk_frames": 0,
        "overlap_frames": 0,
    }
    assert payload == codes.packed.tobytes()
    assert (tmp_path / "a.bjt").read_bytes() == build(header, payload)


def test_a_default_frame_takes_38_bytes(tmp_path):
    sizes = []
    for n_frames in (10, 110):
        write_codes(tmp_path / "a.bjt", codes_of(n_frames, n_samples=1920 * n_frames))
        header, payload = parts((tmp_path / "a.bjt").read_bytes())
        assert header["radices"] == [[4, 128]]
        sizes.append(len(payload))
    assert sizes == [380, 4180]


@pytest.mark.parametrize("source", ["", "bird \udcff.wav", "名前.wav", 'a"b\n.wav'])
def test_any_name_of_a_source(tmp_path, source):
    write_codes(tmp_path / "a.bjt", codes_of(source=source))
    assert read_codes(tmp_path / "a.bjt").source == source


def test_cut_short_anywhere(tmp_path):
    path = tmp_path / "a.bjt"
    write_codes(path, codes_of())
    whole = path.read_bytes()
    for n_bytes in (*range(4, 60), len(whole) // 2, len(whole) - 33, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        assert refused(path).startswith("is cut short")
    path.write_bytes(whole + b"x")
    assert refused(path).startswith("is followed by something else")


def test_any_changed_byte_is_found(tmp_path):
    path = tmp_path / "a.bjt"
    write_codes(path, codes_of(2))
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        refused(path)
    path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 4]) + whole[-39:])
    assert refused(path).startswith("is damaged: its hash does not fit")


def test_what_is_no_file_of_codes(tmp_path):
    path = tmp_path / "a.bjt"
    assert refused(path) == "cannot be read (No such file or directory)"
    assert refused(tmp_path) == "cannot be read (Is a directory)"
    for data in (b"", b"\x89BJ", b"RIFF" + bytes(100)):
        path.write_bytes(data)
        assert refused(path).startswith("is no file of codes")


def test_another_version(tmp_path):
    path = tmp_path / "a.bjt"
    write_codes(path, codes_of())
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + struct.pack("<I", 2) + whole[8:])
    assert refused(path) == "has version 2 of the format, and this birdjepa reads version 1"


IMPOSSIBLE = {
    "fewer frames": ({"n_frames": 5}, "are not 5 frames of 19 uint16"),
    "no frames": ({"n_frames": 0}, "are not 0 frames"),
    "negative frames": ({"n_frames": -6}, "are not -6 frames"),
    "too long": ({"n_samples": 1920 * 7 + 1}, "are 8 frames of 1920, got 6"),
    "too short": ({"n_samples": 1920 * 5}, "are 5 frames of 1920, got 6"),
    "no rate": ({"sampling_rate": 0}, "sampling_rate must be at least 1"),
    "no hop": ({"hop": 0}, "hop must be at least 1"),
    "a true hop": ({"hop": True}, "hop must be int, got True"),
    "a broken rate": ({"sampling_rate": 24_000.0}, "sampling_rate must be int, got 24000.0"),
    "other dtype": ({"dtype": "int16"}, "these groups are uint16, got dtype 'int16'"),
    "other order": ({"order": "middle"}, "order must be little or big"),
    "other group size": ({"group_size": 8}, "are not 6 frames of 16 uint16"),
    "no groups": ({"group_size": 0}, "group_size must be at least 1"),
    "wide groups": ({"group_size": 64}, "group 0 .* lower group_size=64"),
    "a radix of 0": ({"radices": [[0, 128]]}, "radices must be pairs"),
    "bare radices": ({"radices": [4, 4]}, "radices must be pairs"),
    "no radices": ({"radices": []}, "radices must be of 1 to 65536 dimensions, got 0"),
    "endless radices": ({"radices": [[4, 10**12]]}, "radices must be of 1 to 65536 dimensions"),
    "small vocabulary": ({"radices": [[4, 127], [2, 1]]}, "packed code .* of group 18 is not in"),
    "short hash": ({"codec": "abc"}, "codec must be a SHA-256"),
    "overlap without chunks": ({"overlap_frames": 1}, "need 0 <= overlap_frames < chunk_frames"),
    "overlap of whole chunks": ({"overlap_frames": 4, "chunk_frames": 4}, "need 0 <= overlap_frames"),
    "a field more": ({"colour": "red"}, "its fields must be sampling_rate, hop"),
}


@pytest.mark.parametrize(("changes", "says"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_headers(tmp_path, changes, says):
    path = tmp_path / "a.bjt"
    packing = Packing(radices=(4,) * 128)
    write_codes(path, codes_of(packed=packing.pack(np.full((6, 128), 3))))
    header, payload = parts(path.read_bytes())
    path.write_bytes(build({**header, **changes}, payload))
    message = refused(path)
    assert message.startswith("has an impossible header: ")
    assert re.search(says, message)


@pytest.mark.parametrize("header", [b"\xff\xfe", b"{", b"[1]", b"null", b"[" * 100_000, b"{}"])
def test_headers_that_are_none(tmp_path, header):
    path = tmp_path / "a.bjt"
    path.write_bytes(build(header, b""))
    assert refused(path).startswith("has an impossible header: it")


def test_one_frame_less_is_the_public_systems_padding(tmp_path):
    codes = codes_of(5, n_samples=1920 * 6)
    write_codes(tmp_path / "a.bjt", codes)
    assert read_codes(tmp_path / "a.bjt").n_frames == 5


def test_what_cannot_be_is_not_written():
    with pytest.raises(ValueError, match="6 frames of 1920, got 4"):
        codes_of(4, n_samples=1920 * 6)
    with pytest.raises(ValueError, match="group 18 is not in"):
        codes_of(packed=np.full((6, 19), 16))


WITHOUT_TORCH = """
import sys
for name in ("torch", "soundfile", "soxr", "einops", "safetensors", "pyarrow", "tyro", "scipy"):
    sys.modules[name] = None
import numpy as np
from birdjepa.codec.container import read_codes, write_codes
from birdjepa.nn.packing import Packing
codes = read_codes(sys.argv[1])
write_codes(sys.argv[2], codes)
assert (codes.packing.pack(codes.indices()) == codes.packed).all()
print(codes.indices().sum())
"""


def test_needs_no_torch(tmp_path):
    codes = codes_of()
    write_codes(tmp_path / "a.bjt", codes)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "a.bjt"), str(tmp_path / "b.bjt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == codes.indices().sum()
    assert files.sha256(tmp_path / "a.bjt") == files.sha256(tmp_path / "b.bjt")


def reader_in_the_docs() -> str:
    text = (ROOT / "docs" / "tokens.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    found = [block for block in blocks if "struct.unpack" in block]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_reader_in_the_docs(tmp_path, order):
    packing = Packing(radices=(8, 8, 8, 5, 5, 5, 3, 3), group_size=3, order=order)
    packed = packing.pack(np.random.default_rng(3).integers(0, packing.radices, (6, 8)))
    write_codes(tmp_path / "a.bjt", codes_of(packing=packing, packed=packed))
    block = reader_in_the_docs()
    assert len([line for line in block.splitlines() if line]) <= 15
    names: dict = {}
    exec(block, names)
    header, codes = names["read"](tmp_path / "a.bjt")
    assert header["n_samples"] == 1920 * 6 - 7
    assert (codes == packing.unpack(packed)).all()
    (tmp_path / "a.bjt").write_bytes((tmp_path / "a.bjt").read_bytes()[:-1] + b"x")
    with pytest.raises(AssertionError):
        names["read"](tmp_path / "a.bjt")
