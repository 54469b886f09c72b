"""The official class lists of BirdSet's and BEANS' sets, in the order of their class numbers.

The order is part of a benchmark: published heads and per-class scores are indexed by it, and a class without positives
in a test split still counts in some means. BirdSet's order is not alphabetical. Its codes are eBird's of 2021.

Sources: resources/ebird_codes/*_ebird_codes.json of the BirdSet repository; datasets.yml of the BEANS repository. XCL's
9,736 codes are not here: they are read from its metadata.
"""

import functools
import json
from importlib import resources


def class_list(dataset: str) -> tuple[str, ...]:
    """The classes of a set by number ("birdset-hsn", "beans-dcase"); empty where there is no official list here."""
    return _lists().get(dataset, ())


@functools.cache
def _lists() -> dict[str, tuple[str, ...]]:
    text = resources.files("birdjepa.data.catalog").joinpath("classes.json").read_text(encoding="utf-8")
    return {name: tuple(classes) for name, classes in json.loads(text).items()}
