"""kill -9 at every disk operation and every batch, and run again: the same table, nothing twice, nothing missing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from birdjepa.models.encoder import Encoder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are simulated with fork")
def test_kill_at_every_point_and_run_again(encoder: Encoder, write: Callable[..., Path], tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder", card="", provenance={})
    for index in range(3):
        write(f"songs/{index}.wav", 1.0 + 0.35 * index, seed=index)
    write("songs/4.wav", 9.3, 8_000)
    (tmp_path / "songs" / "5.wav").write_bytes(b"")
    write("songs/6.flac", 1.0)
    driver = Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 25
