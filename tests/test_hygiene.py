"""What holds for every file: read configuration, short files, no loose ends, no machine's own paths."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in SOURCES}
ALL = sorted(
    path
    for folder in ("src", "tests", "benchmarks", "docs", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".sh", ".toml", "") and path.is_file()
)
CONFIG_NAMES = ("Config", "Arguments")
LONGEST_FILE = 450


def config_fields(text: str) -> dict[str, list[str]]:
    """Fields of each configuration dataclass in a module's text, and of each class of command-line arguments."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        decorated = isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list)
        if isinstance(node, ast.ClassDef) and decorated and node.name.endswith(CONFIG_NAMES):
            statements = (each for each in node.body if isinstance(each, ast.AnnAssign))
            found[node.name] = [each.target.id for each in statements if isinstance(each.target, ast.Name)]
    return found


def reads(text: str) -> set[str]:
    """Names of attributes that a module reads, but for checks of limits in __post_init__."""
    tree = ast.parse(text)
    checks = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name == "__post_init__"]
    left_out = {id(inner) for check in checks for inner in ast.walk(check)}
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in left_out
    }


def unread(texts: list[str]) -> list[str]:
    """Configuration fields that nothing reads: options without effect."""
    read = set().union(*map(reads, texts))
    fields = {f"{name}.{field}" for text in texts for name, inside in config_fields(text).items() for field in inside}
    return sorted(field for field in fields if field.split(".")[1] not in read)


def test_every_setting_is_read():
    assert sum(len(fields) for text in TEXTS.values() for fields in config_fields(text).values()) > 80
    assert unread(list(TEXTS.values())) == []


PLANTED = """
@dataclasses.dataclass(frozen=True)
class PlantedConfig:
    used: int = 1
    never_used: int = 2

    def __post_init__(self) -> None:
        if self.never_used < 0:
            raise ValueError(f"never_used must not be negative, got {self.never_used}")

def build(config):
    return config.used
"""


def test_a_planted_option_without_effect_is_found():
    assert unread([PLANTED]) == ["PlantedConfig.never_used"]
    assert unread([*TEXTS.values(), PLANTED]) == ["PlantedConfig.never_used"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_modules_say_what_they_are_for_and_fit_in_a_head(path):
    text = TEXTS[path]
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert text.count("\n") <= LONGEST_FILE
    configs = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Config")]
    assert [node.name for node in configs if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_no_loose_ends(path):
    for number, line in enumerate(TEXTS[path].splitlines(), start=1):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b", line), f"line {number}"
    for node in ast.walk(ast.parse(TEXTS[path])):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"line {node.lineno}: bare except"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.args.kwarg is None, f"line {node.lineno}: **{node.args.kwarg.arg}"


MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:work|root|home/\w+|Users|mnt|scratch)/\w")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_paths_of_one_machine(path):
    if path == Path(__file__):
        return
    found = [
        line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_a_planted_machine_path_is_found():
    assert MACHINE_PATH.search("open('/" + "work/shared/data/x.wav')")
    assert MACHINE_PATH.search("see /" + "home/alice/birds")
    assert not MACHINE_PATH.search("https://example.org/work/shared")
    assert not MACHINE_PATH.search("benchmarks/work/x and runs/home/x")


def test_test_modules_have_names_of_their_own():
    """pytest imports them by name alone, so two of one name would hide each other."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
