"""The order of examples: a pure function of (seed, position)."""

import collections
import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.core import random
from birdjepa.data.order import ExampleOrder, StreamConfig, Visit


def rows(order, first, last):
    return [order.visit(position).row for position in range(first, last)]


def test_the_first_ten_are_pinned():
    """Changing these numbers changes every run ever made."""
    one = ExampleOrder(0, [[1] * 20], [1.0])
    assert rows(one, 0, 10) == [4, 15, 16, 17, 10, 2, 3, 1, 7, 9]
    two = ExampleOrder(0, [[1] * 5, [2, 1]], [1.0, 2.0])
    assert [tuple(two.visit(position)) for position in range(5)] == [
        (1, 0, 0, 0), (0, 3, 0, 0), (0, 2, 0, 0), (0, 4, 0, 0), (1, 1, 0, 0),
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
    began = time.process_time()
    for position in range(10_000):
        order.visit(position)
    seconds = time.process_time() - began
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


def streamed(n_rows=4000, n_shards=40, batch=16, **changes):
    """An order of one source in shards of about equal size."""
    shard = np.sort(np.arange(n_rows) % n_shards)
    config = StreamConfig(**{"window": 50, "abreast": 4, "turns": 2, **changes})
    return ExampleOrder(7, [[1] * n_rows], [1.0], shards=[shard], stream=config, batch=batch), shard


def test_the_order_of_shards_is_pinned():
    order, _ = streamed(60, 12, batch=8, window=4)
    assert rows(order, 0, 16) == [50, 52, 37, 1, 15, 16, 8, 7, 41, 42, 22, 24, 11, 10, 25, 58]


def test_an_epoch_of_a_stream_visits_each_row_once():
    order, _ = streamed()
    for epoch in range(3):
        seen = rows(order, epoch * 4000, (epoch + 1) * 4000)
        assert sorted(seen) == list(range(4000))
    assert rows(order, 0, 4000) != rows(order, 4000, 8000)


@pytest.mark.parametrize("n_rows", [4001, 999, 33, 8])
def test_rows_that_do_not_divide_are_each_seen_as_often(n_rows):
    order, _ = streamed(n_rows, 7)
    counts = collections.Counter(rows(order, 0, n_rows * 8))
    assert set(counts) == set(range(n_rows))
    assert max(counts.values()) - min(counts.values()) <= 2  # lanes end a pass some positions apart


def test_processes_and_workers_read_shards_of_their_own():
    """Four processes by two workers: eight disjoint parts of an epoch, which share only shards at their seams."""
    order, shard = streamed()
    parts = collections.defaultdict(list)
    for position in range(4000):
        number, slot = divmod(position, 16)
        parts[slot // 4, number % 2].append(order.visit(position).row)
    assert len(parts) == 8
    assert sorted(row for part in parts.values() for row in part) == list(range(4000))
    readers = collections.Counter(s for part in parts.values() for s in {int(shard[row]) for row in part})
    assert sum(readers.values()) <= 40 + 7
    assert max(readers.values()) <= 2


def test_a_window_of_a_lane_touches_few_shards_and_a_batch_many():
    order, shard = streamed()
    batches = [{int(shard[order.visit(16 * number + slot).row]) for slot in range(16)} for number in range(200)]
    assert np.mean([len(found) for found in batches]) >= 4
    lane = [int(shard[order.visit(32 * (draw // 4) + draw % 4).row]) for draw in range(500)]
    for first in range(0, 500, 50):
        assert len(set(lane[first : first + 50])) <= 2
    assert len(set(lane)) <= 7


def test_a_mixture_walks_its_stream_forwards():
    shard = np.repeat(np.arange(10), 40)
    order = ExampleOrder(
        3, [[1] * 400, [1] * 100], [1.0, 1.0], shards=[shard, None], batch=8, stream=StreamConfig(window=10, turns=1)
    )
    assert order.lanes.n == 8
    visits = [order.visit(position) for position in range(order.epoch_length + 8)]  # lanes differ by a position
    first_pass = sorted((v.source, v.row) for v in visits if v.epoch == 0)
    assert first_pass == [(0, row) for row in range(400)] + [(1, row) for row in range(100)]
    for lane in range(8):
        own = [int(shard[v.row]) for position, v in enumerate(visits) if position % 8 == lane and v.source == 0]
        changes = sum(a != b for a, b in itertools.pairwise(own))
        assert changes <= 2 * 10 + 2  # back and forth within the windows at a seam, not all over


def test_a_small_stream_is_one_lane():
    order, _ = streamed(5, 2)
    assert order.lanes.n == 1
    assert sorted(rows(order, 0, 5)) == list(range(5))


def test_substitutes_in_a_stream_are_near():
    order, shard = streamed()
    for position in (0, 17, 3999):
        near = {int(shard[order.substitute(position, attempt).row]) for attempt in range(20)}
        assert len(near) <= 3
        assert order.substitute(position, 1) == order.substitute(position, 1)


def test_a_cap_holds_and_the_rest_comes_later():
    order = ExampleOrder(0, [[1] * 100, [1] * 10], [1.0, 1.0], cap=20)
    assert order.shares.tolist() == [20, 10]
    assert order.epoch_length == 30
    visits = [order.visit(position) for position in range(30 * 5)]
    assert sorted(v.row for v in visits if v.source == 0) == list(range(100))


def test_a_stream_must_come_shard_by_shard():
    with pytest.raises(ValueError, match="shard by shard"):
        ExampleOrder(0, [[1, 1, 1]], [1.0], shards=[np.array([0, 1, 0])])
