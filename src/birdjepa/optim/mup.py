"""placeholder"""

from collections.abc import Mapping
from typing import NamedTuple


class Scale(NamedTuple):
    """What muP changes of one parameter."""

    init: float
    adamw: float
    muon: float


Scales = Mapping[str, Scale]
