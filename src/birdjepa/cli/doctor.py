"""`birdjepa doctor`: one screen that says what this machine can do; paste it into an issue."""

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec

import soundfile
import torch

from birdjepa.core.errors import EXIT_DONE, UsageError
from birdjepa.core.hardware import has_bf16
from birdjepa.core.provenance import provenance, versions
from birdjepa.train.loop import pick_device

EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb"}


def run(argv: Sequence[str]) -> int:
    if argv:
        raise UsageError("birdjepa doctor takes no arguments")
    for name, value in rows():
        print(f"{name:<14} {value}")
    return EXIT_DONE


def rows() -> list[tuple[str, str]]:
    """Name and finding, in reading order."""
    origin, device = provenance(), pick_device("auto")
    formats = soundfile.available_formats()
    wanted = ("WAV", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF")
    audio = " ".join(f"{name} {'yes' if name in formats else 'NO'}" for name in wanted)
    disk = shutil.disk_usage(".")
    return [
        ("birdjepa", f"{origin['birdjepa']} {origin['commit']}".strip()),
        ("python", f"{origin['python']} on {origin['platform']}"),
        ("packages", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("processor", f"{origin['cpu']}, {origin['n_cores']} cores, {torch.get_num_threads()} torch threads"),
        ("memory", memory()),
        ("accelerator", accelerator(device)),
        ("precision", "bf16 (this processor has instructions for it)" if has_bf16(device) else "fp32"),
        ("audio", f"{audio} ({soundfile.__libsndfile_version__})"),
        ("extras", ", ".join(f"{name} {'yes' if find_spec(module) else 'no'}" for name, module in EXTRAS.items())),
        ("free disk here", f"{disk.free / 1e9:.1f} of {disk.total / 1e9:.1f} GB"),
    ]


def memory() -> str:
    """Total and free memory where the system tells."""
    try:
        page, total, free = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (ValueError, OSError):
        return "unknown"
    return f"{page * free / 1e9:.1f} of {page * total / 1e9:.1f} GB free"


def accelerator(device: torch.device) -> str:
    """Name of the device that training would take."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else "none: CPU"
