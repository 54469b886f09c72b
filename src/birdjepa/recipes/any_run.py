"""Every kind of run that learns from recordings: what a saved config.json may hold."""

from pathlib import Path
from typing import get_args

from birdjepa.recipes import run_folder
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.config import PretrainConfig, RunConfig
from birdjepa.recipes.waveform_config import PretrainWaveformConfig

AnyRun = PretrainConfig | PretrainWaveformConfig | PretrainCodecConfig
"""One line for each kind."""

RUNS: dict[str, type[RunConfig]] = {kind.__name__: kind for kind in get_args(AnyRun)}
"""By the name that files give them."""


def read_run(folder: Path) -> RunConfig:
    """Configuration of a run folder, of whatever kind.

    Raises:
      UsageError: if the folder holds no run, or its configuration was edited.
    """
    return run_folder.read_config(tuple(RUNS.values()), folder)
