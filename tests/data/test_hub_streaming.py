"""Shards of the Hub through the loader: the stream of the same files in a folder, whatever the network does."""

import collections
import itertools
import os
import shutil
import time

import pytest
import torch

from birdjepa.cli import main
from birdjepa.core.errors import Unreachable, UsageError
from birdjepa.data import hub_cache, hub_http
from birdjepa.data.loader import Clips, LoaderConfig, batches
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.order import StreamConfig
from birdjepa.data.sources import open_data
from tests.data.test_shards import RATE, WRITERS
from tests.hub_server import environment, serving
from tests.tiny_run import final_state, metrics, tiny, write_config

N_SHARDS, PER_SHARD = 8, 8
N_EPOCH = N_SHARDS * PER_SHARD // 8
KINDS = ("parquet", "tar")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    for kind in KINDS:
        (folder / kind).mkdir()
        for shard in range(N_SHARDS):
            numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
            WRITERS[kind](folder / kind / f"train-{shard:03}.{kind}", numbers)
    return folder


@pytest.fixture
def server(made, tmp_path, monkeypatch):
    with serving() as running:
        for kind in KINDS:
            running.add(f"me/{kind}", made / kind)
        for name, value in environment(running, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=4, base_s=0.01, stall_s=0.5))
        monkeypatch.setattr(hub_cache, "_POLL_S", 0.01)
        yield running


def make(data, *, rank=0, world=1, **settings):
    stream = StreamConfig(**{"window": 5, "abreast": 2, "turns": 2, **settings.pop("stream", {})})
    config = LoaderConfig(**{"clip_s": 0.25, "draw": "recording", "stream": stream, **settings})
    source = open_data(data, ColumnConfig(label="cls"))
    return Clips([source], [1.0], config, sampling_rate=RATE, batch_size=8, seed=5, rank=rank, world=world)


def recordings(found):
    return [batch.recording.tolist() for batch in found]


def test_the_stream_is_that_of_the_same_files(server, made):
    local = list(batches(make(str(made / "parquet")), 0, N_EPOCH))
    for workers in (0, 2):
        for one, other in zip(local, batches(make("hub:me/parquet", workers=workers), 0, N_EPOCH), strict=True):
            assert torch.equal(one.clips, other.clips)
            assert torch.equal(one.label, other.label)
            assert one.recording.tolist() == other.recording.tolist()
    assert len(set(server.downloads())) == N_SHARDS


def test_five_resumes_in_a_chain_equal_the_uninterrupted_stream(server):
    whole = recordings(batches(make("hub:me/tar"), 0, 24))
    seen, stops = [], [0, 4, 5, 9, 17, 18, 24]
    for turn, (first, last) in enumerate(itertools.pairwise(stops)):
        seen += recordings(batches(make("hub:me/tar", workers=turn % 3), first, last))
    assert seen == whole


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_by_two_workers_read_shards_of_their_own(server, kind):
    readers = collections.defaultdict(set)
    heard = []
    for rank in range(2):
        clips = make(f"hub:me/{kind}", rank=rank, world=2, workers=2)
        for number, batch in enumerate(batches(clips, 0, N_EPOCH)):
            heard += batch.recording.tolist()
            for recording in batch.recording.tolist():
                readers[recording // PER_SHARD].add((rank, number % 2))
    assert sorted(heard) == list(range(N_SHARDS * PER_SHARD))
    assert sum(map(len, readers.values())) <= N_SHARDS + 3  # but at the seams of lanes


def test_the_sequence_after_faults_is_the_one_without(server, made):
    whole = recordings(batches(make(str(made / "parquet")), 0, N_EPOCH))
    clips = make("hub:me/parquet")
    server.faults["cdn"] += ["500", "", "reset", "stall", "429", "wrong", "", "short", "503"]
    server.faults["resolve"] += ["", "502", "", "429"]
    found = list(batches(clips, 0, N_EPOCH))
    assert recordings(found) == whole
    assert not any(batch.refused for batch in found)
    assert not server.faults["cdn"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_hub_that_stays_away_ends_the_stream_and_passes_over_nothing(server, workers):
    clips = make("hub:me/parquet", workers=workers)
    server.always["cdn"] = "503"
    with pytest.raises(Unreachable, match=r"hub:me/parquet/train-\d+\.parquet: given up") as caught:
        list(batches(clips, 0, 2))
    assert caught.value.exit_code == 75


def test_a_small_cache_streams_the_same(server, made, monkeypatch):
    clips = make("hub:me/parquet", stream={"abreast": 1, "turns": 1})
    whole = recordings(batches(make(str(made / "parquet"), stream={"abreast": 1, "turns": 1}), 0, 2 * N_EPOCH))
    size = max(file.n_bytes for file in clips.sources[0].shards.files)
    monkeypatch.setattr(hub_cache, "JUST_USED_S", -1.0)
    monkeypatch.setenv(hub_cache.LIMIT, str(3.2 * size / 1e9))
    clips = make("hub:me/parquet", stream={"abreast": 1, "turns": 1})
    found = []
    for batch in batches(clips, 0, 2 * N_EPOCH):
        found.append(batch.recording.tolist())
        seen = [file for file in clips.sources[0].shards.files if file.path.exists()]
        held = [file.n_bytes for file in seen if file.path.exists()]  # at once: one may go while others are looked at
        assert sum(held) <= 3.2 * size
    assert found == whole
    monkeypatch.setenv(hub_cache.LIMIT, str(1.5 * size / 1e9))
    with pytest.raises(UsageError, match=r"BIRDJEPA_CACHE_GB=.* is too little: .*--loader\.stream\.window"):
        make("hub:me/parquet")


def test_looking_ahead_hides_a_slow_network(server, monkeypatch):
    """Each shard takes 0.2 s to come, what a batch is used for 0.1 s, and a shard serves one batch."""
    waited = {}
    for ahead in (True, False):
        monkeypatch.setenv("HF_HOME", f"{os.environ['HF_HOME']}-{ahead}")
        clips = make("hub:me/parquet", stream={"abreast": 1, "turns": 1, "window": 8})
        if not ahead:
            clips._ahead = None
        server.delay_s = 0.2
        waited[ahead] = 0.0
        for number in range(N_EPOCH):
            began = time.monotonic()
            clips.batch(number)
            waited[ahead] += time.monotonic() - began
            time.sleep(0.1)
        server.delay_s = 0.0
    assert waited[False] > N_EPOCH * 0.2
    assert waited[True] < 0.7 * waited[False]


def test_what_is_seen_ahead_is_what_will_be_read(server):
    clips = make("hub:me/parquet", rank=1, world=2)
    opened = clips._ahead._shards(3)
    batch = clips.batch(3)
    files = clips.sources[0].shards.files
    assert opened == {files[recording // PER_SHARD] for recording in batch.recording.tolist()}
    assert {file for file in files if file.path.exists()} >= opened


def test_lengths_that_nobody_tells_are_not_fetched_for(server):
    with pytest.raises(UsageError, match=r"hub:me/parquet: 64 recordings come without a length.*loader\.draw"):
        make("hub:me/parquet", draw="duration")


def test_pretrain_runs_and_resumes_on_the_commit_that_it_began_with(server, made, tmp_path, monkeypatch, capsys):
    config = tiny("hub:me/parquet@2", tmp_path / "run", steps=4)
    settings = ["--loader.draw", "recording", "--config", str(write_config(config, tmp_path / "c.json"))]
    assert main(["pretrain", *settings]) == 0
    assert "looking what is in 8 shards" in capsys.readouterr().err
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    saved = (tmp_path / "run" / "config.json").read_text()
    assert f"hub:me/parquet#{server.sha('me/parquet')}@2" in saved
    whole = final_state(tmp_path / "run")

    newest = sorted(path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir())[-1]
    shutil.rmtree(newest)
    server.files["me/parquet"]["train-009.parquet"] = b"a later commit" * 100
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = len(server.seen)
    assert main(["pretrain", "--resume", str(tmp_path / "run")]) == 0
    assert "going on from step 2 of 4" in capsys.readouterr().err
    assert final_state(tmp_path / "run") == whole
    assert len(server.seen) == seen


def test_a_run_that_cannot_reach_the_hub_asks_to_be_started_again(server, tmp_path, capsys):
    server.always["cdn"] = "503"
    config = tiny("hub:me/parquet", tmp_path / "run")
    assert main(["pretrain", "--config", str(write_config(config, tmp_path / "c.json"))]) == 75
    assert capsys.readouterr().err.splitlines()[-1].startswith("birdjepa: hub:me/parquet/train-")
