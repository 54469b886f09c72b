"""Configuration: frozen dataclasses to JSON and back, their hash, and what differs between two of them.

A JSON configuration is complete: every field is written, unknown or missing ones are refused with a suggestion. Each
dataclass carries its class name as "kind", which tells the members of a union apart and is checked when read.

Fields that were `added` after files had been written are the exception: they are written where they differ from their
default, and missing they have it. What was written before then reads as ever and keeps its hash.
"""

import dataclasses
import difflib
import hashlib
import json
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from birdjepa.core.errors import UsageError

T = TypeVar("T")
_ADDED = "added"


def added(default: T) -> T:
    """A field of a later version: its default does what all did before there was the field."""
    return dataclasses.field(default=default, metadata={_ADDED: True})  # pyright: ignore[reportReturnType]


def to_json(config: Any) -> Any:
    """JSON value of a configuration: dataclasses become objects, tuples lists, paths strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        names = [field.name for field in dataclasses.fields(config) if _says(config, field)]
        return {"kind": type(config).__name__, **{name: to_json(getattr(config, name)) for name in names}}
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    if isinstance(config, Path):
        return str(config)
    return config


def _says(config: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a field is written."""
    return _ADDED not in field.metadata or getattr(config, field.name) != field.default


def from_json(cls: type[T], value: Any, *, where: str = "") -> T:
    """The configuration that to_json wrote.

    Raises:
      UsageError: if a field is unknown, missing, of the wrong type, or outside its limits; the message names it.
    """
    return _parse(cls, value, where or "config")


def one_of_json(kinds: tuple[type[T], ...], value: Any, *, where: str) -> T:
    """As from_json, of whichever of the classes it was: its "kind" says so.

    Raises:
      UsageError: as from_json, or if it is of none of them.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a table of settings, got {value!r}")
    return _parse_union(kinds, value, where)


def overlay(config: T, changes: Mapping[str, Any], *, where: str = "config") -> T:
    """The configuration with nested changes laid over it, as a TOML file gives them.

    A `kind` other than the present one starts from that kind's defaults.

    Raises:
      UsageError: as from_json.
    """
    hints = get_type_hints(type(config))
    values = {}
    for name, value in changes.items():
        if name == "kind" and value == type(config).__name__:
            continue
        if name not in hints:
            raise UsageError(f"{where} has no setting {name!r}{_suggest(name, hints)}")
        old, inside = _of_kind(hints[name], value, getattr(config, name)), f"{where}.{name}"
        kind = type(old).__name__
        nested = dataclasses.is_dataclass(old) and isinstance(value, Mapping) and value.get("kind", kind) == kind
        values[name] = overlay(old, value, where=inside) if nested else _parse(hints[name], value, inside)
    try:
        return dataclasses.replace(config, **values)  # pyright: ignore[reportArgumentType, reportType]
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _of_kind(hint: Any, value: Any, old: Any) -> Any:
    """The old value, or the defaults of the union's member that the new value names."""
    if not isinstance(value, Mapping) or value.get("kind", type(old).__name__) == type(old).__name__:
        return old
    kinds = (kind for kind in get_args(hint) if isinstance(kind, type) and dataclasses.is_dataclass(kind))
    named: dict[str, Any] = {kind.__name__: kind for kind in kinds}
    chosen = named.get(value["kind"])
    if chosen is None or any(_is_required(field) for field in dataclasses.fields(chosen)):
        return old
    return chosen()


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a saved config.json or a TOML file.

    Raises:
      UsageError: if the file is missing or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); give a config.json of a run or a .toml file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a valid {'TOML' if path.suffix == '.toml' else 'JSON'} file: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: holds a {type(value).__name__}, not a table of settings")
    inside = value.get("config", value)
    if not isinstance(inside, dict):
        raise UsageError(f"{path}: its config is a {type(inside).__name__}, not a table of settings")
    return inside


def fingerprint(config: Any) -> str:
    """First 16 hex digits of the configuration's digest."""
    return digest(config)[:16]


def digest(config: Any) -> str:
    """SHA-256 of the configuration's canonical JSON, in hex."""
    text = json.dumps(to_json(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Any, new: Any, *, where: str = "") -> list[str]:
    """One line for each setting that differs between two JSON values: "train.steps: 100 -> 200"."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in [*old, *(name for name in new if name not in old)]:
            inside = f"{where}.{name}" if where else name
            lines += difference(old.get(name), new.get(name), where=inside)
        return lines
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


def _parse(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where} must be one of {', '.join(map(repr, get_args(kind)))}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _parse_union(get_args(kind), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} must be a list, got {value!r}")
        inner = get_args(kind)
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
        if len(kinds) != len(value):
            raise UsageError(f"{where} must have {len(kinds)} entries, got {len(value)}")
        entries = zip(kinds, value, strict=True)
        return tuple(_parse(each, item, f"{where}[{i}]") for i, (each, item) in enumerate(entries))
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where} must be {kind.__name__}, got {value!r}")
    return value


def _parse_dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a table of settings, got {value!r}")
    if value.get("kind", cls.__name__) != cls.__name__:
        raise UsageError(f"{where}.kind must be {cls.__name__!r}, got {value['kind']!r}")
    hints, given = get_type_hints(cls), {name: item for name, item in value.items() if name != "kind"}
    for name in given:
        if name not in hints:
            raise UsageError(f"{where} has no setting {name!r}{_suggest(name, hints)}")
    late = {field.name for field in dataclasses.fields(cls) if _ADDED in field.metadata}
    missing = [name for name in hints if name not in given and name not in late]
    if missing:
        raise UsageError(f"{where} lacks {', '.join(missing)}: was it written by another version?")
    values = {name: _parse(hints[name], item, f"{where}.{name}") for name, item in given.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _parse_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, Mapping) and "kind" in value:
        named = {kind.__name__: kind for kind in kinds}
        if value["kind"] not in named:
            raise UsageError(f"{where}.kind must be one of {', '.join(named)}, got {value['kind']!r}")
        return _parse(named[value["kind"]], value, where)
    plain = [kind for kind in kinds if kind is not type(None)]
    if len(plain) == 1:
        return _parse(plain[0], value, where)
    raise UsageError(f"{where} needs a 'kind' to say which of {', '.join(kind.__name__ for kind in plain)} it is")


def _suggest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
