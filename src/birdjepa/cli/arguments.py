"""Parsing with tyro, so that every verb treats flags, help and bad values alike."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from birdjepa.core.errors import UsageError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, default: T | None = None) -> T:
    """An instance of a configuration class from the command line, over a default where there is one.

    A verb's own arguments have flags that take no value (--json); a configuration's booleans take one (True, False).
    Where a configuration may be of several kinds, the default's kind stays; a file (--config) chooses another.

    Raises:
      UsageError: in one line, if an option is unknown or a value is of the wrong type or outside its limits.
    """
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            if default is None:
                config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
                return tyro.cli(kind, args=list(argv), prog=prog, description=description, config=config)
            config = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
            return tyro.cli(kind, args=list(argv), prog=prog, description=description, default=default, config=config)
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(f"{unboxed(boxed.getvalue())} ({prog} --help tells all options)") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def unboxed(text: str) -> str:
    """tyro's framed complaint in one line: what is wrong, and the option that was perhaps meant."""
    lines = [re.sub(r"[\u2500-]{5,}", "", line).strip("\u2502| ") for line in text.splitlines()]
    lines = [line if any(map(str.isalnum, line)) else "" for line in lines]
    parts = [part.split() for part in "\n".join(lines[1:]).strip().split("\n\n")]
    words = " ".join(parts[0]) if parts else ""
    meant = [word for part in parts if part[:1] == ["Perhaps"] for word in part if word.startswith("--")]
    return f"{words}; did you mean {meant[0]}?" if meant else words
