"""Shapes are checked in every test: jaxtyping's hook is installed before anything of birdjepa is imported."""

import os
import signal
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)  # what tests compute is small and only waits for its threads
install_import_hook("birdjepa", "beartype.beartype")
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and birdjepa heeds that

SHARED = Path(os.environ.get("BIRDJEPA_SHARED_DATA", Path(__file__).parents[1].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings; tests that need it skip where it is absent."""
    if not (SHARED / "esc10" / "metadata.csv").exists():
        pytest.skip(f"no real recordings at {SHARED} (set BIRDJEPA_SHARED_DATA)")
    return SHARED
