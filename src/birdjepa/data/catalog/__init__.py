"""The catalog of public data sets, one file each; a new one is a new file and a line here."""

from birdjepa.data.catalog.audioset import AUDIOSET_2M, AUDIOSET_20K
from birdjepa.data.catalog.base import Dataset, Prepared, Split, prepare
from birdjepa.data.catalog.beans import BEANS
from birdjepa.data.catalog.birdset import BIRDSET
from birdjepa.data.catalog.birdsong_recognition import BIRDSONG_RECOGNITION
from birdjepa.data.catalog.esc50 import ESC10, ESC50
from birdjepa.data.catalog.fsd50k import FSD50K
from birdjepa.data.catalog.fsdd import FSDD
from birdjepa.data.catalog.inatsounds import INATSOUNDS
from birdjepa.data.catalog.librilight import LIBRILIGHT
from birdjepa.data.catalog.librispeech import LIBRISPEECH
from birdjepa.data.catalog.speech_commands import SPEECH_COMMANDS_V1, SPEECH_COMMANDS_V2
from birdjepa.data.catalog.voxceleb import VOXCELEB1

__all__ = ["CATALOG", "Dataset", "Prepared", "Split", "prepare"]

_ALL = (
    ESC50,
    ESC10,
    FSD50K,
    AUDIOSET_20K,
    AUDIOSET_2M,
    SPEECH_COMMANDS_V1,
    SPEECH_COMMANDS_V2,
    FSDD,
    VOXCELEB1,
    LIBRISPEECH,
    LIBRILIGHT,
    INATSOUNDS,
    BIRDSONG_RECOGNITION,
    *BIRDSET,
    *BEANS,
)
CATALOG: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}
