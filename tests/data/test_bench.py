"""Where the loader's time goes: every part is found where it was put, and nothing is counted twice."""

import time

import numpy as np
import pytest
import soundfile
from tiny_run import RATE, write_songs

from birdjepa.audio import decode
from birdjepa.core.errors import UsageError
from birdjepa.data import bench as benches
from birdjepa.data import crops
from birdjepa.data.bench import PARTS, bench
from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.sources import open_data


def make(data, rate=RATE, **settings):
    config = LoaderConfig(**{"clip_s": 0.5, **settings})
    return Clips([open_data(str(data))], [1.0], config, sampling_rate=rate, batch_size=4, seed=0)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Half of them WAV at 8 kHz, half FLAC at 16 kHz, and one that is damaged."""
    folder = tmp_path_factory.mktemp("songs")
    write_songs(folder, 4, damaged=1)
    for number in range(4):
        noise = np.random.default_rng(number).standard_normal(32_000) / 10
        soundfile.write(folder / f"{number}.flac", noise, 16_000)
    return folder


def test_kinds_parts_and_levels(songs):
    found = bench(make(songs), seconds=0.6, workers=[0, 1])
    assert {kind.name for kind in found.kinds} == {"WAV/PCM_16 8 kHz", "FLAC/PCM_16 16 kHz"}
    assert found.all_kinds.n_clips == sum(kind.n_clips for kind in found.kinds) >= benches.N_LEAST
    assert found.n_refused > 0
    by_name = {kind.name: kind for kind in found.kinds}
    assert by_name["WAV/PCM_16 8 kHz"].ms["resample"] == 0.0
    assert by_name["FLAC/PCM_16 16 kHz"].ms["resample"] > 0.0
    assert all(kind.ms[part] > 0 for kind in found.kinds for part in ("open", "decode", "batch"))
    assert all(kind.ms["shard"] == 0 for kind in found.kinds)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert [level.workers for level in found.levels] == [0, 1]
    assert all(level.clips_per_s > 0 and level.n_clips > 0 for level in found.levels)
    assert min(found.flac_ms, found.same_ms, found.log_mel_ms) > 0
    assert set(found.to_json()["all_kinds"]["ms"]) == set(PARTS)


@pytest.mark.parametrize("part", ["decode", "resample", "search", "open"])
def test_a_part_that_is_slowed_down_is_the_one_that_is_blamed(songs, part, monkeypatch):
    def slowed(call):
        def slow(*arguments, **named):
            time.sleep(0.02)
            return call(*arguments, **named)

        return slow

    if part == "resample":
        monkeypatch.setattr(decode.soxr, "resample", slowed(decode.soxr.resample))
    elif part == "search":
        monkeypatch.setattr(crops, "liveliest", slowed(crops.liveliest))
    else:
        name = {"decode": "_decode", "open": "_open_decoder"}[part]
        monkeypatch.setattr(benches.Recording, name, slowed(getattr(benches.Recording, name)))
    clips = make(songs, rate=22_050, where="energy")
    timed, _ = benches._time_parts(clips, 0.4)
    sums = {each: sum(one.seconds[each] for one in timed) for each in PARTS}
    assert max(sums, key=lambda each: sums[each]) == part


def test_a_row_of_a_table_counts_as_its_shard(tmp_path, songs):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [(songs / f"{number}.flac").read_bytes() for number in range(4)]
    pq.write_table(pa.table({"audio": data}), tmp_path / "songs.parquet")
    found = bench(make(tmp_path / "songs.parquet", draw="recording"), seconds=0.3, workers=[0])
    assert found.all_kinds.ms["shard"] > 0
    assert found.all_kinds.ms["disk"] == 0


def test_where_nothing_can_be_read_there_is_one_line(tmp_path):
    data = write_songs(tmp_path, 0, damaged=2)
    with pytest.raises(UsageError, match=r"recordings cannot be read, .*not audio"):
        bench(make(data), seconds=1.0, workers=[0])
