"""The rooms of the house: imports only point down. Read from the source, so that nothing is imported to find out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "birdjepa"

LEVELS = {
    "core": 0,
    **dict.fromkeys(("nn", "audio"), 1),
    **dict.fromkeys(("models", "data"), 2),
    **dict.fromkeys(("objectives", "optim", "checkpoint", "embed"), 3),
    **dict.fromkeys(("train", "benchmark", "codec"), 4),
    "report": 5,
    "recipes": 6,
    "cli": 7,
}
"""Room -> level. Rooms of one level do not know each other."""

NEVER = {("train", room) for room in ("data", "benchmark", "embed")}
"""Below, and still not for it: the loop is handed batches."""


def imports(text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of each import of birdjepa in a module's text, also inside functions and strings of types."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "birdjepa")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            if node.module == "birdjepa":
                yield from ((node.lineno, f"birdjepa.{alias.name}") for alias in node.names)
            elif node.module and node.module.startswith("birdjepa."):
                yield node.lineno, node.module


def climbs(room: str, text: str) -> list[str]:
    """What a module of a room imports although it must not."""
    wrong = []
    for line, module in imports(text):
        other = module.split(".")[1] if "." in module else ""
        if other not in LEVELS or other == room:
            continue
        if LEVELS[other] >= LEVELS[room] or (room, other) in NEVER:
            wrong.append(f"line {line}: {room} imports {module}")
    return wrong


MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


DOORS = ("benchmark/__main__.py",)
"""`python -m` of a room, which is another way into the command line and no part of the room."""


@pytest.mark.parametrize("module", [module for module in MODULES if "/" in module and module not in DOORS])
def test_imports_point_down(module):
    room = module.split("/")[0]
    assert room in LEVELS, f"a new room: give {room} a level here and in the design"
    assert climbs(room, (SOURCE / module).read_text()) == []


def test_every_room_is_there():
    assert set(LEVELS) == {module.split("/")[0] for module in MODULES if "/" in module}


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("core", "from birdjepa.audio import decode"),
        ("audio", "def f():\n    from birdjepa.nn.block import Block"),
        ("train", "import birdjepa.recipes.config"),
        ("train", "from birdjepa.data.loader import Clips"),
        ("train", "from birdjepa import benchmark"),
        ("recipes", "from birdjepa import cli"),
    ],
)
def test_a_planted_climb_is_found(room, text):
    assert len(climbs(room, text)) == 1


def test_what_is_allowed_is_allowed():
    lines = ["import birdjepa", "from birdjepa import __version__", "from birdjepa.core import files"]
    assert climbs("train", "\n".join([*lines, "from birdjepa.train.state import x"])) == []
