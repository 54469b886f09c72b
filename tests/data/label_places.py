"""Recordings and label files in folders, for tests of what belongs together."""

from pathlib import Path

import numpy as np
import soundfile

from birdjepa.audio.labels import LabelsConfig
from birdjepa.data.labelled import find_segments, label_files
from birdjepa.data.sources import open_data

RATE = 8_000


def record(root: Path, *names: str, seconds: float = 4.0) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.zeros(round(RATE * seconds)), RATE)


def write(path: Path, text: str = "0.5\t1.5\trobin\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found_in(data: Path, labels: Path | str, config: LabelsConfig | None = None) -> tuple[dict[str, list], list[str]]:
    segments = find_segments(open_data(str(data)), label_files(str(labels)), config)
    keys = segments.recordings.keys
    return {keys[row]: [label[:3] for label in found] for row, found in segments.labels.items()}, [
        each.reason for each in segments.refused
    ]
