"""Label files that people's tools exchange: a module for each family, one tuple for what they all say.

`read_labels` reads the file of one recording, `read_recordings` one that may hold several. Nothing is guessed: a number
with a decimal comma, times that contradict each other, a tier or a recording that is not named are refused in one line.
"""

from birdjepa.audio.labels.audacity import write_audacity
from birdjepa.audio.labels.birdnet import BIRDNET_COLUMNS, write_birdnet
from birdjepa.audio.labels.koumura import RateOf
from birdjepa.audio.labels.label import Label, Recordings
from birdjepa.audio.labels.names import is_label_file, label_names, labelled_name, without_suffix
from birdjepa.audio.labels.notmat import write_notmat
from birdjepa.audio.labels.raven import RAVEN_COLUMNS, write_raven
from birdjepa.audio.labels.reading import LabelsConfig, read_labels, read_recordings
from birdjepa.audio.labels.tables import CSV_COLUMNS, csv_text, write_table
from birdjepa.audio.labels.textgrid import read_tiers, write_textgrid

__all__ = [
    "BIRDNET_COLUMNS",
    "CSV_COLUMNS",
    "RAVEN_COLUMNS",
    "Label",
    "LabelsConfig",
    "RateOf",
    "Recordings",
    "csv_text",
    "is_label_file",
    "label_names",
    "labelled_name",
    "read_labels",
    "read_recordings",
    "read_tiers",
    "without_suffix",
    "write_audacity",
    "write_birdnet",
    "write_notmat",
    "write_raven",
    "write_table",
    "write_textgrid",
]
