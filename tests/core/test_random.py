"""Named streams: the same numbers for the same names, wherever and whenever they are asked for."""

import itertools
import random as python_random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.core import random

PARTS = st.lists(st.one_of(st.integers(-(2**60), 2**60), st.text(max_size=6)), max_size=4).map(tuple)


def test_streams_are_pinned():
    """Changing these numbers changes every run ever made."""
    assert random.key(0, "mask", 5) == 0xFF7036FA265FAA14A08820DC97BC452D
    assert random.generator(0, "mask", 5).integers(1000, size=5).tolist() == [929, 5, 152, 211, 297]
    drawn = torch.randint(1000, (5,), generator=random.torch_generator(0, "mask", 5)).tolist()
    assert drawn == [794, 163, 950, 80, 652]


NAMES = [
    ("a", 1), ("a1",), ("a", "1"), ("a",), ("1", "a"), (1, "a"), (1,), ("1",), (), ("", "a"), ("a", ""), (11,), (1, 1),
    ("a", 1, 0), ("a", -1), ("s\x01\x00\x00\x00a",),
]  # fmt: skip


def test_names_and_numbers_never_collide():
    keys = [random.key(0, *names) for names in NAMES]
    assert len(set(keys)) == len(keys)
    assert random.key(1, "a") != random.key(0, "a")
    assert random.key(1) != random.key(0, 1)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(PARTS, PARTS)
def test_different_names_give_different_keys(one, other):
    same = [type(part) for part in one] == [type(part) for part in other] and one == other
    assert (random.key(3, *one) == random.key(3, *other)) == same


def test_adjacent_streams_are_uncorrelated():
    rows = np.stack([random.generator(0, "noise", step).standard_normal(2000) for step in range(20)])
    correlations = [abs(np.corrcoef(a, b)[0, 1]) for a, b in itertools.combinations(rows, 2)]
    assert max(correlations) < 0.1


def test_global_generators_are_left_alone():
    python_random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what this test is about
    torch.manual_seed(1)
    before = (python_random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    random.generator(0, "a").random(10)
    torch.rand(10, generator=random.torch_generator(0, "a"))
    after = (python_random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert before == after


@pytest.mark.parametrize("make", [random.generator, random.torch_generator])
def test_each_call_starts_the_stream_anew(make):
    def draw(generator):
        if isinstance(generator, np.random.Generator):
            return generator.random(3).tolist()
        return torch.rand(3, generator=generator).tolist()

    assert draw(make(0, "a", 1)) == draw(make(0, "a", 1)) != draw(make(0, "a", 2))


def drawn(rank: int, world: int, n_views: int = 1) -> random.Draws:
    return random.Draws(random.torch_generator(1, "draws"), rank=rank, world=world, n_views=n_views)


def test_draws_of_one_process_are_the_generators() -> None:
    first, plain = drawn(0, 1), random.torch_generator(1, "draws")
    assert torch.equal(first.uniform((2, 6), clips=1), torch.rand(2, 6, generator=plain))
    assert torch.equal(first.normal((6, 3), clips=0), torch.randn(6, 3, generator=plain))
    assert torch.equal(first.uniform((6,), -2.0, 5.0, clips=0), -2.0 + 7.0 * torch.rand(6, generator=plain))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_draws_of_one(world: int) -> None:
    """Clip by clip, and equal where something is drawn once for the batch."""
    parts, whole = [drawn(rank, world) for rank in range(world)], drawn(0, 1)
    n_own = 6 // world
    for shape, axis in (((6, 2), 0), ((4, 6, 1), 1)):
        own = (*shape[:axis], n_own, *shape[axis + 1 :])
        joined = torch.cat([part.normal(own, clips=axis) for part in parts], axis)
        assert torch.equal(joined, whole.normal(shape, clips=axis))
        once = whole.uniform((3,), clips=None)
        assert all(torch.equal(part.uniform((3,), clips=None), once) for part in parts)


def test_draws_know_that_clips_come_view_by_view() -> None:
    whole = drawn(0, 1, n_views=3).uniform((2, 3 * 4), clips=1).unflatten(1, (3, 4))
    parts = [drawn(rank, 2, n_views=3).uniform((2, 3 * 2), clips=1).unflatten(1, (3, 2)) for rank in range(2)]
    assert torch.equal(torch.cat(parts, 2), whole)
