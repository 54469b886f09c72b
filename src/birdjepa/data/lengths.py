"""How long recordings and segments are: as the manifest says, else as the header of each file does.

Axes: n rows of a manifest
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from birdjepa.audio import decode
from birdjepa.core.errors import AudioError, UsageError
from birdjepa.data.manifest import Manifest


def stretches(source: Manifest) -> Float[np.ndarray, " n"]:
    """Seconds that each row covers of its recording; 0 for a recording that cannot be opened.

    Raises:
      UsageError: if lengths are neither told nor at hand.
    """
    ends = np.where(np.isnan(source.offset_s), durations(source), source.offset_s)
    return ends - source.onset_s


def durations(source: Manifest) -> Float[np.ndarray, " n"]:
    """Length of each recording in seconds: as the manifest says, else from the file's header; 0 for one that cannot be
    opened.

    Raises:
      UsageError: if headers would have to be fetched from another machine.
    """
    found = source.duration_s.copy()
    unknown = np.flatnonzero(np.isnan(found))
    if unknown.size and source.shards is not None and not source.shards.at_hand:
        raise UsageError(
            f"{source.name}: {unknown.size} recordings come without a length, and finding it would fetch them all: "
            "name its column in columns.duration_s, or set loader.draw to recording"
        )

    def length(row: int) -> float:
        try:
            return decode.probe(source.source(row)).duration_s
        except AudioError:
            return 0.0  # visited once, refused there, with its reason

    with ThreadPoolExecutor(max_workers=8) as pool:
        found[unknown] = list(pool.map(length, unknown.tolist()))
    return found
