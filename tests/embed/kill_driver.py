"""Embeds a folder again and again, killed (-9) at the first disk operation or batch, then the second, and so on; each
time it is then run to its end. Prints how many kills there were; exits 1 where a table differs from that of a run
without a kill.

Forks before torch has started a thread, so that imports (pyarrow.compute too) are paid once.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import pyarrow.compute  # noqa: F401
import pyarrow.parquet as pq
import torch

from birdjepa.core import files
from birdjepa.data.sources import open_data
from birdjepa.embed import parts
from birdjepa.embed.batching import Batcher
from birdjepa.embed.collection import EmbedConfig, embed_collection
from birdjepa.models.loading import load


class Killer:
    """Counts the operations that are wrapped with it and kills the process before number `fatal`."""

    def __init__(self, fatal: int) -> None:
        self.left = fatal

    def wrap(self, owner, name: str) -> None:
        plain = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            return plain(*args, **kwargs)

        setattr(owner, name, wrapped)


def embed(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    config = EmbedConfig(batch_size=4, clips_per_part=8)
    embed_collection(load(folder / "encoder"), open_data(str(folder / "songs")), out, config, provenance={})


def in_child(folder: Path, out: Path, fatal: int | None) -> int:
    """Runs embed in a forked process; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        if fatal is not None:
            killer = Killer(fatal)
            for owner, name in (
                (files, "sync"),
                (Batcher, "_run"),
                (Path, "replace"),
                (Path, "unlink"),
                (parts.shutil, "rmtree"),
            ):
                killer.wrap(owner, name)
        embed(folder, out)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(folder: Path) -> None:
    whole = folder / "whole" / "a.parquet"
    assert in_child(folder, whole, None) == 0
    reference = pq.read_table(whole)
    fatal = 0
    while True:
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        status = in_child(folder, work / "a.parquet", fatal)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed and fatal % 3 == 0:  # once more, soon after
            in_child(folder, work / "a.parquet", 3)
        if in_child(folder, work / "a.parquet", None) != 0:
            sys.exit(f"kill {fatal}: the run after it failed")
        if not pq.read_table(work / "a.parquet").equals(reference):
            sys.exit(f"kill {fatal}: another table")
        left = sorted(path.name for path in work.iterdir())
        if left != ["a.parquet", "failures.csv"]:
            sys.exit(f"kill {fatal}: left behind {left}")
        if not killed:
            break
        fatal += 1
    print(fatal)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
