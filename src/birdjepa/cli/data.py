"""`birdjepa data VERB`: the verbs about recordings, each in a module that is imported when it is asked for."""

import importlib
from collections.abc import Sequence
from typing import NamedTuple

from birdjepa.core.errors import EXIT_DONE, UsageError


class Verb(NamedTuple):
    """Where a verb is, and what it does."""

    module: str
    function: str
    told: str


VERBS = {
    "scan": Verb("data_scan", "run", "what is in a folder or manifest, and what in it is damaged"),
    "stats": Verb("data_stats", "run", "lengths, rates, levels, labels and leakage between splits, as an HTML page"),
    "bench": Verb("data_bench", "run", "where the loader's time goes, and what limits it"),
    "segments": Verb("data_labels", "run_segments", "recordings and their label files become a manifest of segments"),
    "labels": Verb("data_labels", "run_labels", "label files of Raven, Audacity, BirdNET, Praat ... into one another"),
    "list": Verb("data_catalog", "run_list", "the public data sets that are known"),
    "describe": Verb("data_catalog", "run_describe", "one of them: size, licence, citation, how to get it"),
    "prepare": Verb("data_catalog", "run_prepare", "a download of one becomes a manifest, its files counted"),
    "fetch": Verb("data_fetch", "run", "recordings of Xeno-Canto by a query"),
    "synth": Verb("data_made", "run_synth", "synthetic bird songs and soundscapes, labelled"),
    "images": Verb("data_made", "run_images", "small labelled images played as sound"),
}


def run(argv: Sequence[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: birdjepa data VERB ... (birdjepa data VERB --help tells its options)\n")
        print("\n".join(f"  {name:<10} {verb.told}" for name, verb in VERBS.items()))
        return EXIT_DONE
    if not argv or argv[0] not in VERBS:
        raise UsageError(f"birdjepa data {'|'.join(VERBS)} ...; birdjepa data --help says what they do")
    verb = VERBS[argv[0]]
    return getattr(importlib.import_module(f"birdjepa.cli.{verb.module}"), verb.function)(argv[1:])
