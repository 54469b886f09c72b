"""Shards through the loader: the same examples whatever the workers, the processes and the resumes."""

import collections
import itertools

import pytest
import torch

from birdjepa.core.errors import UserError
from birdjepa.data.loader import Clips, LoaderConfig, batches
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.order import StreamConfig
from birdjepa.data.sources import open_data
from tests.data.test_shards import RATE, WRITERS
from tests.tiny_run import write_songs

N_SHARDS, PER_SHARD = 8, 8
KINDS = ("parquet", "tar", "files")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same kind of recordings as Parquet shards, as tars and as files."""
    folder = tmp_path_factory.mktemp("streams")
    for kind in ("parquet", "tar"):
        (folder / kind).mkdir()
        for shard in range(N_SHARDS):
            numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
            WRITERS[kind](folder / kind / f"train-{shard:03}.{kind}", numbers)
    write_songs(folder / "files", N_SHARDS * PER_SHARD)
    return folder


def make(data, kind, *, batch_size=8, rank=0, world=1, **settings):
    stream = {"window": 5, "abreast": 2, "turns": 2}
    config = LoaderConfig(**{"clip_s": 0.25, "draw": "recording", "stream": StreamConfig(**stream), **settings})
    source = open_data(str(data / kind), ColumnConfig(label="cls"))
    return Clips([source], [1.0], config, sampling_rate=RATE, batch_size=batch_size, seed=5, rank=rank, world=world)


def recordings(found):
    return [batch.recording.tolist() for batch in found]


N_EPOCH = N_SHARDS * PER_SHARD // 8


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_the_same_with_any_workers_and_processes(data, kind):
    whole = list(batches(make(data, kind), 0, N_EPOCH))
    counts = collections.Counter(number for batch in recordings(whole) for number in batch)
    assert counts == dict.fromkeys(range(N_SHARDS * PER_SHARD), 1)
    for workers in (1, 2):
        for one, other in zip(whole, batches(make(data, kind, workers=workers), 0, N_EPOCH), strict=True):
            assert torch.equal(one.clips, other.clips)
            assert one.recording.tolist() == other.recording.tolist()
    parts = [list(batches(make(data, kind, rank=rank, world=2, workers=rank), 0, N_EPOCH)) for rank in range(2)]
    for number, one in enumerate(whole):
        assert torch.equal(one.clips, torch.cat([part[number].clips for part in parts]))
    first, second = ({n for batch in recordings(part) for n in batch} for part in parts)
    assert not first & second


def test_processes_and_workers_open_shards_of_their_own(data):
    """Two processes by two workers read eight Parquet shards: each is read by one of them, but at the seams."""
    readers = collections.defaultdict(set)
    for rank in range(2):
        clips = make(data, "parquet", rank=rank, world=2)
        for number in range(N_EPOCH):
            for recording in clips.batch(number).recording.tolist():
                readers[recording // PER_SHARD].add((rank, number % 2))
    assert len(readers) == N_SHARDS
    assert sum(map(len, readers.values())) <= N_SHARDS + 3


@pytest.mark.parametrize("kind", KINDS)
def test_five_resumes_in_a_chain_equal_the_uninterrupted_stream(data, kind):
    """Stops within an epoch, across its edge, right after a resume, with other workers each time."""
    whole = recordings(batches(make(data, kind), 0, 24))
    seen, stops = [], [0, 4, 5, 9, 17, 18, 24]
    for turn, (first, last) in enumerate(itertools.pairwise(stops)):
        seen += recordings(batches(make(data, kind, workers=turn % 3), first, last))
    assert seen == whole


def test_labels_and_names_come_along(data):
    clips = make(data, "parquet")
    batch = clips.batch(0)
    assert clips.classes == ["kind0", "kind1"]
    for label, recording in zip(batch.label.tolist(), batch.recording.tolist(), strict=True):
        assert label == recording % 2
        assert clips.path(recording).endswith(f"train-{recording // PER_SHARD:03}.parquet/rec{recording:03}.flac")


def test_a_shard_that_vanished_ends_the_run_by_its_name(data, tmp_path):
    """Passing over it would change what is learnt from without a word."""
    WRITERS["parquet"](tmp_path / "a.parquet", range(12))
    WRITERS["parquet"](tmp_path / "b.parquet", range(12, 24))
    clips = make(tmp_path, ".", batch_size=24, draw="recording")
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(UserError, match=r"20 recordings in a row cannot be read.*b\.parquet"):
        clips.batch(0)
