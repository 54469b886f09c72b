"""Batches of clips: the same whatever the number of workers, and nothing that a recording can do stops them."""

import gc
import multiprocessing
import os
import signal
import struct
import time

import numpy as np
import pytest
import soundfile
import torch
from tiny_run import RATE, write_songs

from birdjepa.core import random
from birdjepa.core.errors import UsageError, UserError
from birdjepa.data.lengths import durations
from birdjepa.data.loader import (
    MAX_ATTEMPTS,
    Clips,
    LoaderConfig,
    _prepare_worker,
    balanced_visits,
    batches,
    worker_errors,
)
from birdjepa.data.sources import open_data


def make(*data, weights=None, batch_size=3, seed=0, rank=0, world=1, **settings):
    """Clips of 0.5 s at 8 kHz."""
    sources = [open_data(str(each)) for each in data]
    config = LoaderConfig(**{"clip_s": 0.5, **settings})
    weights = weights or [1.0] * len(data)
    shape = {"sampling_rate": RATE, "batch_size": batch_size, "rank": rank, "world": world}
    return Clips(sources, weights, config, seed=seed, **shape)


def same(one, other):
    equal = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("clips", "label", "recording"))
    return equal and one.refused == other.refused


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 10, damaged=2)


def test_batches_are_the_same_with_two_workers_and_from_any_start(songs):
    whole = list(batches(make(songs), 0, 12))
    split = list(batches(make(songs, workers=2), 0, 12))
    assert len(whole) == len(split) == 12
    assert all(same(one, other) for one, other in zip(whole, split, strict=True))
    assert any(batch.refused for batch in whole)
    for first in (1, 7, 11):
        for workers in (0, 2):
            late = list(batches(make(songs, workers=workers), first, 12))
            assert all(same(one, other) for one, other in zip(whole[first:], late, strict=True))
    assert not same(whole[0], next(iter(batches(make(songs, seed=1), 0, 1))))


def test_lengths_tell_sound_from_silence(tmp_path):
    for name, seconds in (("short", 0.2), ("long", 2.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(round(seconds * RATE), 0.5), RATE)
    for short, least in (("silence", round(0.2 * RATE)), ("repeat", RATE // 2)):
        batch = make(tmp_path, draw="recording", short=short, batch_size=2).batch(0)
        assert sorted(batch.lengths.tolist()) == [least, RATE // 2]
        sound = torch.arange(RATE // 2) < batch.lengths[:, None]
        assert torch.equal(batch.clips != 0, sound)


def test_a_batch_is_what_it_says(songs):
    clips = make(songs, batch_size=5)
    batch = clips.batch(2)
    assert batch.clips.shape == (5, RATE // 2)
    assert batch.clips.dtype == torch.float32
    assert clips.classes == ["high", "low"]
    manifest = open_data(str(songs))
    for label, recording in zip(batch.label.tolist(), batch.recording.tolist(), strict=True):
        assert clips.path(recording) == str(manifest.path(recording))
        assert clips.classes[label] == manifest.columns["label"][recording]


def test_a_clip_is_a_stretch_of_its_recording(songs):
    clips = make(songs, batch_size=20)
    batch = clips.batch(0)
    starts = set()
    for clip, recording in zip(batch.clips, batch.recording.tolist(), strict=True):
        samples, _ = soundfile.read(clips.path(recording), dtype="float32")
        first = np.lib.stride_tricks.sliding_window_view(samples, RATE // 2)
        places = np.flatnonzero((first == clip.numpy()).all(1))
        assert len(places) == 1
        starts.add((recording, int(places[0])))
    assert len(starts) > 15


def test_recordings_are_numbered_over_all_sources(songs, tmp_path):
    other = write_songs(tmp_path / "more", 4)
    clips = make(songs, other, weights=[1.0, 3.0])
    assert clips.n_recordings == 16
    seen = {int(number) for batch in batches(clips, 0, 12) for number in batch.recording}
    assert max(seen) >= 12
    assert clips.path(12) == str(tmp_path / "more" / "000.wav")
    assert clips.path(11) == str(songs.parent / "011.wav")


def test_recordings_without_label_are_minus_one(tmp_path):
    write_songs(tmp_path, 2)
    (tmp_path / "m.csv").write_text("path,label\n000.wav,x\n001.wav,\n")
    batch = make(tmp_path / "m.csv", batch_size=8).batch(0)
    assert batch.label.tolist() == [0 if number == 0 else -1 for number in batch.recording.tolist()]


def test_damaged_files_are_substituted_and_listed(songs):
    found = list(batches(make(songs), 0, 30))
    assert all(batch.clips.shape == (3, RATE // 2) and torch.isfinite(batch.clips).all() for batch in found)
    refused = {refusal for batch in found for refusal in batch.refused}
    assert {os.path.basename(refusal.path) for refusal in refused} == {"010.wav", "011.wav"}
    assert {refusal.reason.split(":")[0] for refusal in refused} == {"not audio"}
    assert {10, 11}.isdisjoint({int(number) for batch in found for number in batch.recording})


@pytest.mark.parametrize("workers", [0, 1])
def test_where_nothing_can_be_read_there_is_one_clear_line(tmp_path, workers):
    data = write_songs(tmp_path, 0, damaged=3)
    with pytest.raises(UserError, match=f"{MAX_ATTEMPTS} recordings in a row cannot be read, .*not audio") as error:
        list(batches(make(data, workers=workers), 0, 2))
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def lying_wav(path, claimed, there):
    """A WAV file whose header claims more samples than there are."""
    samples = (random.generator(0, "lie").standard_normal(there) * 3000).astype("<i2").tobytes()
    header = b"RIFF" + struct.pack("<I", 36 + 2 * claimed) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16) + b"data" + struct.pack("<I", 2 * claimed)
    path.write_bytes(header + samples)


@pytest.mark.parametrize("claimed_s", [4, 400, 100_000])
def test_a_recording_that_lies_about_its_length_is_listed_and_stops_nothing(tmp_path, claimed_s):
    write_songs(tmp_path, 4)
    lying_wav(tmp_path / "liar.wav", claimed_s * RATE, 2 * RATE)
    clips = make(tmp_path, draw="recording", batch_size=4)
    found = list(batches(clips, 0, 20))
    assert all(batch.clips.shape == (4, RATE // 2) for batch in found)
    refused = {refusal for batch in found for refusal in batch.refused}
    assert {os.path.basename(refusal.path) for refusal in refused} == {"liar.wav"}
    assert make(tmp_path).order.epoch_length <= 4 * 5 + max(8, 2 * min(claimed_s, 86_400))


def test_a_manifest_that_lies_about_lengths_stops_nothing(tmp_path):
    write_songs(tmp_path, 2)
    (tmp_path / "m.csv").write_text("path,duration_s\n000.wav,1e12\n001.wav,0\n")
    clips = make(tmp_path / "m.csv")
    assert clips.order.epoch_length == 2 * 86_400 + 1
    assert clips.batch(0).refused == ()


@pytest.mark.parametrize("short", ["repeat", "silence"])
def test_short_recordings_are_filled(tmp_path, short):
    samples = np.linspace(0.1, 0.5, 1000, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    clip = make(tmp_path, short=short, batch_size=1).batch(0).clips[0].numpy()
    assert np.array_equal(clip[:1000], samples)
    assert np.array_equal(clip[1000:2000], samples if short == "repeat" else np.zeros(1000))
    assert len(clip) == RATE // 2


def test_a_channel_can_be_chosen(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.tile([[0.5, -0.25]], (RATE, 1)), RATE)
    for channel, level in (("mean", 0.125), ("0", 0.5), ("1", -0.25)):
        assert make(tmp_path, channel=channel).batch(0).clips.unique().tolist() == [level]
    with pytest.raises(UserError, match="channel 2"):
        make(tmp_path, channel="2").batch(0)


def test_visits_follow_length_or_count_recordings_once(tmp_path):
    for name, seconds in (("a", 0.3), ("b", 5.0)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(round(seconds * RATE)), RATE)
    (tmp_path / "c.wav").write_bytes(b"")
    assert durations(open_data(str(tmp_path))).tolist() == [0.3, 5.0, 0.0]
    assert make(tmp_path).order.epoch_length == 1 + 10 + 1
    assert make(tmp_path, draw="recording").order.epoch_length == 3
    assert make(tmp_path, most_visits=4).order.epoch_length == 1 + 4 + 1
    assert make(tmp_path, source_cap=5).order.epoch_length == 5


def test_short_recordings_are_left_out_when_asked(tmp_path):
    for name, seconds in (("a", 0.3), ("b", 5.0), ("c", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(round(seconds * RATE)), RATE)
    clips = make(tmp_path, short="skip", draw="recording", batch_size=4)
    assert clips.order.epoch_length == 2
    assert set(clips.batch(0).recording.tolist()) == {1, 2}
    with pytest.raises(UsageError, match=r"all recordings are shorter than loader\.clip_s=6 s"):
        make(tmp_path, short="skip", clip_s=6.0)


def test_a_clip_can_be_taken_where_it_sounds(tmp_path):
    """A call of 0.2 s in 20 s of faint noise: anywhere misses it nearly always; its events never, nor a search among
    all of the recording."""
    rng = np.random.default_rng(0)
    samples = 1e-3 * rng.standard_normal(20 * RATE)
    samples[12 * RATE : 12 * RATE + 1600] += 0.3 * np.sin(2 * np.pi * 1500 * np.arange(1600) / RATE)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    (tmp_path / "m.csv").write_text("path,detected_events\na.wav,12.0-12.2\n")

    def heard(**settings):
        clips = make(tmp_path / "m.csv", batch_size=40, **settings).batch(0).clips
        return (clips.abs().amax(1) > 0.1).float().mean()

    assert heard() < 0.25
    assert heard(where="events") == 1
    assert heard(where="energy") > heard()
    assert heard(where="energy", clip_s=7.0) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_one_clear_error_and_no_hang(songs):
    """Torch raises from its signal handler, maybe where it was opening a file of its own, which then stays open."""
    feed = batches(make(songs, workers=1, prefetch=1), 0, 10_000)
    next(feed)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    time.sleep(0.5)  # until it is idle: killed within torch's own lock it would leave the parent waiting
    began = time.monotonic()
    said = r"a process that decodes recordings failed: .*--resume"
    with pytest.raises(UserError, match=said), worker_errors():  # noqa: PT012
        os.kill(worker.pid, signal.SIGKILL)  # torch may raise right here, from its signal handler
        for _ in feed:
            pass
    assert time.monotonic() - began < 30


def test_workers_outlive_the_signals_that_stop_a_run(songs):
    feed = batches(make(songs, workers=2), 0, 40)
    next(feed)
    next(feed)  # one of each worker: both have begun
    workers = multiprocessing.active_children()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, name)
    assert len(list(feed)) == 38
    assert len(workers) == 2


def test_a_worker_whose_parent_died_while_it_started_ends_at_once():
    """Torch would take whoever adopted it for its parent, and wait for work for ever."""
    pid = os.fork()
    if pid == 0:
        _prepare_worker(os.getppid() + 1, 0)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


@pytest.mark.parametrize("hangs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_closing_the_feed_leaves_no_process_behind(songs, hangs):
    feed = batches(make(songs, workers=2), 0, 10_000)
    next(feed)
    workers = multiprocessing.active_children()
    if hangs:
        os.kill(workers[0].pid or 0, signal.SIGSTOP)
    feed.close()
    time.sleep(0.1)
    assert not any(worker.is_alive() for worker in workers)


def test_the_global_generator_of_torch_is_left_alone(songs):
    before = torch.get_rng_state()
    list(batches(make(songs), 0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_stays_constant(songs):
    clips = make(songs, batch_size=8)

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for number in range(20):
        clips.batch(number)
    before = resident()
    for number in range(20, 100):
        clips.batch(number)
    assert resident() - before < 3e6


@pytest.mark.parametrize(
    "settings", [{"clip_s": 0.0}, {"workers": -1}, {"prefetch": 0}, {"max_refused": 1.0}, {"max_refused": -0.1}]
)
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(ValueError, match="need clip_s > 0"):
        LoaderConfig(**settings)


def test_pinned_memory_without_a_gpu_is_refused(songs):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="leave it False"):
        next(batches(make(songs, pin_memory=True), 0, 1))


def write_table(folder, rows, name="table.csv"):
    """A manifest beside the songs, with a header taken from the first row."""
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    (folder / name).write_text("\n".join(lines))
    return folder / name


def test_several_labels_of_a_row_are_all_there(songs):
    rows = [{"path": f"{i:03d}.wav", "labels": labels} for i, labels in enumerate(("a;b", "c", "", "b; a", "a"))]
    clips = make(write_table(songs.parent, rows, "multi.csv"), batch_size=20)
    assert clips.classes == ["a", "b", "c"]
    wanted = [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0]]
    batch = clips.batch(0)
    for recording, label, labels in zip(batch.recording.tolist(), batch.label.tolist(), batch.labels, strict=True):
        assert labels.int().tolist() == wanted[recording]
        assert label == (-1 if recording in (0, 2, 3) else labels.int().argmax())


def test_classes_come_equally_often_when_asked(songs):
    labels = ["common"] * 6 + ["rare"] + [""]
    rows = [{"path": f"{i:03d}.wav", "label": label} for i, label in enumerate(labels)]
    clips = make(write_table(songs.parent, rows, "unequal.csv"), batch_size=12, draw="class")
    batch = clips.batch(0)  # one epoch
    assert batch.label.bincount().tolist() == [6, 6]
    assert balanced_visits([["a"], ["a"], ["a", "b"], []]) == [1, 1, 3, 0]
    with pytest.raises(UsageError, match="needs labels"):
        balanced_visits([[], []])


def test_segments_are_examples_of_their_own(songs):
    rows = [
        {"path": "000.wav", "label": "x", "onset_s": 0.0, "offset_s": 0.2},
        {"path": "000.wav", "label": "y", "onset_s": 0.2, "offset_s": 0.4},
    ]
    table = write_table(songs.parent, rows, "segments.csv")
    assert make(table).n_recordings == 1
    clips = make(table, examples="segments", batch_size=4, clip_s=0.1)
    assert clips.n_recordings == 2
    assert sorted(clips.batch(0).label.tolist()) == [0, 0, 1, 1]  # twice 0.1 s each, an epoch


def test_processes_share_a_batch_clip_by_clip(songs):
    whole = make(songs, batch_size=6)
    parts = [make(songs, batch_size=6, rank=rank, world=3) for rank in range(3)]
    for number in (0, 1, 5):
        joined = [part.batch(number) for part in parts]
        for name in ("clips", "label", "labels", "recording"):
            together = torch.cat([getattr(batch, name) for batch in joined])
            assert torch.equal(together, getattr(whole.batch(number), name))
        assert sum((batch.refused for batch in joined), ()) == whole.batch(number).refused
    with pytest.raises(ValueError, match="batch_size=6 clips must be a multiple of the 4 processes"):
        make(songs, batch_size=6, world=4)
