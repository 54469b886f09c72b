"""Where a result came from: versions, code, machine. Every run, table and report carries it."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import birdjepa


def provenance() -> dict[str, Any]:
    """Versions, commit, command and hardware, as plain JSON. Holds no names of users or hosts."""
    return {
        "birdjepa": birdjepa.__version__,
        "commit": commit(),
        "command": ["birdjepa", *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "n_cores": os.cpu_count(),
        "packages": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    found = {}
    for name in ("torch", "numpy", "soundfile", "soxr", "safetensors", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Commit of the checkout that this code runs from, "-dirty" when it was changed; empty for an installed package."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
