"""Parsing with tyro, so that every verb treats flags, help and bad values alike."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

from birdjepa.core.errors import UsageError

T = TypeVar("T")


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, default: T | None = None) -> T:
    """An instance of a configuration class from the command line, over a default where there is one.

    Raises:
      UsageError: if a value is outside its limits; tyro itself exits with 2 on an unknown flag or a value of the wrong type.
    """
    config = (tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes) if default is None else (tyro.conf.FlagConversionOff,)
    try:
        if default is None:
            return tyro.cli(kind, args=list(argv), prog=prog, description=description, config=config)
        return tyro.cli(kind, args=list(argv), prog=prog, description=description, default=default, config=config)
    except ValueError as error:
        raise UsageError(str(error)) from None
