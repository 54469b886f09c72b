"""Configurations to JSON and back: complete, strict, and clear about what is wrong."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import pkgutil
import random as python_random
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import birdjepa
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    a: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Right:
    a: int = 2
    b: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    n: int = 3
    share: float = 0.25
    name: str = "x"
    on: bool = False
    kind_of: Literal["p", "q"] = "p"
    pair: tuple[float, float] = (1.0, 2.0)
    many: tuple[str, ...] = ()
    path: Path = Path("a")
    maybe: int | None = None
    part: Left = Left()
    either: Left | Right = Right()

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"n must be >= 0, got {self.n}")


CHANGED = Whole(n=4, on=True, kind_of="q", many=("u", "v"), path=Path("b/c"), maybe=7, part=Left(a=9), either=Left())


def all_config_classes():
    """Every configuration dataclass of the package that can be built: what others only begin from has no JSON."""
    found = {}
    for module in pkgutil.walk_packages(birdjepa.__path__, "birdjepa."):
        for name, value in vars(importlib.import_module(module.name)).items():
            is_config = isinstance(value, type) and dataclasses.is_dataclass(value) and name.endswith("Config")
            if is_config and not inspect.isabstract(value):
                found[name] = value
    return found


def variant(cls, rng):
    """An instance with fields other than the defaults where that is easy: nested ones and literals."""
    values, hints = {}, get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            values[field.name] = variant(kind, rng)
        elif get_origin(kind) is Literal:
            values[field.name] = rng.choice(get_args(kind))
        elif kind is bool:
            values[field.name] = bool(rng.getrandbits(1))
        elif field.default is dataclasses.MISSING:
            values[field.name] = {str: "x", int: 1, float: 1.0, Path: Path("x")}[kind]
    return cls(**values)


def test_every_configuration_makes_the_round_trip():
    classes = all_config_classes()
    assert {
        "PretrainConfig",
        "TrainConfig",
        "LogMelConfig",
        "VitConfig",
        "SynthConfig",
        "AdamWConfig",
        "MuonConfig",
    } <= set(classes)
    seen = set()
    for name, cls in classes.items():
        for seed in range(10):
            try:
                config = variant(cls, python_random.Random(seed))
            except ValueError:
                continue  # settings that exclude each other
            seen.add(name)
            text = json.dumps(configs.to_json(config), allow_nan=False)
            back = configs.from_json(cls, json.loads(text))
            assert back == config, name
            assert configs.fingerprint(back) == configs.fingerprint(config), name
    assert seen == set(classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grown:
    a: int = 1
    b: float = configs.added(0.0)


def test_a_field_that_was_added_later_may_be_missing_and_changes_no_hash():
    old = {"kind": "Grown", "a": 3}
    assert configs.from_json(Grown, old) == Grown(a=3)
    assert configs.to_json(Grown(a=3)) == old
    assert configs.to_json(Grown(b=0.5)) == {"kind": "Grown", "a": 1, "b": 0.5}
    assert configs.from_json(Grown, {**old, "b": 1}) == Grown(a=3, b=1.0)
    with pytest.raises(UsageError, match="lacks a"):
        configs.from_json(Grown, {"b": 1.0})


@pytest.mark.parametrize("config", [Whole(), CHANGED])
def test_round_trip(config):
    assert configs.from_json(Whole, json.loads(json.dumps(configs.to_json(config)))) == config


def spoiled(**changes):
    return {**configs.to_json(CHANGED), **changes}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (spoiled(nn=1), "no setting 'nn'; did you mean 'n'?"),
        (spoiled(zzzz=1), "no setting 'zzzz'; there are n, share"),
        ({name: value for name, value in spoiled().items() if name != "share"}, "lacks share"),
        (spoiled(n="3"), "config.n must be int, got '3'"),
        (spoiled(n=True), "config.n must be int, got True"),
        (spoiled(n=1.5), "config.n must be int, got 1.5"),
        (spoiled(on=1), "config.on must be bool, got 1"),
        (spoiled(share="a"), "config.share must be float"),
        (spoiled(kind_of="r"), "config.kind_of must be one of 'p', 'q', got 'r'"),
        (spoiled(pair=[1.0]), "config.pair must have 2 entries, got 1"),
        (spoiled(pair=[1.0, "b"]), r"config.pair\[1\] must be float"),
        (spoiled(many="uv"), "config.many must be a list"),
        (spoiled(maybe="x"), "config.maybe must be int"),
        (spoiled(part=3), "config.part must be a table of settings"),
        (spoiled(part={"kind": "Right", "a": 1}), "config.part.kind must be 'Left', got 'Right'"),
        (spoiled(either={"a": 1}), "config.either needs a 'kind' to say which of Left, Right"),
        (spoiled(either={"kind": "Up", "a": 1}), "config.either.kind must be one of Left, Right"),
        (spoiled(n=-1), "config: n must be >= 0, got -1"),
        ([], "config must be a table of settings"),
    ],
)
def test_what_is_wrong_is_named(value, told):
    with pytest.raises(UsageError, match=told):
        configs.from_json(Whole, value)


def test_whole_numbers_are_floats_where_a_float_is_wanted():
    back = configs.from_json(Whole, spoiled(share=1))
    assert back.share == 1.0
    assert isinstance(back.share, float)


def test_overlay_from_toml(tmp_path):
    (tmp_path / "a.toml").write_text("n = 8\npair = [3, 4]\n[part]\na = 5\n[either]\nb = 2\n")
    config = configs.overlay(Whole(), configs.read_file(tmp_path / "a.toml"))
    assert config == Whole(n=8, pair=(3.0, 4.0), part=Left(a=5), either=Right(b=2.0))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nn": 1}, "file has no setting 'nn'; did you mean 'n'?"),
        ({"part": {"b": 1}}, "file.part has no setting 'b'"),
        ({"part": 3}, "file.part must be a table"),
        ({"n": -1}, "file: n must be >= 0"),
        ({"n": "x"}, "file.n must be int"),
        ({"kind": "Left"}, "no setting 'kind'"),
    ],
)
def test_overlay_names_what_is_wrong(changes, told):
    with pytest.raises(UsageError, match=told):
        configs.overlay(Whole(), changes, where="file")


def test_saved_json_can_be_laid_over(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hash": "x", "config": configs.to_json(CHANGED)}))
    assert configs.overlay(Whole(), configs.read_file(tmp_path / "config.json")) == CHANGED


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"{", "not a valid JSON"),
        ("a.json", b"[1]", "holds a list"),
        ("a.json", b'{"config": 3}', "its config is a int"),
        ("a.json", b"[" * 100_000, "not a valid JSON"),
        ("a.json", b"\xff\xfe\x00", "not a valid JSON"),
        ("a.toml", b"a = ", "not a valid TOML"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: .*{told}"):
        configs.read_file(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read"):
        configs.read_file(tmp_path / "absent.json")


def test_digest_is_of_the_canonical_text():
    assert configs.digest({"b": 1, "a": [None, "é"]}) == hashlib.sha256(rb'{"a":[null,"\u00e9"],"b":1}').hexdigest()
    assert configs.digest(Whole()).startswith(configs.fingerprint(Whole()))


def test_fingerprint_is_pinned_and_sees_every_field():
    assert configs.fingerprint(Whole()) == "e124fc39400cc281"
    assert len({configs.fingerprint(dataclasses.replace(Whole(), n=n)) for n in range(5)}) == 5


def test_differences_are_one_line_each():
    old, new = configs.to_json(Whole()), configs.to_json(CHANGED)
    assert configs.difference(old, old) == []
    lines = configs.difference(old, new)
    assert "n: 3 -> 4" in lines
    assert "part.a: 1 -> 9" in lines
    assert 'either.kind: "Right" -> "Left"' in lines
    assert "either.b: 0.5 -> null" in lines


def test_a_file_can_choose_another_kind_and_gets_its_defaults():
    from birdjepa.recipes.named import RECIPES

    base = RECIPES["ajepa"]()
    changed = configs.overlay(base, {"objective": {"masks": {"kind": "BlockMaskConfig", "n_targets": 2}}})
    assert type(changed.objective.masks).__name__ == "BlockMaskConfig"
    assert changed.objective.masks.n_targets == 2
    assert changed.objective.masks.scale == (0.15, 0.2)
    other = configs.overlay(base, {"objective": {"kind": "PixioConfig", "share": 0.5}})
    assert (type(other.objective).__name__, other.objective.share) == ("PixioConfig", 0.5)
    with pytest.raises(UsageError, match="kind must be one of"):
        configs.overlay(base, {"objective": {"masks": {"kind": "NoSuchConfig"}}})
