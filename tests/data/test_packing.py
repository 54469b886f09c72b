"""Batches of recordings as long as they are."""

import collections

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.core.errors import UsageError
from birdjepa.data.loader import LoaderConfig, batches
from birdjepa.data.packing import PackConfig, PackedClips, _bounds
from birdjepa.data.sources import open_data

RATE = 1000


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """60 recordings between 0.2 and 3 s, and one of 8 s, whose samples say which they are."""
    folder = tmp_path_factory.mktemp("words")
    lengths = [*np.random.default_rng(0).uniform(0.2, 3.0, 60).tolist(), 8.0]
    for number, seconds in enumerate(lengths):
        soundfile.write(folder / f"{number:02}.wav", np.full(round(seconds * RATE), (number + 1) / 128), RATE)
    return folder


def make(data, *, rank=0, world=1, seed=0, pack=None, **settings):
    config = LoaderConfig(**{"clip_s": 4.0, "draw": "recording", **settings})
    pack = pack or PackConfig(max_seconds=12.0, buckets=4)
    return PackedClips(
        [open_data(str(data))], [1.0], config, pack, sampling_rate=RATE, seed=seed, rank=rank, world=world
    )


def heard(batch):
    return [round(float(clip[0]) * 128) - 1 for clip in batch.clips]


def test_a_batch_holds_whole_recordings_and_says_where_they_end(words):
    clips = make(words)
    for batch in batches(clips, 0, clips.epoch_length):
        assert batch.clips.numel() <= 12 * RATE
        assert heard(batch) == batch.recording.tolist()
        assert batch.attention_mask.sum(1).tolist() == batch.lengths.tolist()
        for clip, length, number in zip(batch.clips, batch.lengths.tolist(), batch.recording.tolist(), strict=True):
            assert length == min(4 * RATE, soundfile.info(clips.path(number)).frames)
            assert clip[:length].unique().numel() == 1
            assert not clip[length:].any()


def test_an_epoch_hears_every_recording_and_pads_little(words):
    clips = make(words)
    found = [clips.batch(number) for number in range(clips.epoch_length)]
    counts = collections.Counter(number for batch in found for number in batch.recording.tolist())
    assert set(counts) == set(range(61))
    assert max(counts.values()) <= 2  # a bucket's last batch is filled up with its next pass
    share = 1 - sum(int(b.lengths.sum()) for b in found) / sum(b.clips.numel() for b in found)
    assert clips.padding_share == pytest.approx(share, abs=0.01)
    one = make(words, pack=PackConfig(max_seconds=12.0, buckets=1))
    assert share < 0.25 < 0.5 < one.padding_share
    assert len({tuple(b.clips.shape) for b in found}) <= 4


def test_a_batch_is_a_function_of_its_number(words):
    whole = list(batches(make(words), 0, 40))
    for first, workers in ((0, 2), (13, 1), (39, 0)):
        for one, other in zip(whole[first:], batches(make(words, workers=workers), first, 40), strict=True):
            assert torch.equal(one.clips, other.clips)
            assert one.recording.tolist() == other.recording.tolist()
    epoch = make(words).epoch_length
    assert [b.recording.tolist() for b in whole[:epoch]] != [b.recording.tolist() for b in whole[epoch : 2 * epoch]]


def test_processes_have_batches_of_one_shape_and_recordings_of_their_own(words):
    parts = [make(words, rank=rank, world=2) for rank in range(2)]
    assert parts[0].epoch_length == parts[1].epoch_length
    seen = [collections.Counter(), collections.Counter()]
    for number in range(parts[0].epoch_length):
        found = [part.batch(number) for part in parts]
        assert found[0].clips.shape == found[1].clips.shape
        for counter, batch in zip(seen, found, strict=True):
            counter.update(batch.recording.tolist())
    assert set(seen[0]) | set(seen[1]) == set(range(61))
    assert max((seen[0] + seen[1]).values()) <= 3


def test_long_recordings_come_in_stretches_and_short_ones_not_at_all(words):
    clips = make(words, clip_s=2.0, draw="duration", pack=PackConfig(max_seconds=8.0, shortest_s=0.5))
    found = [clips.batch(number) for number in range(clips.epoch_length)]
    counts = collections.Counter(number for batch in found for number in batch.recording.tolist())
    assert 4 <= counts[60] <= 5
    short = {n for n in range(60) if soundfile.info(words / f"{n:02}.wav").duration < 0.5}
    assert short
    assert not short & set(counts)


def test_what_cannot_be_packed_is_refused(words):
    with pytest.raises(UsageError, match=r"max_seconds=2 is less than one recording of 4 s"):
        make(words, pack=PackConfig(max_seconds=2.0))
    with pytest.raises(UsageError, match="no recording is as long as"):
        make(words, pack=PackConfig(shortest_s=9.0))
    for bad in ({"max_seconds": 0.0}, {"buckets": 0}, {"shortest_s": 0.0}):
        with pytest.raises(ValueError, match="got"):
            PackConfig(**bad)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=60), st.integers(1, 6))
def test_buckets_pad_least(lengths, n):
    """Against equally filled buckets, and never worse with one more."""
    heard = np.array(lengths)

    def padded(bounds):
        return float(np.array(bounds)[np.searchsorted(bounds, heard)].sum())

    bounds = _bounds(heard, PackConfig(buckets=n))
    assert bounds == sorted(bounds)
    assert len(bounds) <= n
    assert bounds[-1] == heard.max()
    even = np.unique(np.quantile(heard, np.linspace(0, 1, n + 1)[1:], method="higher"))
    assert padded(bounds) <= padded(even) + 1e-9
    assert padded(_bounds(heard, PackConfig(buckets=n + 1))) <= padded(bounds) + 1e-9
