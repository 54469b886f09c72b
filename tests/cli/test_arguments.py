"""Parsing: flags, values and complaints."""

import dataclasses
from typing import Literal

import pytest

from birdjepa.cli.arguments import parse, unboxed
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    size: int = 3
    on: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    data: str
    json: bool = False
    kind: Literal["p", "q"] = "p"
    part: Part = Part()


def ask(*argv, default=None):
    return parse(Asked, argv, prog="birdjepa verb", description="What it does.", default=default)


def test_a_verbs_flags_take_no_value():
    assert ask("--data", "x", "--json", "--size", "5") == Asked(data="x", json=True, part=Part(size=5))
    assert ask("--data", "x").json is False


def test_a_configurations_booleans_take_one():
    default = Asked(data="x")
    assert ask("--part.on", "False", "--json", "True", default=default) == Asked(
        data="x", json=True, part=Part(on=False)
    )
    assert ask(default=default) == default


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ((), "--data"),
        (("--data", "x", "--jsn"), "Unrecognized options: --jsn; did you mean --json?"),
        (("--data", "x", "--size", "big"), "Error parsing --size: .*'big'"),
        (("--data", "x", "--size", "0"), "size must be at least 1, got 0"),
        (("--data", "x", "--kind", "r"), "invalid choice 'r'"),
    ],
)
def test_complaints_are_one_line(argv, told, capsys):
    with pytest.raises(UsageError, match=told) as error:
        ask(*argv)
    assert "\n" not in str(error.value)
    assert not set("│╭─") & set(str(error.value))
    assert "birdjepa verb --help" in str(error.value)
    assert capsys.readouterr().err == ""


def test_help_goes_to_standard_output_and_ends_well(capsys):
    with pytest.raises(SystemExit) as end:
        ask("--help")
    assert not end.value.code
    assert "--kind" in capsys.readouterr().out


def test_frames_are_taken_off():
    for corners, line, side in (("╭╮╰╯", "─", "│"), ("++++", "-", "|")):
        body = "".join(f"{side} {text:8} {side}\n" for text in ("one a+b", "three-x", line * 8, "more"))
        frame = f"{corners[0]}{line} Title {line * 2}{corners[1]}\n{body}{corners[2]}{line * 10}{corners[3]}\n"
        assert unboxed(frame) == "one a+b three-x"
    assert unboxed("") == ""
