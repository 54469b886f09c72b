"""evsonganaly's .not.mat files and the MAT-file beneath: what we read is what scipy reads, and the other way round."""

import re
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.labels import Label, LabelsConfig, read_labels, write_notmat
from birdjepa.audio.labels.matlab import mat_file, read_variables
from birdjepa.core.errors import LabelError

SONG = {
    "fname": "x.cbin",
    "Fs": 32000.0,
    "labels": "ab-",
    "onsets": np.array([[10.5], [20.0], [30.25]]),
    "offsets": np.array([[15.5], [25.0], [40.0]]),
}
WANTED = [(0.0105, 0.0155, "a"), (0.02, 0.025, "b"), (0.03025, 0.04, "-")]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("more", [{}, {"onsets": np.array([[10.5, 20.0, 30.25]])}, {"nested": {"a": 1}}, {"z": 1 + 2j}])
def test_files_of_another_writer(compressed, more, tmp_path):
    path = tmp_path / "x.cbin.not.mat"
    scipy.io.savemat(path, {**SONG, **more}, do_compression=compressed)
    assert [label[:3] for label in read_labels(path)] == WANTED


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?"])
def test_numbers_of_any_type(kind, tmp_path):
    path = tmp_path / "x.mat"
    values = np.array([0, 1, 1, 0, 1], kind)
    scipy.io.savemat(path, {"a": values, "longer_name_than_eight": values.reshape(1, 5), "empty": np.zeros((0, 0))})
    found = read_variables(path, path.read_bytes())
    for name in ("a", "longer_name_than_eight"):
        np.testing.assert_array_equal(found[name], values.astype(float))
    assert len(found["empty"]) == 0


def test_big_endian_and_small_elements_and_shrunk_numbers(tmp_path):
    """MATLAB stores whole numbers in as few bytes as they need, and up to 4 bytes beside their tag."""

    def tagged(kind: int, content: bytes) -> bytes:
        if len(content) <= 4:
            return struct.pack(">HH", len(content), kind) + content.ljust(4, b"\0")
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    def matrix(name: str, array_class: int, size: tuple[int, int], kind: int, content: bytes) -> bytes:
        flags = tagged(6, struct.pack(">II", array_class, 0))
        parts = flags + tagged(5, struct.pack(">ii", *size)) + tagged(1, name.encode()) + tagged(kind, content)
        return struct.pack(">II", 14, len(parts)) + parts

    header = b"MATLAB 5.0 MAT-file, Platform: SOL2".ljust(124) + b"\x01\x00MI"
    data = (
        header
        + matrix("onsets", 6, (3, 1), 2, bytes([0, 20, 40]))
        + matrix("offsets", 6, (3, 1), 2, bytes([9, 29, 200]))
    )
    data += matrix("labels", 4, (1, 3), 16, b"abc")
    (tmp_path / "x.wav.not.mat").write_bytes(data)
    assert [label[:3] for label in read_labels(tmp_path / "x.wav.not.mat")] == [
        (0.0, 0.009, "a"),
        (0.02, 0.029, "b"),
        (0.04, 0.2, "c"),
    ]
    assert scipy.io.loadmat(tmp_path / "x.wav.not.mat")["labels"] == ["abc"]


def test_a_real_file(shared_data):
    (path,) = (shared_data / "formats_edge" / "cbin").glob("*.not.mat")
    labels = read_labels(path)
    other = scipy.io.loadmat(path, squeeze_me=True)
    assert "".join(label.label for label in labels) == other["labels"] == "iiiabbbc"
    np.testing.assert_array_equal([label.onset_s for label in labels], other["onsets"] / 1000)
    np.testing.assert_array_equal([label.offset_s for label in labels], other["offsets"] / 1000)
    assert read_variables(path, path.read_bytes())["Fs"] == [32_000]


LETTERS = st.characters(exclude_categories=("Cs",), max_codepoint=0xFFFF)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), LETTERS), max_size=6))
def test_notmat_round_trip(steps, tmp_path_factory):
    path = tmp_path_factory.mktemp("notmat") / "x.wav.not.mat"
    labels, at_s = [], 0.0
    for gap_s, length_s, letter in steps:
        onset_s = at_s + gap_s
        at_s = onset_s + length_s
        labels.append(Label(onset_s, at_s, letter))
    write_notmat(path, labels, recording="x.wav", sampling_rate=44_100.0)
    found = read_labels(path)
    assert [label.label for label in found] == [label.label for label in labels]
    times = [each for label in labels for each in label[:2]]
    assert [each for label in found for each in label[:2]] == pytest.approx(times, abs=1e-9)


def test_what_is_written_opens_in_evsonganaly(tmp_path):
    """It reads these variables, as doubles and texts (evsonganaly.m, PlotDataFile and SaveNotMatData)."""
    write_notmat(
        tmp_path / "x.not.mat",
        [Label(0.02, 0.025, "b"), Label(0.0, 0.01, "a")],
        recording="x.wav",
        sampling_rate=32_000.0,
    )
    found = scipy.io.loadmat(tmp_path / "x.not.mat")
    assert {name: value.tolist() for name, value in found.items() if not name.startswith("__")} == {
        "fname": ["x.wav"],
        "Fs": [[32000.0]],
        "labels": ["ab"],
        "onsets": [[0.0], [20.0]],
        "offsets": [[10.0], [25.0]],
        "min_int": [[5.0]],
        "min_dur": [[30.0]],
        "threshold": [[4000.0]],
        "sm_win": [[2.0]],
    }
    write_notmat(tmp_path / "y.not.mat", [], recording="y.wav", sampling_rate=32_000.0)
    assert read_labels(tmp_path / "y.not.mat") == []


@pytest.mark.parametrize(
    ("labels", "rate", "reason"),
    [
        ([Label(0.0, 1.0, "ab")], 1.0, "labels are one letter, that at 0 s is 'ab'"),
        ([Label(0.0, 1.0, "")], 1.0, "labels are one letter"),
        ([Label(0.0, 1.0, "a"), Label(0.5, 2.0, "b")], 1.0, "labels overlap at 0.5 s"),
        ([Label(0.0, 1.0, "\U0001f426")], 1.0, "labels has letters that MATLAB cannot hold in one"),
        ([], 0.0, "sampling_rate must be positive"),
    ],
)
def test_what_evsonganaly_cannot_say(labels, rate, reason, tmp_path):
    with pytest.raises(ValueError, match=re.escape(reason)):
        write_notmat(tmp_path / "x.not.mat", labels, recording="x.wav", sampling_rate=rate)
    assert list(tmp_path.iterdir()) == []


GOOD = mat_file({name: value.ravel() if isinstance(value, np.ndarray) else value for name, value in SONG.items()})


def _with(name: str, value: object) -> bytes:
    return mat_file({"labels": "ab", "onsets": np.array([1.0, 2.0]), "offsets": np.array([1.5, 2.5]), name: value})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no MAT-file of level 5"),
        (b"MATLAB 7.3 MAT-file".ljust(512), "saved with -v7.3 (HDF5)"),
        (GOOD[:-3], "damaged MAT-file: it ends within an element"),
        (GOOD[:200], "damaged MAT-file: it ends within an element"),
        (GOOD[:128], "needs onsets, offsets and labels; it has nothing that is read"),
        (_with("labels", "abc"), "2 onsets, 2 offsets and 3 labels"),
        (_with("labels", np.array([97.0, 98.0])), "labels is no text"),
        (_with("onsets", "ab"), "needs onsets, offsets and labels"),
        (_with("onsets", np.array([1.0, 3.0])), "segment 2: onset 0.003 s, offset 0.0025 s"),
        (_with("onsets", np.array([-1.0, 2.0])), "segment 1: onset -0.001 s"),
        (_with("offsets", np.array([1.5, np.nan])), "segment 2"),
        (GOOD[:128] + struct.pack("<II", 15, 12) + b"not deflated", "damaged MAT-file"),
    ],
)
def test_what_is_refused_of_a_mat_file(data, reason, tmp_path):
    path = tmp_path / "x.wav.not.mat"
    path.write_bytes(data)
    with pytest.raises(LabelError, match=re.escape(reason)) as raised:
        read_labels(path)
    assert "\n" not in str(raised.value)


def test_a_bomb_is_not_inflated(tmp_path):
    packed = zlib.compress(bytes(1 << 27))
    path = tmp_path / "x.wav.not.mat"
    path.write_bytes(GOOD[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(LabelError, match="longer than 67108864 bytes"):
        read_labels(path)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(GOOD)))
def test_a_damaged_mat_file_is_read_or_refused(place, byte, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.not.mat"
    for data in (GOOD[:place] + bytes([byte]) + GOOD[place + 1 :], GOOD[:cut]):
        path.write_bytes(data)
        try:
            labels = read_labels(path, LabelsConfig(format="notmat"))
        except LabelError:
            continue
        assert all(0 <= label.onset_s <= label.offset_s for label in labels)
