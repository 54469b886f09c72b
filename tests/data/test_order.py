"""The order of examples: a pure function of (seed, position)."""

import collections
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.core import random
from birdjepa.data.order import ExampleOrder, Visit


def rows(order, first, last):
    return [order.visit(position).row for position in range(first, last)]


def test_the_first_ten_are_pinned():
    """Changing these numbers changes every run ever made."""
    one = ExampleOrder(0, [[1] * 20], [1.0])
    assert rows(one, 0, 10) == [2, 16, 4, 6, 12, 0, 15, 8, 10, 7]
    two = ExampleOrder(0, [[1] * 5, [2, 1]], [1.0, 2.0])
    assert [tuple(two.visit(position)) for position in range(5)] == [
        (0, 3, 0, 0), (1, 0, 0, 1), (1, 0, 1, 1), (1, 1, 0, 0), (0, 2, 0, 0),
    ]  # fmt: skip


def test_each_epoch_is_a_fresh_permutation():
    order = ExampleOrder(1, [[1] * 50], [1.0])
    epochs = [rows(order, 50 * epoch, 50 * (epoch + 1)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [order.visit(position).epoch for position in (0, 49, 50, 199)] == [0, 0, 1, 3]


def test_a_row_is_visited_once_for_each_slot():
    order = ExampleOrder(2, [[3, 1, 2]], [1.0])
    for epoch in range(3):
        visits = [order.visit(position) for position in range(6 * epoch, 6 * (epoch + 1))]
        assert sorted((visit.row, visit.draw) for visit in visits) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
        assert {visit.epoch for visit in visits} == {epoch}


SOURCES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=12), min_size=1, max_size=4)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(SOURCES, st.integers(0, 5), st.data())
def test_sources_get_their_shares(slots, seed, data):
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(slots), max_size=len(slots)))
    order = ExampleOrder(seed, slots, weights)
    sizes = [sum(source) for source in slots]
    total = sum(size * weight for size, weight in zip(sizes, weights, strict=True))
    for epoch in range(2):
        first = epoch * order.epoch_length
        seen = collections.Counter(
            order.visit(position).source for position in range(first, first + order.epoch_length)
        )
        for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
            wanted = size * weight / total * sum(sizes)
            assert abs(seen[source] - max(1.0, wanted)) <= 1


@settings(deadline=None, derandomize=True, max_examples=40)
@given(SOURCES, st.data())
def test_every_row_of_every_source_is_visited_in_the_end(slots, data):
    """However small its share, a source walks through all its rows before it begins again."""
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(slots), max_size=len(slots)))
    order = ExampleOrder(0, slots, weights)
    epochs = max(-(-sum(source) // int(share)) for source, share in zip(slots, order.shares, strict=True))
    visits = [order.visit(position) for position in range(epochs * order.epoch_length)]
    first_pass = {(visit.source, visit.row, visit.draw) for visit in visits if visit.epoch == 0}
    assert len(first_pass) == sum(map(sum, slots))
    assert len(set(visits)) == len(visits)


def test_any_position_in_any_order_gives_the_same():
    slots, weights = [[1, 3] * 10, [2] * 7], [1.0, 0.5]
    order = ExampleOrder(3, slots, weights)
    straight = [order.visit(position) for position in range(300)]
    shuffled = random.generator(0, "test").permutation(300)
    again = ExampleOrder(3, slots, weights)
    assert {int(position): again.visit(int(position)) for position in shuffled} == dict(enumerate(straight))
    assert ExampleOrder(3, slots, weights).visit(299) == straight[299]
    assert [ExampleOrder(4, slots, weights).visit(position) for position in range(300)] != straight


def test_substitutes_are_pure_and_of_the_same_epoch():
    order = ExampleOrder(3, [[1] * 40], [1.0])
    tried = [order.substitute(45, attempt) for attempt in range(20)]
    assert tried == [ExampleOrder(3, [[1] * 40], [1.0]).substitute(45, attempt) for attempt in range(20)]
    assert len({visit.row for visit in tried}) > 10
    assert {visit.epoch for visit in tried} == {1}
    assert tried != [order.substitute(46, attempt) for attempt in range(20)]


def test_a_million_slots_are_fast_and_small():
    order = ExampleOrder(0, [[10] * 100_000], [1.0])
    order.visit(0)
    began = time.perf_counter()
    for position in range(10_000):
        order.visit(position)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    for epoch in range(2, 8):
        order.visit(epoch * 1_000_000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2
    assert kept < 20e6


@pytest.mark.parametrize(
    ("slots", "weights", "told"),
    [
        ([], [], "at least one slot"),
        ([[1], []], [1.0, 1.0], "at least one slot"),
        ([[0, 0]], [1.0], "at least one slot"),
        ([[1]], [1.0, 2.0], "one weight"),
        ([[1]], [0.0], "weights must be positive, got 0"),
        ([[1], [1]], [1.0, float("nan")], "weights must be positive"),
    ],
)
def test_sources_that_cannot_be_visited_are_refused(slots, weights, told):
    with pytest.raises(ValueError, match=told):
        ExampleOrder(0, slots, weights)


def test_rows_without_slots_are_never_visited():
    order = ExampleOrder(0, [[0, 2, 0, 1]], [1.0])
    assert collections.Counter(rows(order, 0, 30)) == {1: 20, 3: 10}
    assert order.visit(0)._fields == Visit._fields
