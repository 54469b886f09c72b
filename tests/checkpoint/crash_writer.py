"""Child of test_crash.py: forks one checkpoint writer a trial, so that torch is imported once.

Each line read is a trial as JSON: folder, board, saves ([step, version] each), hold, fault. Answers with the writer's
pid and, once it has ended, with its exit code: 0 all saved, 3 CheckpointError, minus the signal that killed it. On the
board, a file mapped into memory so that no system call is spent on it, the writer counts its finished saves and leaves
the error's message.
"""

import mmap
import os
import signal
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from forks import serve
from torch import Tensor

from birdjepa.checkpoint import store

RETENTION = store.RetentionConfig(keep_last=2)
BOARD_BYTES = 4096
REFUSED = 3


def state(step: int, version: int) -> dict[str, Tensor]:
    """Tensors that tell every (step, version) apart."""
    generator = torch.Generator().manual_seed(1000 * step + version)
    return {
        "weight": torch.randn(120, 200, generator=generator),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "step": torch.tensor(step),
        "mask": torch.rand(5, generator=generator) > 0.5,
        "registers": torch.empty(0, 16),
    }


def meta(step: int, version: int) -> dict[str, int]:
    return {"step": step, "version": version}


def save(folder: Path, step: int, version: int) -> None:
    store.save(folder, step, state(step, version), meta(step, version), retention=RETENTION)


def write_in_place(temporary: Path, target: Path) -> None:
    """Planted fault: the files get their final name before they are written."""
    target.mkdir(exist_ok=True)
    for file in sorted(temporary.iterdir()):
        (target / file.name).write_bytes(file.read_bytes())


def swap(temporary: Path, target: Path) -> None:
    """Planted fault: the old folder goes before the new one has its name."""
    if target.exists():
        store._discard(target)
    temporary.rename(target)


def delete_first(folder: Path) -> None:
    """Planted fault: room is made before there is anything to replace what goes."""
    for path in store._newest_first(folder):
        store._discard(path)


FAULTS = {
    "write in place": ("_publish", write_in_place),
    "swap": ("_publish", swap),
    "delete first": ("clear_leftovers", delete_first),
}


def write(folder: Path, board: Path, saves: list[list[int]], hold: bool, fault: str) -> int:
    with board.open("r+b") as file, mmap.mmap(file.fileno(), BOARD_BYTES) as memory:
        if fault:
            name, function = FAULTS[fault]
            setattr(store, name, function)
        if hold:
            os.kill(os.getpid(), signal.SIGSTOP)
        for n_saved, (step, version) in enumerate(saves, start=1):
            try:
                save(folder, step, version)
            except store.CheckpointError as error:
                text = str(error).encode()[: BOARD_BYTES - 16]
                memory[8 : 16 + len(text)] = struct.pack("<q", len(text)) + text
                return REFUSED
            memory[:8] = struct.pack("<q", n_saved)
    return 0


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), 0, 0)  # torch reads /sys at its first numbers: not a call of the store's
    serve(
        lambda trial: write(Path(trial["folder"]), Path(trial["board"]), trial["saves"], trial["hold"], trial["fault"])
    )


if __name__ == "__main__":
    main()
