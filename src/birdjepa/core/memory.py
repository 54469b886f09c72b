"""Resident memory of processes.

What a process reports of itself when it ends (ru_maxrss) is at least what the process that started it held, for the two
share their memory until the new program begins. Linux tells the peak of the program alone.
"""

import resource
import sys
from pathlib import Path

MIB = 2**20


def peak_mib(process: int | None = None) -> float:
    """Peak of a process's resident memory so far, by default of this one; 0 where the system does not tell."""
    who = "self" if process is None else str(process)
    try:
        lines = Path(f"/proc/{who}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return rusage_mib(resource.getrusage(resource.RUSAGE_SELF)) if process is None else 0.0


def rusage_mib(usage: resource.struct_rusage) -> float:
    """Peak of resident memory as a process's own account says, in MiB."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def available_mib() -> float:
    """What the system can give a new process now; 0 where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0.0
