"""Xeno-Canto: pages, licences, files and stops, against a local server that plays the API."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from tiny_sets import loads, reply, serving, sound

from birdjepa import cli
from birdjepa.core.errors import Unreachable, UsageError
from birdjepa.data.fetching import Fetcher
from birdjepa.data.xeno_canto import FREE, XenoCantoConfig, fetch, licence

KEY = "0123abcd"
LICENCES = ("by-nc-sa", "by-nc-nd", "by", "by-nc-sa", "by-sa")


def recording(number, **changed):
    return {
        "id": str(number),
        "gen": "Larus",
        "sp": "fuscus",
        "ssp": "",
        "grp": "birds",
        "en": "Lesser Black-backed Gull",
        "rec": f"Recordist {number}",
        "cnt": "Spain",
        "loc": "Some, Where",
        "lat": "-42.8",
        "lon": "-8.652",
        "alt": "10",
        "type": "call",
        "sex": "male",
        "stage": "adult",
        "method": "field recording",
        "q": "A",
        "length": "0:10",
        "url": f"//xeno-canto.org/{number}",
        "file": f"/{number}/download",
        "file-name": f"XC{number}.mp3",
        "lic": f"//creativecommons.org/licenses/{LICENCES[number % 5]}/4.0/",
        "time": "08:00",
        "date": "2020-05-01",
        "also": ["Larus argentatus", ""],
        "rmk": "=1+1",
        "sono": {"small": "//x"},
        "smp": "44100",
        **changed,
    }


class Site:
    """The site: a list of recordings on pages of two, and what it does to those who ask for a recording."""

    def __init__(self, recordings, **downloads):
        self.recordings = recordings
        self.downloads = downloads
        self.pages, self.fetched = [], []

    def __call__(self, request):
        path, _, query = request.path.partition("?")
        asked = {name: values[0] for name, values in urllib.parse.parse_qs(query).items()}
        if path == "/api/3/recordings":
            self.page(request, asked)
        else:
            number = path.strip("/").partition("/")[0]
            self.fetched.append(number)
            answer = self.downloads.get(f"XC{number}", lambda request: reply(request, sound(form="MP3")))
            answer(request)

    def page(self, request, asked):
        if asked.get("key") != KEY:
            told = {"error": "client_error", "message": "Missing or invalid 'key' parameter. Visit the account page."}
            return reply(request, json.dumps(told).encode(), 401)
        if ":" not in asked["query"]:
            told = {"error": "client_error", "message": "The query must have tags."}
            return reply(request, json.dumps(told).encode(), 400)
        page = int(asked.get("page", 1))
        self.pages.append(page)
        body = {
            "numRecordings": str(len(self.recordings)),
            "numSpecies": "1",
            "page": page,
            "numPages": -(-len(self.recordings) // 2),
            "recordings": self.recordings[2 * page - 2 : 2 * page],
        }
        return reply(request, json.dumps(body).encode())


def run(site, folder, *, key=KEY, said=None, **settings):
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds

    fetcher = Fetcher(interval_s=1.0, agent="tests", timeout_s=5.0, clock=lambda: clock[0], sleep=sleep)
    with serving(site) as url:
        config = XenoCantoConfig(
            **{"query": "gen:larus area:europe", "endpoint": f"{url}/api/3/recordings", **settings}
        )
        return fetch(folder, config, key=key, fetcher=fetcher, say=(said if said is not None else []).append)


def rows(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_query_becomes_a_manifest(tmp_path):
    site, said = Site([recording(number) for number in range(1, 6)]), []
    found = run(site, tmp_path, said=said)
    assert site.pages == [1, 2, 3]
    assert sorted(site.fetched) == ["2", "3", "4", "5"]
    assert found.left_out == {"by-nc-nd": 1}
    assert "left out for their licence: 1 by-nc-nd; --licences names those to fetch" in said
    assert found.n_recordings == 4
    assert found.refused == []
    manifest, _ = loads(found.manifest)
    assert manifest.keys == ["XC2.mp3", "XC3.mp3", "XC4.mp3", "XC5.mp3"]
    first = rows(tmp_path)[0]
    assert first["label"] == first["labels"] == "Larus fuscus"
    assert first["attribution"] == "Recordist 2, XC2. Accessible at www.xeno-canto.org/2 (CC BY 4.0)."
    assert (first["licence"], first["url"], first["lat"], first["lon"]) == (
        "by 4.0",
        "https://xeno-canto.org/2",
        "-42.8",
        "-8.652",
    )
    assert (first["type"], first["sex"], first["quality"], first["date"]) == ("call", "male", "A", "2020-05-01")
    assert not (tmp_path / "failures.csv").exists()
    assert {path.suffix for path in tmp_path.iterdir()} == {".mp3", ".csv", ".json", ""}


def test_background_species_licences_and_a_limit(tmp_path):
    site = Site([recording(number) for number in range(1, 6)])
    run(site, tmp_path / "a", also=True, licences=("by-nc-nd",))
    assert [row["path"] for row in rows(tmp_path / "a")] == ["XC1.mp3"]
    assert rows(tmp_path / "a")[0]["labels"] == "Larus fuscus;Larus argentatus"
    site.pages.clear()
    run(site, tmp_path / "b", max_recordings=2)
    assert [row["path"] for row in rows(tmp_path / "b")] == ["XC2.mp3", "XC3.mp3"]
    assert site.pages == [1, 2]
    run(site, tmp_path / "b", max_recordings=4)
    assert len(rows(tmp_path / "b")) == 4
    assert sorted(site.fetched) == ["1", "2", "3", "4", "5"]


def test_the_suffix_is_what_the_content_is(tmp_path):
    kinds = {"XC2": "WAV", "XC3": "FLAC", "XC4": "OGG"}
    answers = {name: lambda request, form=form: reply(request, sound(form=form)) for name, form in kinds.items()}
    run(Site([recording(number) for number in range(2, 5)], **answers), tmp_path)
    assert [row["path"] for row in rows(tmp_path)] == ["XC2.wav", "XC3.flac", "XC4.ogg"]


def test_what_cannot_be_used_is_listed_and_mended_by_the_next_run(tmp_path):
    site = Site(
        [recording(number) for number in (2, 3, 4, 5)]
        + [recording(7, file=""), recording(8, file="file:///etc/passwd")],
        XC2=lambda request: reply(request, b"<!DOCTYPE html><title>Please log in</title>"),
        XC3=lambda request: reply(request, b"\0\0\0\x20ftypM4A " + b"\0" * 50),
        XC4=lambda request: reply(request, b"", 404),
        XC5=lambda request: reply(request, b""),
    )
    with pytest.raises(UsageError, match="no recordings to fetch"):
        run(Site([]), tmp_path)
    site.recordings.append(recording(9))
    found = run(site, tmp_path)
    why = {row.path: row.reason.partition(":")[0] for row in found.refused}
    expected = {"XC2": "not audio", "XC3": "unsupported", "XC4": "gone", "XC5": "empty", "XC7": "restricted"}
    assert why == {**expected, "XC8": "not fetched"}
    assert [row["path"] for row in rows(tmp_path)] == ["XC9.mp3"]
    assert "XC4" in (tmp_path / "failures.csv").read_text()
    site.downloads.clear()
    site.fetched.clear()
    assert [row.path for row in run(site, tmp_path).refused] == ["XC3", "XC7", "XC8"]
    assert sorted(site.fetched) == ["2", "4", "5"]


def test_resets_and_busy_servers_are_sat_out(tmp_path):
    moods = [
        lambda request: reply(request, b"", 429, {"Retry-After": "20"}),
        lambda request: reply(request, b"", 500),
        lambda request: reply(request, sound(form="MP3")[:100], announced=5_000),
        lambda request: request.connection.close(),
        lambda request: reply(request, sound(form="MP3")),
    ]
    site = Site([recording(2)], XC2=lambda request: moods.pop(0)(request))
    assert run(site, tmp_path).n_recordings == 1
    assert site.fetched == ["2"] * 5
    assert (tmp_path / "XC2.mp3").read_bytes() == sound(form="MP3")


def test_a_server_that_is_down_ends_the_run_and_keeps_what_is_there(tmp_path):
    down = {f"XC{5 * n + 3}": lambda request: reply(request, b"", 403) for n in range(1, 12)}
    site = Site([recording(2), *(recording(5 * n + 3) for n in range(1, 12))], **down)
    with pytest.raises(Unreachable, match="10 recordings in a row"):
        run(site, tmp_path)
    assert [row["path"] for row in rows(tmp_path)] == ["XC2.mp3"]
    assert len((tmp_path / "failures.csv").read_text().splitlines()) == 11
    site.downloads.clear()
    site.pages.clear()
    assert run(site, tmp_path).n_recordings == 12


def test_wrong_keys_and_queries(tmp_path):
    site = Site([recording(2)])
    with pytest.raises(UsageError, match=r"refuses the key \(HTTP 401: Missing or invalid 'key'.*XENO_CANTO_KEY"):
        run(site, tmp_path / "a", key="wrong")
    with pytest.raises(UsageError, match=r"refuses the query 'gulls' \(HTTP 400: The query must have tags"):
        run(site, tmp_path / "a", query="gulls")
    run(site, tmp_path / "b")
    with pytest.raises(UsageError, match="holds the query 'gen:larus area:europe'"):
        run(site, tmp_path / "b", query="gen:turdus")
    for wrong in ({"query": " "}, {"query": "x", "max_recordings": 0}, {"query": "x", "interval_s": 0.5}):
        with pytest.raises(ValueError, match=r"query is empty|at least 1|one request a second"):
            XenoCantoConfig(**wrong)


def test_an_interrupted_run_goes_on_with_the_same_list(tmp_path, monkeypatch):
    site = Site([recording(number) for number in range(2, 6)])
    real, n_files = Fetcher.file, []

    def interrupted(self, url, path):
        n_files.append(url)
        if len(n_files) == 3:
            raise KeyboardInterrupt
        real(self, url, path)

    monkeypatch.setattr(Fetcher, "file", interrupted)
    with serving(site) as url:
        config = XenoCantoConfig(query="gen:larus", endpoint=f"{url}/api/3/recordings", interval_s=0.0)
        fetcher = Fetcher(interval_s=0.0, agent="tests")
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, config, key=KEY, fetcher=fetcher, say=print)
        assert [row["path"] for row in rows(tmp_path)] == ["XC2.mp3", "XC3.mp3"]
        site.recordings.insert(0, recording(99))
        site.pages.clear()
        assert fetch(tmp_path, config, key=KEY, fetcher=fetcher, say=print).n_recordings == 4
        assert site.pages == []
        assert fetch(tmp_path, config, key=KEY, fetcher=fetcher, say=print).n_recordings == 5
    assert site.fetched == ["2", "3", "4", "5", "99"]


def test_kill_9_and_the_same_command_again(tmp_path, monkeypatch, capsys):
    """A process is killed while it fetches; its leavings are cleared away and nothing is fetched twice."""

    killed = threading.Event()

    def slowly(request):
        reply(request, sound(form="MP3")[:200], announced=len(sound(form="MP3")))
        request.wfile.flush()
        killed.wait(60)

    site = Site([recording(2), recording(3), recording(5)], XC3=slowly)
    with serving(site) as url:
        arguments = ["data", "fetch", "xeno-canto", "--query", "gen:larus", "--out", str(tmp_path / "gulls")]
        arguments += ["--endpoint", f"{url}/api/3/recordings", "--interval-s", "0"]
        code = f"import sys; from birdjepa.cli import main; sys.exit(main({arguments}))"
        source = str(Path(cli.__file__).parents[2])
        started = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "XENO_CANTO_KEY": KEY, "PYTHONPATH": source},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while "3" not in site.fetched and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
        started.send_signal(signal.SIGKILL)
        started.wait()
        killed.set()
        assert (tmp_path / "gulls/XC2.mp3").exists()
        assert not (tmp_path / "gulls/manifest.csv").exists()
        assert list((tmp_path / "gulls").glob(".*.tmp"))
        site.downloads.clear()
        monkeypatch.setenv("XENO_CANTO_KEY", KEY)
        assert cli.main(arguments) == 0
        shown = capsys.readouterr()
        assert shown.out == f"{tmp_path / 'gulls' / 'manifest.csv'}\n"
        assert "going on with the list of a run that was stopped" in shown.err
        assert "3 recordings, 1 of them here; fetching 2" in shown.err
    assert site.fetched == ["2", "3", "3", "5"]
    assert site.pages == [1, 2]
    assert [row["path"] for row in rows(tmp_path / "gulls")] == ["XC2.mp3", "XC3.mp3", "XC5.mp3"]
    assert not list((tmp_path / "gulls").glob(".*.tmp"))


def test_the_verb_needs_a_key_and_tells_failures(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("XENO_CANTO_KEY", raising=False)
    arguments = ["data", "fetch", "xeno-canto", "--query", "gen:larus", "--out", str(tmp_path / "x")]
    assert cli.main(arguments) == 2
    assert "set XENO_CANTO_KEY, or give --key" in capsys.readouterr().err
    assert cli.main(["data", "fetch", "macaulay"]) == 2
    site = Site([recording(2), recording(3)], XC3=lambda request: reply(request, b"<html>", 200))
    with serving(site) as url:
        more = ["--key", KEY, "--endpoint", f"{url}/api/3/recordings", "--interval-s", "0"]
        assert cli.main([*arguments, *more]) == 3
    assert "1 recordings were refused; see" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("//creativecommons.org/licenses/by-nc-nd/4.0/", ("by-nc-nd", "4.0")),
        ("https://creativecommons.org/licenses/by-sa/3.0/", ("by-sa", "3.0")),
        ("//creativecommons.org/publicdomain/zero/1.0/", ("cc0", "1.0")),
        ("//creativecommons.org/publicdomain/mark/1.0/", ("pdm", "1.0")),
        ("all rights reserved", ("", "")),
    ],
)
def test_licences(address, expected):
    assert licence(address) == expected
    assert not any("nd" in name.split("-") for name in FREE)
