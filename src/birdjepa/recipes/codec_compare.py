"""Codecs beside each other: what `birdjepa codec eval --out` found of each on the same recordings."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.core.errors import UsageError
from birdjepa.report.codec_comparison import SPEECH, Rated

SHARED = ("n", "max_s", "seed")
"""Settings that decide what is judged."""


class Evaluations(NamedTuple):
    """What was read."""

    rows: list[Rated]
    """By nominal rate, the cheapest first."""
    described: dict[str, Any]
    """data, n_recordings, seconds, origin."""


def read_evaluations(paths: Sequence[Path]) -> Evaluations:
    """The evaluations in some files; codecs are called what their files are called.

    Raises:
      UsageError: naming a file that is no evaluation, or was made on other recordings than the first.
    """
    if not paths:
        raise UsageError("name the files that birdjepa codec eval CODEC DATA --out FILE has written")
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: is named twice")
    found = [_read(path) for path in paths]
    for path, other in zip(paths[1:], found[1:], strict=True):
        _require_same(paths[0], found[0], path, other)
    rows = [_rated(path, name, each) for path, name, each in zip(paths, _names(paths), found, strict=True)]
    first = found[0]
    described = {
        "data": first["data"]["name"],
        "n_recordings": first["n_recordings"],
        "seconds": first["seconds"],
        "origin": _origin(found),
    }
    return Evaluations(sorted(rows, key=lambda row: (row.nominal_bit_s, row.name)), described)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    wanted = ("codec", "data", "settings", "rates", "means", "codec_minus_floor", "usage", "speed", "recordings")
    missing = [key for key in wanted if not isinstance(found, dict) or key not in found]
    if missing:
        raise UsageError(
            f"{path}: no evaluation of a codec (no {missing[0]}); birdjepa codec eval CODEC DATA --out FILE writes one"
        )
    return found


def _require_same(first: Path, one: dict[str, Any], path: Path, other: dict[str, Any]) -> None:
    """The same recordings, as much of each."""
    again = "evaluate both on the same recordings"
    if one["data"]["fingerprint"] != other["data"]["fingerprint"]:
        raise UsageError(
            f"{path}: judged on other data ({other['data']['name']}, {other['data']['fingerprint']}) than {first} "
            f"({one['data']['name']}, {one['data']['fingerprint']}); {again}"
        )
    for name in SHARED:
        if one["settings"].get(name) != other["settings"].get(name):
            raise UsageError(
                f"{path}: --{name.replace('_', '-')} was {other['settings'].get(name)}, and in {first} "
                f"{one['settings'].get(name)}; {again}"
            )
    heard = [{row["path"] for row in each["recordings"]} for each in (one, other)]
    if heard[0] != heard[1]:
        raise UsageError(
            f"{path}: {len(heard[0] ^ heard[1])} recordings were judged either there or in {first}, such as "
            f"{min(heard[0] ^ heard[1])}: some were refused; {again}"
        )


def _rated(path: Path, name: str, found: dict[str, Any]) -> Rated:
    try:
        codec, floor = found["means"]["codec"], found["means"]["griffin_lim"]
        rates = found["rates"]
        return Rated(
            name=name,
            sampling_rate=int(found["codec"]["sampling_rate"]),
            frame_hz=float(rates["frame_hz"]),
            tokens_per_s=float(rates["tokens_per_s"]),
            nominal_bit_s=float(rates["nominal_bit_s"]),
            entropy_bit_s=float(found["usage"]["entropy_bit_s"]),
            mel=_estimate(codec["mel"]),
            floor=_estimate(floor["mel"]),
            lead=_estimate(found["codec_minus_floor"]["griffin_lim"]["mel"]),
            si_sdr_db=_estimate(codec["si_sdr_db"]),
            speech={each: _estimate(codec[each]) for each in SPEECH if each in codec},
            encode_speed=float(found["speed"]["encode_x_real_time"]),
            decode_speed=float(found["speed"]["decode_x_real_time"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged: {type(error).__name__} at {error}; evaluate the codec again") from None


def _estimate(value: dict[str, Any]) -> Estimate:
    low, high = (math.nan if value[key] is None else float(value[key]) for key in ("low", "high"))
    return Estimate(float(value["value"]), low, high)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest that tell the files apart: eval.json of two folders are told apart by their folders."""
    for name_of in (lambda path: path.stem, lambda path: path.resolve().parent.name):
        names = [name_of(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _origin(found: Sequence[dict[str, Any]]) -> str:
    """Which code judged, and on what machines."""
    told = []
    for each in found:
        origin = each.get("provenance") or {}
        told.append(
            f"birdjepa {origin.get('birdjepa', '')} {origin.get('commit', '')}, {origin.get('cpu', '')}".strip()
        )
    return "; ".join(dict.fromkeys(told))
