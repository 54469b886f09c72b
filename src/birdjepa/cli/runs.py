"""What the verbs that train share: a name, a file and settings laid over each other, or a stopped run to go on with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import config as configs
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError

T = TypeVar("T")


def resumed(argv: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments, and the folder of --resume, which takes no others.

    Raises:
      UsageError: if it was given some.
    """
    rest, folder = take(argv, "--resume")
    if folder is not None and rest:
        raise UsageError(f"--resume goes on with exactly the run's own configuration; leave out {' '.join(rest)}")
    return rest, None if folder is None else Path(folder)


def named(argv: Sequence[str], what: str) -> tuple[str, list[str], str | None]:
    """What a run starts from (empty where nothing is named), the settings, and the file of --config.

    Raises:
      UsageError: if there is neither a name nor a file, saying what could be named.
    """
    rest, file = take(argv, "--config")
    if rest and not rest[0].startswith("-"):
        return rest[0], rest[1:], file
    if file is None and not {"-h", "--help"} & set(rest):
        raise UsageError(f"name {what}, or give --config FILE or --resume RUN")
    return "", rest, file


def layered(
    default: T,
    file: str | None,
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    kinds: Mapping[str, str] | None = None,
) -> T:
    """The default, the file over it, the kinds named on the command line, and the rest of it over all.

    kinds is the name of the class for each part that is to be of another kind.

    Raises:
      UsageError: naming the setting that is unknown or outside its limits.
    """
    if file is not None:
        default = configs.overlay(default, configs.read_file(Path(file)), where=file)
    for part, kind in (kinds or {}).items():
        default = configs.overlay(default, {part: {"kind": kind}})
    return parse(type(default), argv, prog=prog, description=description, default=default)


def done(folder: Path, n_refused: int) -> int:
    """The exit code of a finished run; tells where its refused recordings are listed."""
    if not n_refused:
        return EXIT_DONE
    tell(f"{n_refused} recordings were refused; see {folder / 'failures.csv'}")
    return EXIT_PARTIAL


def take(argv: Sequence[str], flag: str, needs: str = "a path") -> tuple[list[str], str | None]:
    """The arguments without one flag, and the flag's value.

    Raises:
      UsageError: if the flag has no value.
    """
    rest, value, given = [], None, iter(argv)
    for argument in given:
        name, equals, inline = argument.partition("=")
        if name != flag:
            rest.append(argument)
            continue
        value = inline if equals else next(given, None)
        if not value:
            raise UsageError(f"{flag} needs {needs}")
    return rest, value
