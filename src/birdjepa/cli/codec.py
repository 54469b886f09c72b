"""`birdjepa codec VERB`: the verbs about a codec itself, each in a module that is imported when it is asked for."""

import importlib
from collections.abc import Sequence

from birdjepa.core.errors import EXIT_DONE, UsageError

VERBS = {
    "eval": "what comes back of recordings, beside Griffin-Lim and silence, and what the codes cost",
    "compare": "several evaluations beside each other by rate, as a table and a page",
    "info": "rates, levels, how far it looks ahead, size",
}


def run(argv: Sequence[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: birdjepa codec VERB ... (birdjepa codec VERB --help tells its options)\n")
        print("\n".join(f"  {name:<10} {told}" for name, told in VERBS.items()))
        return EXIT_DONE
    if not argv or argv[0] not in VERBS:
        raise UsageError(f"birdjepa codec {'|'.join(VERBS)} ...; birdjepa codec --help says what they do")
    return importlib.import_module(f"birdjepa.cli.codec_{argv[0]}").run(argv[1:])
