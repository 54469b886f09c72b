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
    """Versions, commit, command and hardware, as plain JSON. Holds no names of users or hosts: the home folder in the
    command is written as ~.
    """
    return {
        "birdjepa": birdjepa.__version__,
        "commit": commit(),
        "command": ["birdjepa", *(argument.replace(str(Path.home()), "~") for argument in sys.argv[1:])],
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
    """Commit of the checkout that this code runs from, "-dirty" when it was changed; empty for an installed package,
    also where it is installed inside somebody else's checkout.
    """
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
