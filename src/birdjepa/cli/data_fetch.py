"""`birdjepa data fetch xeno-canto --query QUERY --out FOLDER`."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.data.fetching import Fetcher
from birdjepa.data.xeno_canto import XenoCantoConfig, agent, fetch

KEY = "XENO_CANTO_KEY"


@dataclasses.dataclass(frozen=True, kw_only=True)
class XenoCantoArguments:
    recordings: XenoCantoConfig
    out: Path
    """Folder for the recordings, manifest.csv and, if some were refused, failures.csv."""
    key: str | None = None
    """Your key of the site's API; better in the environment, as XENO_CANTO_KEY, where other users cannot read it."""


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] != "xeno-canto":
        raise UsageError("birdjepa data fetch xeno-canto --query 'gen:larus area:europe' --out FOLDER")
    told = "Recordings of a Xeno-Canto query with licences and recordists; the same command goes on after a stop."
    arguments = parse(XenoCantoArguments, argv[1:], prog="birdjepa data fetch xeno-canto", description=told)
    key = arguments.key or os.environ.get(KEY, "")
    if not key:
        raise UsageError(f"xeno-canto's API needs a key (https://xeno-canto.org/account): set {KEY}, or give --key")
    wanted = arguments.recordings
    fetcher = Fetcher(interval_s=wanted.interval_s, agent=agent())
    found = fetch(arguments.out, wanted, key=key, fetcher=fetcher, say=tell)
    print(found.manifest)
    if found.refused:
        tell(f"{len(found.refused)} recordings were refused; see {arguments.out / 'failures.csv'}")
        return EXIT_PARTIAL
    return EXIT_DONE
