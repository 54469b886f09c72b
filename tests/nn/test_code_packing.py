"""Packed codes: the worked examples, exact round trips, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.nn.packing import LARGEST, Packing

DEFAULT = Packing(radices=(4,) * 128)


def settings_of_packings():
    """Any radices and sizes of groups that int64 holds. Built in the tests, for strategies must not draw by chance, and
    the checks of shapes do.
    """
    several = st.lists(st.integers(1, 300), min_size=1, max_size=20).map(tuple)
    made = st.tuples(several, st.integers(1, 24), st.sampled_from(["little", "big"]))
    return made.filter(lambda each: all(math.prod(each[0][i : i + each[1]]) <= LARGEST for i in range(len(each[0]))))


def packing_of(setting):
    radices, group_size, order = setting
    return Packing(radices=radices, group_size=group_size, order=order)


@pytest.mark.parametrize(
    ("radices", "codes", "order", "packed"),
    [
        ((4,) * 7, (2, 1, 3, 0, 2, 1, 3), "little", 13878),
        ((4,) * 7, (2, 1, 3, 0, 2, 1, 3), "big", 10023),
        ((8, 5, 5, 5), (7, 4, 0, 3), "little", 639),
        ((8, 5, 5, 5), (7, 4, 0, 3), "big", 978),
        ((8, 5, 5, 5), (7, 4, 4, 4), "little", 999),
        ((8, 5, 5, 5), (7, 4, 4, 4), "big", 999),
    ],
)
def test_worked_examples(radices, codes, order, packed):
    packing = Packing(radices=radices, order=order)
    assert packing.pack(np.array(codes)).tolist() == [packed]
    assert packing.unpack(np.array([packed])).tolist() == list(codes)


def test_128_dimensions_of_4_levels():
    assert DEFAULT.n_groups == 19
    assert DEFAULT.vocabulary == (*(16384,) * 18, 16)
    assert DEFAULT.dtype == np.uint16
    highest = DEFAULT.pack(np.full((2, 128), 3))
    assert highest.dtype == np.uint16
    assert highest.tolist() == [[16383] * 18 + [15]] * 2
    for order in ("little", "big"):
        ending = dataclasses.replace(DEFAULT, order=order)
        last = {int(ending.pack(np.array([0] * 126 + [a, b]))[-1]) for a in range(4) for b in range(4)}
        assert last == set(range(16))


@pytest.mark.parametrize(
    ("group_size", "n_groups", "largest", "dtype"),
    [
        (1, 128, 4, np.uint8),
        (4, 32, 256, np.uint8),
        (5, 26, 1024, np.uint16),
        (6, 22, 4096, np.uint16),
        (8, 16, 65536, np.uint16),
        (16, 8, 2**32, np.uint32),
        (31, 5, 2**62, np.int64),
    ],
)
def test_sizes_of_groups(group_size, n_groups, largest, dtype):
    packing = Packing(radices=(4,) * 128, group_size=group_size)
    assert (packing.n_groups, max(packing.vocabulary), packing.dtype) == (n_groups, largest, dtype)
    codes = np.random.default_rng(0).integers(0, 4, (5, 128))
    assert (packing.unpack(packing.pack(codes)) == codes).all()


def test_two_to_the_63_values_and_not_one_more():
    widest = Packing(radices=(2,) * 63, group_size=63)
    ones = np.ones(63, dtype=np.int64)
    assert widest.pack(ones).tolist() == [2**63 - 1]
    assert (widest.unpack(widest.pack(ones)) == ones).all()
    with pytest.raises(ValueError, match=r"group 1 \(dimensions 32 to 63\).*2\*\*64 values.*lower group_size=32"):
        Packing(radices=(2,) * 32 + (4,) * 32, group_size=32)


def naive(codes, radices, order):
    """Horner's rule on one group, with Python's integers."""
    total = 0
    for code, radix in zip(*((codes[::-1], radices[::-1]) if order == "little" else (codes, radices)), strict=True):
        total = total * radix + code
    return total


@given(settings_of_packings(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_round_trip_of_any_radices(setting, seed):
    packing = packing_of(setting)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, packing.radices, (2, 3, len(packing.radices)))
    packed = packing.pack(codes)
    assert packed.shape == (2, 3, packing.n_groups)
    assert (packing.unpack(packed) == codes).all()
    size = packing.group_size
    for group in range(packing.n_groups):
        inside = slice(group * size, (group + 1) * size)
        expected = naive(codes[0, 0, inside].tolist(), packing.radices[inside], packing.order)
        assert int(packed[0, 0, group]) == expected < packing.vocabulary[group]


@given(settings_of_packings(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_packed_code_has_codes_of_its_own(setting, seed):
    packing = packing_of(setting)
    packed = np.random.default_rng(seed).integers(0, packing.vocabulary, (4, packing.n_groups))
    assert (packing.pack(packing.unpack(packed)) == packed).all()


def test_dtype_of_codes_does_not_matter():
    codes = np.random.default_rng(1).integers(0, 4, (6, 128))
    expected = DEFAULT.pack(codes)
    for dtype in (np.uint8, np.int8, np.uint64, np.int32):
        assert (DEFAULT.pack(codes.astype(dtype)) == expected).all()
    for dtype in (np.int64, np.uint64, np.int16):
        assert (DEFAULT.unpack(expected.astype(dtype)) == codes).all()


def test_no_frames():
    assert DEFAULT.pack(np.zeros((0, 128), dtype=np.int64)).shape == (0, 19)
    assert DEFAULT.unpack(np.zeros((0, 19), dtype=np.uint16)).shape == (0, 128)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Packing(radices=()), "radices must be"),
        (lambda: Packing(radices=(4, 0)), "radices must be"),
        (lambda: Packing(radices=(4,), group_size=0), "group_size must be"),
        (lambda: DEFAULT.pack(np.zeros((3, 127), dtype=np.int64)), r"a frame has 128 codes, got .*\(3, 127\)"),
        (lambda: DEFAULT.unpack(np.zeros((3, 18), dtype=np.int64)), r"a frame has 19 packed codes, got .*\(3, 18\)"),
        (lambda: DEFAULT.pack(np.full((1, 128), 4)), r"code 4 of dimension 0 is not in \[0, 4\)"),
        (lambda: DEFAULT.pack(np.full((1, 128), -1)), r"code -1 of dimension 0 is not in \[0, 4\)"),
        (lambda: DEFAULT.unpack(np.full((1, 19), 16)), r"packed code 16 of group 18 is not in \[0, 16\)"),
        (lambda: DEFAULT.unpack(np.full((1, 19), -1)), r"packed code -1 of group 0 is not in \[0, 16384\)"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call()
