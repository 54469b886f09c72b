"""The catalog of public data sets, one file each; a new one is a new file and a line here."""

from birdjepa.data.catalog.base import Dataset, Prepared, Split, prepare
from birdjepa.data.catalog.beans import BEANS
from birdjepa.data.catalog.birdset import BIRDSET
from birdjepa.data.catalog.esc50 import ESC10, ESC50

__all__ = ["CATALOG", "Dataset", "Prepared", "Split", "prepare"]

CATALOG: dict[str, Dataset] = {dataset.name: dataset for dataset in (ESC50, ESC10, *BIRDSET, *BEANS)}
