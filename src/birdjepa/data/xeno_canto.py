"""Xeno-Canto: the recordings of a query, with their licences and recordists, into a folder and its manifest.

The query is answered page by page by version 3 of the site's API, which needs a key that every member has. What it
lists is saved before the first recording is fetched, so that a run that was stopped goes on with the same list; a list
that was finished is asked for again, and what is there already is not fetched twice. Recordings become XC{id} with the
suffix of what they are, told from their content: a web page that came instead of a recording is refused.

Recordings under a licence without derivatives (ND) are left out unless asked for: a network trained on them may be one.

Source: https://xeno-canto.org/explore/api (version 3).
"""

import dataclasses
import json
import os
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from birdjepa import __version__
from birdjepa.audio import containers
from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.core import failures, files
from birdjepa.core.errors import Unreachable, UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.fetching import Answered, Fetcher

ENDPOINT = "https://xeno-canto.org/api/3/recordings"
LISTING = "listing.json"
KEPT_FIELDS = (
    *("id", "gen", "sp", "ssp", "en", "rec", "cnt", "loc", "lat", "lon", "alt", "type", "sex", "stage", "method"),
    *("url", "file", "lic", "q", "length", "time", "date", "also"),
)
FREE = ("cc0", "by", "by-sa", "by-nc", "by-nc-sa")
"""Licences that allow what a training run does with a recording, for non-commercial use at least."""
_SUFFIX = {"wav": ".wav", "w64": ".w64", "flac": ".flac", "ogg": ".ogg", "mp3": ".mp3", "aiff": ".aiff"}
_SUFFIX |= {"caf": ".caf", "au": ".au"}
_SAVE_EVERY = 50
"""Recordings after which the manifest is written again."""
_MANY_FAILURES = 10
"""So many in a row end the run: the server is down, or does not want us."""

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class XenoCantoConfig:
    """Which recordings, and how politely."""

    query: str
    """In the site's tags, for example 'gen:larus area:europe q:A len:5-60'."""
    licences: tuple[str, ...] = FREE
    """Licences that are fetched (by-nc-nd and by-nd are not, unless named here)."""
    max_recordings: int | None = None
    """Only the first so many that the site lists under these licences."""
    also: bool = False
    """Put the background species that recordists noted into `labels`, beside the recorded one."""
    interval_s: float = 1.0
    """Shortest time between two requests in seconds; the site allows one a second."""
    endpoint: str = ENDPOINT

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise ValueError("the query is empty; for example --query 'gen:larus area:europe'")
        if self.max_recordings is not None and self.max_recordings < 1:
            raise ValueError(f"max_recordings must be at least 1, got {self.max_recordings}")
        if self.interval_s < 1 and (urllib.parse.urlsplit(self.endpoint).hostname or "").endswith("xeno-canto.org"):
            raise ValueError(f"xeno-canto.org allows one request a second, got interval_s={self.interval_s:g}")


class Fetched(NamedTuple):
    """What a run left in its folder."""

    manifest: Path
    n_recordings: int
    refused: Sequence[Failure]
    """Recordings that could not be fetched; also in failures.csv."""
    left_out: Mapping[str, int]
    """Recordings of the query by the licence that kept them out."""


def fetch(folder: Path, config: XenoCantoConfig, *, key: str, fetcher: Fetcher, say: Say) -> Fetched:
    """Fetches what is not in the folder yet, and writes manifest.csv and, if there are any, failures.csv.

    Raises:
      UsageError: if the folder holds another query, or the site refuses the query or the key.
      Unreachable: if the site does not answer; what was fetched is kept, and the same command goes on.
    """
    with files.alone_in(folder, "fetching"):
        return _fetch(folder, config, key, fetcher, say)


def _fetch(folder: Path, config: XenoCantoConfig, key: str, fetcher: Fetcher, say: Say) -> Fetched:
    listed, left_out = _listing(folder, config, key, fetcher, say)
    there = {path.stem: path for path in folder.glob("XC*") if path.suffix in AUDIO_SUFFIXES and path.stat().st_size}
    waiting = [each for each in listed if _name(each) not in there]
    at_least = f", which takes {len(waiting) * config.interval_s / 60:.0f} minutes or more" if len(waiting) > 60 else ""
    n_here = len(listed) - len(waiting)
    say(f"{len(listed):,} recordings, {n_here:,} of them here; fetching {len(waiting):,}{at_least}")
    hopeless = _hopeless(folder)
    refused: list[Failure] = []
    in_a_row = 0
    try:
        for number, recording in enumerate(waiting, start=1):
            name = _name(recording)
            reason = hopeless.get(name) or _fetch_one(folder, recording, config, fetcher, there)
            if reason:
                refused.append(Failure(name, "fetch", 0.0, reason))
            in_a_row = in_a_row + 1 if reason.startswith("server:") else 0
            if in_a_row == _MANY_FAILURES:
                raise Unreachable(f"{in_a_row} recordings in a row could not be fetched ({reason}); start again later")
            if number % _SAVE_EVERY == 0:
                _write(folder, listed, there, config)
                say(f"{number:,} of {len(waiting):,} asked for, {len(refused):,} refused")
    finally:
        manifest, n_recordings = _write(folder, listed, there, config)
        if refused or (folder / failures.NAME).exists():
            failures.write(folder / failures.NAME, refused)
    files.write_json(folder / LISTING, {**json.loads((folder / LISTING).read_text()), "finished": True})
    return Fetched(manifest, n_recordings, refused, left_out)


def licence(url: str) -> tuple[str, str]:
    """Licence and version of a Creative Commons address: ("by-nc-sa", "4.0"); ("", "") for what is none."""
    found = re.search(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)", url or "")
    if not found:
        return "", ""
    kind, name, version = found.groups()
    return ({"zero": "cc0", "mark": "pdm"}.get(name, name) if kind == "publicdomain" else name), version


def _listing(
    folder: Path, config: XenoCantoConfig, key: str, fetcher: Fetcher, say: Say
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """What to fetch: the list of a run that was stopped, or a new one."""
    asked = {
        "query": config.query,
        "endpoint": config.endpoint,
        "licences": list(config.licences),
        "max_recordings": config.max_recordings,
    }
    path = folder / LISTING
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["asked"]["query"] != config.query:
            raise UsageError(f"{folder} holds the query {saved['asked']['query']!r}: name another folder with --out")
        if saved["asked"] == asked and not saved["finished"]:
            say("going on with the list of a run that was stopped")
            return saved["recordings"], Counter(saved["left_out"])
    listed, left_out = _ask(config, key, fetcher, say)
    out = ", ".join(f"{count:,} {name or 'unknown'}" for name, count in left_out.most_common())
    if out:
        say(f"left out for their licence: {out}; --licences names those to fetch")
    files.write_json(path, {"asked": asked, "finished": False, "left_out": left_out, "recordings": listed})
    return listed, left_out


def _ask(config: XenoCantoConfig, key: str, fetcher: Fetcher, say: Say) -> tuple[list[dict[str, Any]], Counter[str]]:
    """All pages of the query, or as many as max_recordings needs."""
    listed: dict[str, dict[str, Any]] = {}
    left_out: Counter[str] = Counter()
    page, n_pages = 1, 1
    while page <= n_pages:
        found = _page(config, key, page, fetcher)
        if page == 1:
            say(f"the query has {found.get('numRecordings', '?')} recordings of {found.get('numSpecies', '?')} species")
        n_pages = int(found.get("numPages") or 0)
        for recording in found.get("recordings") or ():
            number, (name, _) = str(recording.get("id", "")), licence(str(recording.get("lic")))
            if number.isascii() and number.isdigit() and number not in listed:
                if name in config.licences:
                    listed[number] = {field: recording.get(field) for field in KEPT_FIELDS}
                else:
                    left_out[name] += 1
        if config.max_recordings and len(listed) >= config.max_recordings:
            break
        page += 1
    if not listed:
        raise UsageError(f"no recordings to fetch for {config.query!r}{' under these licences' * bool(left_out)}")
    return list(listed.values())[: config.max_recordings], left_out


def _page(config: XenoCantoConfig, key: str, page: int, fetcher: Fetcher) -> dict[str, Any]:
    asked = urllib.parse.urlencode({"query": config.query, "per_page": 500, "page": page, "key": key})
    try:
        found = fetcher.json(f"{config.endpoint}?{asked}")
    except Answered as answer:
        message = _message(answer.body)
        if answer.status in (401, 403) or re.search(r"\bkey\b", message):
            raise UsageError(
                f"xeno-canto refuses the key (HTTP {answer.status}: {message}); members find theirs at "
                "https://xeno-canto.org/account: set XENO_CANTO_KEY, or give --key"
            ) from None
        raise UsageError(f"xeno-canto refuses the query {config.query!r} (HTTP {answer.status}: {message})") from None
    if not isinstance(found, dict) or "error" in found:
        message = found.get("message", "") if isinstance(found, dict) else "an answer of another form"
        raise UsageError(f"xeno-canto refuses the query {config.query!r} ({message})")
    return found


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"


def _fetch_one(
    folder: Path, recording: Mapping[str, Any], config: XenoCantoConfig, fetcher: Fetcher, there: dict[str, Path]
) -> str:
    """Fetches a recording; returns why it was refused, or an empty string."""
    name, url = _name(recording), str(recording.get("file") or "")
    if not url:
        return "restricted: xeno-canto gives no file, as for species that disturbance threatens"
    raw = folder / f".{name}.tmp"
    try:
        fetcher.file(urllib.parse.urljoin(config.endpoint, url), raw)
        with raw.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            container = containers.recognise(lambda offset, n: os.pread(file.fileno(), n, offset), size)
        path = folder / f"{name}{_SUFFIX[container.name]}"
        raw.replace(path)
        there[name] = path
    except containers.Refused as refusal:
        return str(refusal)
    except Answered as answer:
        kind = "gone" if answer.status in (404, 410) else "server"
        return f"{kind}: HTTP {answer.status}" if answer.status else answer.body
    except Unreachable as error:
        return f"server: {error}"
    finally:
        raw.unlink(missing_ok=True)
    return ""


def _hopeless(folder: Path) -> dict[str, str]:
    """Recordings that an earlier run found to be of no kind that is read here; they are not fetched again."""
    listed = failures.read(folder / failures.NAME)
    return {each.path: each.reason for each in listed if each.reason.startswith("unsupported:")}


def _name(recording: Mapping[str, Any]) -> str:
    return f"XC{recording['id']}"


def _write(
    folder: Path, listed: Sequence[Mapping[str, Any]], there: Mapping[str, Path], config: XenoCantoConfig
) -> tuple[Path, int]:
    """The manifest of those that are there, in the order of the list."""
    rows = [_row(each, there[_name(each)].name, also=config.also) for each in listed if _name(each) in there]
    header = tuple(rows[0]) if rows else ("path", "label")
    files.write_csv(folder / "manifest.csv", header, rows)
    return folder / "manifest.csv", len(rows)


def _row(recording: Mapping[str, Any], path: str, *, also: bool) -> dict[str, str]:
    def text(field: str) -> str:
        return " ".join(str(recording.get(field) or "").split())

    species = f"{text('gen')} {text('sp')}".strip()
    background = [" ".join(str(each).split()) for each in recording.get("also") or () if each] if also else []
    name, version = licence(str(recording.get("lic")))
    page = f"xeno-canto.org/{recording['id']}"
    deed = "CC0" if name == "cc0" else f"CC {name.upper()} {version}"
    return {
        "path": path,
        "label": species,
        "labels": ";".join(dict.fromkeys((species, *background))),
        "group": "|".join((text("rec"), text("date"), text("loc"))),
        **{column: text(field) for column, field in _COLUMNS.items()},
        "licence": f"{name} {version}".strip(),
        "url": f"https://{page}",
        "attribution": f"{text('rec')}, {_name(recording)}. Accessible at www.{page} ({deed}).",
    }


_COLUMNS = {
    "subspecies": "ssp",
    "english": "en",
    "type": "type",
    "sex": "sex",
    "stage": "stage",
    "method": "method",
    "quality": "q",
    "length": "length",
    "recordist": "rec",
    "country": "cnt",
    "location": "loc",
    "lat": "lat",
    "lon": "lon",
    "altitude": "alt",
    "date": "date",
    "time": "time",
}
"""Column of the manifest -> field of the API."""


def agent() -> str:
    """How our requests name themselves."""
    return f"birdjepa/{__version__} (data fetch xeno-canto)"
