"""The cache of shards: whole files or none, whatever the network, other processes and kills do."""

import hashlib
import multiprocessing
import os
import signal
import threading
import time

import pytest

from birdjepa.core.errors import EXIT_REQUEUE, StorageError, Unreachable, UsageError
from birdjepa.data import hub_cache, hub_http
from birdjepa.data.hub import find, parse
from birdjepa.data.hub_cache import fetch, make_room
from tests.hub_server import environment, serving

N_SHARDS, SIZE = 6, 300_000
FORKED = multiprocessing.get_context("fork")


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving() as running:
        data = {f"train-{n}.tar": os.urandom(SIZE) for n in range(N_SHARDS)}
        running.files["me/x"] = {**data, "small.tar": b"small"}
        for name, value in environment(running, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=4, base_s=0.01, stall_s=0.3))
        monkeypatch.setattr(hub_cache, "_POLL_S", 0.01)
        yield running


def shard(number=0, path=None):
    return find(parse("hub:me/x")).file(path or f"train-{number}.tar")


def is_whole(server, file):
    return file.path.read_bytes() == server.files["me/x"][file.name.removeprefix("hub:me/x/")]


def left_over(file):
    return sorted(path.name for path in file.path.parent.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(
    "fault", [*("429", "500", "503", "408", "404"), *("reset", "short", "long", "wrong", "stall", "html")]
)
def test_a_fault_is_outlived(server, fault):
    """At the place that files really come from, where even a 404 may pass: its leases run out."""
    file = shard()
    server.faults["cdn"] += [fault, fault]
    assert file.local() == file.path
    assert is_whole(server, file)
    assert left_over(file) == []
    assert server.count("cdn") == 3


@pytest.mark.parametrize("fault", ["429", "502", "html", "loop"])
def test_a_fault_of_the_hub_itself_is_outlived(server, fault):
    server.faults["api"] += [fault, fault]
    file = shard()
    server.faults["resolve"] += [fault] * 2 if fault != "html" else []
    assert file.local()
    assert is_whole(server, file)


def test_a_broken_transfer_goes_on_where_it_ended(server):
    server.faults["cdn"] += ["reset", "stall"]
    file = shard()
    assert file.local()
    assert is_whole(server, file)
    first, second, third = server.ranges
    assert first == ""
    assert 0 < int(second[6:-1]) < int(third[6:-1]) < SIZE
    assert server.sent < 1.5 * SIZE
    assert left_over(file) == []


@pytest.mark.parametrize("fault", ["500", "429", "reset", "short", "stall", "wrong", "loop"])
def test_giving_up_takes_bounded_time_and_asks_to_come_back(server, fault):
    file = shard(path="small.tar")
    server.always["resolve" if fault == "loop" else "cdn"] = fault
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"^hub:me/x/small\.tar: given up after 4 attempts \(.+\); it may") as caught:
        file.local()
    assert time.monotonic() - began < 5
    assert caught.value.exit_code == EXIT_REQUEUE == 75
    assert not file.path.exists()
    assert left_over(file) == []


def test_what_does_not_answer_at_all_is_given_up(server, monkeypatch):
    file = shard()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="ConnectError"):
        find(parse("hub:me/x"))
    assert file.local().exists()  # its address was found before


def test_a_wrong_hash_is_never_cached(server):
    file = shard()
    server.faults["cdn"] += ["wrong"] * 4
    with pytest.raises(Unreachable, match="not what the Hub says it is"):
        file.local()
    assert not file.path.exists()
    assert file.local()
    assert is_whole(server, file)


def test_small_files_are_checked_as_git_does(server):
    file = shard(path="small.tar")
    assert file.digest.startswith("git:")
    server.faults["cdn"] += ["wrong"]
    assert file.local().read_bytes() == b"small"
    assert server.count("cdn") == 2


def test_the_server_s_wish_to_wait_is_heeded(server, monkeypatch):
    server.faults["cdn"] += ["429 1"]
    began = time.monotonic()
    shard().local()
    assert time.monotonic() - began >= 1
    waits = [hub_http._wait_s(failures, 0.0) for failures in (1, 2, 3, 99)]
    assert all(hub_http.PATIENCE.base_s * 2**n / 2 <= wait for n, wait in enumerate(waits[:3]))
    assert max(waits) <= hub_http.PATIENCE.most_s
    assert hub_http._wait_s(1, 1e9) < 301
    assert hub_http._retry_after_s({"ratelimit": '"api";r=0;t=55'}) == 55
    assert hub_http._retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert hub_http._retry_after_s({"retry-after": "soon"}) == 0


def _fetch_all(order, results):
    try:
        results.put([hashlib.sha256(shard(number).local().read_bytes()).hexdigest() for number in order])
    except BaseException as error:
        results.put(repr(error))


def test_processes_on_an_empty_cache_share_the_work_and_corrupt_nothing(server):
    """Nothing here asks for a lock, so nothing depends on what a file system's locks do."""
    server.delay_s = 0.02
    shard()
    results = FORKED.SimpleQueue()
    orders = [[(n + process) % N_SHARDS for n in range(N_SHARDS)] for process in range(8)]
    children = [FORKED.Process(target=_fetch_all, args=(order, results)) for order in orders]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    wanted = [hashlib.sha256(server.files["me/x"][f"train-{n}.tar"]).hexdigest() for n in range(N_SHARDS)]
    assert all(sorted(each) == sorted(wanted) for each in found), found
    assert all(is_whole(server, shard(number)) for number in range(N_SHARDS))
    assert left_over(shard()) == []
    assert len(server.downloads()) <= N_SHARDS + 8


def test_a_process_killed_in_the_middle_leaves_nothing_that_is_taken_for_whole(server, monkeypatch):
    file = shard()
    server.faults["cdn"] += ["stall"]
    monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(stall_s=30.0))
    child = FORKED.Process(target=file.local)
    child.start()
    while server.sent == 0 or not left_over(file):
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert len(left_over(file)) == 1
    assert not file.path.exists()
    assert file.local()  # it is known to have ended, or everyone would wait for it
    assert is_whole(server, file)
    assert left_over(file) == []


def test_what_another_machine_left_half_written_is_waited_for_a_while_and_then_removed(server, monkeypatch):
    file = shard()
    file.path.parent.mkdir(parents=True)
    left = file.path.with_name(f".{file.path.name}.00-0.elsewhere-1.part")
    left.write_bytes(b"half")
    monkeypatch.setattr(hub_cache, "ALIVE_S", 0.3)
    began = time.monotonic()
    assert file.local()
    assert time.monotonic() - began > 0.2
    assert is_whole(server, file)
    monkeypatch.setattr(hub_cache, "STALE_S", 0.2)
    make_room(file.cache)
    assert left_over(file) == []
    assert is_whole(server, file)


def test_a_half_written_file_that_others_removed_is_written_again(server, monkeypatch):
    """By one who found it abandoned, while this process was stopped."""
    file = shard()
    replace = hub_cache.Path.replace

    def too_late(part, target):
        part.unlink()
        monkeypatch.setattr(hub_cache.Path, "replace", replace)
        return replace(part, target)

    monkeypatch.setattr(hub_cache.Path, "replace", too_late)
    assert file.local() == file.path
    assert is_whole(server, file)
    assert len(server.downloads()) == 2


@pytest.fixture
def hasty(monkeypatch):
    """What was used a moment ago may go at once."""
    monkeypatch.setattr(hub_cache, "JUST_USED_S", -1.0)


def held(file):
    return sorted(path.name for path in file.path.parent.glob("*.tar"))


def test_more_than_the_cache_holds_streams_through_it(server, monkeypatch, hasty):
    monkeypatch.setenv(hub_cache.LIMIT, str(2.5 * SIZE / 1e9))
    for number in [*range(N_SHARDS), *range(N_SHARDS)]:
        assert shard(number).local()
        assert is_whole(server, shard(number))
        assert len(held(shard())) <= 2
    assert len(server.downloads()) == 2 * N_SHARDS


def test_what_comes_at_the_same_time_stays_within_the_limit_too(server, monkeypatch, hasty):
    """Who makes room counts the others as half-written, and must have its name before the next one counts."""
    monkeypatch.setenv(hub_cache.LIMIT, str(2.5 * SIZE / 1e9))

    def slowly(cache):
        enough = make_room(cache)
        time.sleep(0.1)
        return enough

    monkeypatch.setattr(hub_cache, "make_room", slowly)
    threads = [threading.Thread(target=shard(number).local) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held(shard())) <= 2


def test_the_shard_that_was_used_longest_ago_goes(server, monkeypatch, hasty):
    monkeypatch.setenv(hub_cache.LIMIT, str(3.5 * SIZE / 1e9))
    for number in (0, 1, 2, 0, 3):
        shard(number).local()
        time.sleep(0.01)
    assert held(shard()) == ["train-0.tar", "train-2.tar", "train-3.tar"]


def test_a_shard_in_use_stays_and_is_not_sacrificed_to_what_is_fetched_ahead(server, monkeypatch):
    monkeypatch.setenv(hub_cache.LIMIT, str(1.5 * SIZE / 1e9))
    shard(0).local()
    assert fetch(shard(1), only_if_room=True) is None
    assert held(shard()) == ["train-0.tar"]
    shard(1).local()  # the limit gives way before the run does
    assert held(shard()) == ["train-0.tar", "train-1.tar"]


def test_fetching_ahead_saves_the_wait_and_hides_no_error(server):
    server.delay_s = 0.15
    files = [shard(number) for number in range(3)]
    assert [file.prefetch() for file in files] == [True] * 3
    assert not files[0].path.exists()
    time.sleep(0.8)
    assert [file.prefetch() for file in files] == [False] * 3
    assert len(server.downloads()) == 3
    server.delay_s = 0
    server.always["cdn"] = "500"
    shard(4).prefetch()
    with pytest.raises(Unreachable):
        shard(4).local()
    server.always.clear()
    shard(5).prefetch()
    assert shard(5).local()
    assert is_whole(server, shard(5))
    assert server.downloads().count("/cdn/me/x/train-5.tar") == 1


def test_a_full_disk_is_one_line(server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "disk")

    file = shard()
    monkeypatch.setattr(hub_cache.os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left.*HF_HOME.*BIRDJEPA_CACHE_GB"):
        file.local()
    assert left_over(file) == []


def test_a_cache_that_may_only_be_read_is_read(server, monkeypatch):
    file = shard()
    file.local()

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hub_cache.os, "utime", forbidden)
    assert file.local()
    assert is_whole(server, file)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(hub_cache.LIMIT, text)
    with pytest.raises(UsageError, match="BIRDJEPA_CACHE_GB="):
        hub_cache.limit_bytes()
