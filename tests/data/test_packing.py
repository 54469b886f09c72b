"""Batches of recordings as long as they are."""

import collections

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.core.errors import UsageError
from birdjepa.data.loader import Clips, LoaderConfig, batches
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


def make(*data, weights=None, batch_size=4, rank=0, world=1, seed=0, pack=None, **settings):
    config = LoaderConfig(**{"clip_s": 4.0, "draw": "recording", **settings})
    pack = pack or PackConfig(buckets=4)
    sources, weights = [open_data(str(each)) for each in data], weights or [1.0] * len(data)
    shape = {"sampling_rate": RATE, "batch_size": batch_size, "rank": rank, "world": world}
    return PackedClips(sources, weights, config, pack, seed=seed, **shape)


def epoch(clips):
    return [clips.batch(number) for number in range(clips.epoch_length)]


def heard(batch):
    return [round(float(clip[0]) * 128) - 1 for clip in batch.clips]


def test_a_batch_holds_whole_recordings_and_says_where_they_end(words):
    clips = make(words)
    for batch in batches(clips, 0, clips.epoch_length):
        n_clips, n_samples = batch.clips.shape
        assert n_clips == int(4 * 4 * RATE / n_samples)  # as much sound as 4 clips of 4 s
        assert heard(batch) == batch.recording.tolist()
        assert batch.labels.shape == (n_clips, 0)
        for clip, length, number in zip(batch.clips, batch.lengths.tolist(), batch.recording.tolist(), strict=True):
            assert length == min(4 * RATE, soundfile.info(clips.path(number)).frames)
            assert clip[:length].unique().numel() == 1
            assert not clip[length:].any()


def test_an_epoch_hears_every_recording_and_pads_little(words):
    clips = make(words)
    found = epoch(clips)
    counts = collections.Counter(number for batch in found for number in batch.recording.tolist())
    assert set(counts) == set(range(61))
    assert max(counts.values()) <= 2  # a bucket's last batch is filled up with its next pass
    share = 1 - sum(int(b.lengths.sum()) for b in found) / sum(b.clips.numel() for b in found)
    assert clips.padding_share == pytest.approx(share, abs=0.01)
    assert sum(len(b.clips) for b in found) == clips.clips_per_epoch
    one = make(words, pack=PackConfig(buckets=1))
    assert share < 0.25 < 0.5 < one.padding_share
    assert len({tuple(b.clips.shape) for b in found}) <= 4


def test_a_batch_is_a_function_of_its_number(words):
    whole = list(batches(make(words), 0, 40))
    for first, workers in ((0, 2), (13, 1), (39, 0)):
        for one, other in zip(whole[first:], batches(make(words, workers=workers), first, 40), strict=True):
            assert torch.equal(one.clips, other.clips)
            assert one.recording.tolist() == other.recording.tolist()
    n = make(words).epoch_length
    assert [b.recording.tolist() for b in whole[:n]] != [b.recording.tolist() for b in whole[n : 2 * n]]


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
    clips = make(words, clip_s=2.0, draw="duration", pack=PackConfig(shortest_s=0.5))
    found = epoch(clips)
    counts = collections.Counter(number for batch in found for number in batch.recording.tolist())
    assert 4 <= counts[60] <= 5
    short = {n for n in range(60) if soundfile.info(words / f"{n:02}.wav").duration < 0.5}
    assert short
    assert not short & set(counts)


def test_what_cannot_be_packed_is_refused(words):
    with pytest.raises(ValueError, match="batch_size=4 clips must be a multiple of the 3 processes"):
        make(words, world=3)
    with pytest.raises(UsageError, match="no recording is as long as"):
        make(words, pack=PackConfig(shortest_s=9.0))
    for bad in ({"buckets": 0}, {"shortest_s": 0.0}):
        with pytest.raises(ValueError, match="got"):
            PackConfig(**bad)


def write(folder, lengths, level=0.5):
    folder.mkdir(parents=True, exist_ok=True)
    for number, seconds in enumerate(lengths):
        soundfile.write(folder / f"{number}.wav", np.full(round(seconds * RATE), level), RATE)
    return folder


@pytest.mark.parametrize(("settings", "share"), [({}, 3 / 4), ({"source_cap": 6}, 6 / 12)])
def test_weights_and_caps_hold_over_all_lengths(tmp_path, settings, share):
    """The sources share no bucket, so that only the number of batches can tell them apart."""
    long, short = write(tmp_path / "long", [3.0] * 12, level=0.5), write(tmp_path / "short", [1.0] * 12, level=0.25)
    clips = make(long, short, weights=[3.0, 1.0], batch_size=1, **settings)
    assert [bucket.n_clips for bucket in clips.buckets] == [4, 1]
    n_long = sum(int((batch.clips[:, 0] == 0.5).sum()) for batch in epoch(clips))
    # 18 + 6 clips of an epoch of 24; at most 6 of each; the last batch of short ones is filled up to 4
    assert n_long == (6 if settings else 18)
    assert clips.clips_per_epoch == n_long + 8
    assert n_long / (n_long + 6) == pytest.approx(share)


def test_segments_are_heard_where_they_are(tmp_path):
    """In a ramp each sample says when it is."""
    soundfile.write(tmp_path / "ramp.wav", np.arange(10 * RATE) / (20 * RATE), RATE, subtype="FLOAT")
    bounds = [(2.0, 2.5), (7.0, 8.5), (1.0, 9.0)]
    rows = "".join(f"ramp.wav,{onset},{offset},wren\n" for onset, offset in bounds)
    (tmp_path / "m.csv").write_text(f"path,onset_s,offset_s,label\n{rows}")
    for batch in epoch(make(tmp_path / "m.csv", examples="segments", batch_size=1)):
        assert batch.labels.all()
        for clip, length, number in zip(batch.clips, batch.lengths.tolist(), batch.recording.tolist(), strict=True):
            onset, offset = bounds[number]
            assert length == round(min(4.0, offset - onset) * RATE)
            first, last = float(clip[0]) * 20, float(clip[length - 1]) * 20
            assert onset - 1e-3 <= first < last < offset


def test_what_cannot_be_opened_is_refused_and_not_forgotten(tmp_path):
    folder = write(tmp_path / "songs", [1.0] * 6)
    (folder / "broken.wav").write_bytes(b"no sound")
    refused = {failure.path for batch in epoch(make(folder, batch_size=1)) for failure in batch.refused}
    assert refused == {str(folder / "broken.wav")}


def test_both_kinds_of_batches_offer_the_same(words):
    config = LoaderConfig(clip_s=4.0, draw="recording")
    plain = Clips([open_data(str(words))], [1.0], config, sampling_rate=RATE, batch_size=4, seed=0)
    packed = make(words)
    for clips in (plain, packed):
        assert (clips.n_recordings, clips.classes, clips.fetches, len(clips.sources)) == (61, [], False, 1)
        assert clips.path(3) == str(words / "03.wav")
    assert plain.clips_per_epoch == 61 <= packed.clips_per_epoch


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
