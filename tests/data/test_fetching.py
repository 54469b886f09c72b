"""Fetching: paced, repeated where it may help, whole files or none. The clock is false, the server is real."""

import email.utils
import threading
import time

import pytest
from tiny_sets import reply, serving

from birdjepa.core.errors import Unreachable
from birdjepa.data import fetching
from birdjepa.data.fetching import Answered, Fetcher


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fetcher(clock):
    return Fetcher(interval_s=1.0, agent="tests", timeout_s=5.0, clock=lambda: clock.now, sleep=clock.sleep)


class Server:
    """Gives one answer after the other, the last for ever; knows when and what was asked."""

    def __init__(self, clock, *answers):
        self.clock, self.answers, self.times, self.asked = clock, list(answers), [], []
        self.lock = threading.Lock()

    def __call__(self, request):
        with self.lock:
            self.times.append(self.clock.now)
            self.asked.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer(request)


def ok(request):
    reply(request, b'{"a": 1}')


def status(code, **headers):
    return lambda request: reply(
        request, b'{"message": "no"}', code, {n.replace("_", "-"): v for n, v in headers.items()}
    )


def cut(request):
    reply(request, b'{"a": ', announced=1000)
    request.close_connection = True


def reset(request):
    request.connection.close()


def test_requests_are_a_second_apart_whatever_they_ask_for(clock, fetcher, tmp_path):
    server = Server(clock, ok)
    with serving(server) as url:
        for number in range(3):
            assert fetcher.json(url) == {"a": 1}
            fetcher.file(url, tmp_path / str(number))
        clock.now += 0.25
        fetcher.json(url)
        clock.now += 50
        fetcher.json(url)
    assert server.times == [100, 101, 102, 103, 104, 105, 106, 156]
    assert server.asked[0].headers["User-Agent"] == "tests"


def test_retry_after_is_heeded_in_both_forms(clock, fetcher):
    server = Server(clock, status(429, Retry_After="17"), status(503, Retry_After="0"), ok)
    with serving(server) as url:
        assert fetcher.json(url) == {"a": 1}
    assert server.times == [100, 117, 118]
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    server = Server(clock, status(429, Retry_After=later), ok)
    with serving(server) as url:
        fetcher.json(url)
    assert 25 < server.times[1] - server.times[0] <= 31


def test_waits_grow_and_tries_end(clock, fetcher):
    server = Server(clock, status(500))
    with serving(server) as url, pytest.raises(Unreachable, match=r"HTTP 500, 6 times; start the same command again"):
        fetcher.json(url)
    assert len(server.times) == fetching.ATTEMPTS == 6
    own = [wait for wait in clock.slept if wait > 1]
    assert len(own) == 5
    assert all(0.75 * 2**n <= wait <= 1.25 * 2**n for n, wait in enumerate(own, start=1))
    assert all(0.75 * 120 <= fetching._own_wait(20) <= 1.25 * 120 for _ in range(20))


def test_a_server_that_asks_for_a_day_is_not_waited_for(clock, fetcher):
    with serving(Server(clock, status(429, Retry_After="86400"))) as url, pytest.raises(Unreachable, match="86400 s"):
        fetcher.json(url)
    assert clock.slept == []


@pytest.mark.parametrize("broken", [cut, reset, lambda request: reply(request, b"<html>down</html>")])
def test_broken_answers_are_asked_for_again(broken, clock, fetcher):
    server = Server(clock, broken, broken, ok)
    with serving(server) as url:
        assert fetcher.json(url) == {"a": 1}
    assert len(server.times) == 3


def test_nobody_listens(clock, fetcher):
    with serving(ok) as url:
        pass
    with pytest.raises(Unreachable, match="refused, 6 times"):
        fetcher.json(url)


def test_a_file_is_whole_or_absent(clock, fetcher, tmp_path):
    with serving(Server(clock, cut, reset, ok)) as url:
        fetcher.file(url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b'{"a": 1}'
    with serving(Server(clock, cut)) as url, pytest.raises(Unreachable, match="ended after 6 of 1,000 bytes"):
        fetcher.file(url, tmp_path / "y")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_does_not_pass_is_not_repeated(clock, fetcher):
    server = Server(clock, status(404))
    with serving(server) as url, pytest.raises(Answered) as told:
        fetcher.json(url)
    assert (told.value.status, told.value.body) == (404, '{"message": "no"}')
    assert len(server.times) == 1
    with pytest.raises(Answered):
        fetcher.json("file:///etc/hostname")


def test_messages_keep_the_key_to_themselves(clock, fetcher):
    with serving(Server(clock, status(500))) as url, pytest.raises(Unreachable) as told:
        fetcher.json(f"{url}/recordings?query=x&key=secret")
    assert "secret" not in str(told.value)
    assert "/recordings:" in str(told.value)
