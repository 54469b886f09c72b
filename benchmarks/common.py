"""What the benchmark scripts share: fair timing, peak memory, and one section of RESULTS.md per run.

A script measures our way and a plain way in one run on the same inputs, prints a table of both, and appends it to
benchmarks/RESULTS.md unless --no-record is given:

    options = common.arguments(__doc__).parse_args()
    times = common.interleave({"plain": plain, "ours": ours}, repeats=7)
    rows = [{"way": name, "seconds": time.median} for name, time in times.items()]
    common.record("Title", rows, notes=["what was measured, and its goal"], options=options)
"""

import argparse
import dataclasses
import datetime
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall seconds of repeated calls. Compare medians; where other work runs too, minima say what the code can do."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        return min(self.seconds)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has; scripts may add their own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-record", action="store_true", help="print only, leave benchmarks/RESULTS.md alone")
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real recordings"
    )
    return parser


def interleave(ways: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, Timing]:
    """Times each way `repeats` times, in turns (A B A B ..), so that a change of the machine's load meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-warm_up, repeats):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def peak_memory(prepare: Callable[..., Callable[[], object]], *args: object) -> int:
    """Bytes by which a call's peak resident memory exceeds what was resident before it, in a fresh process. Linux only.

    `prepare(*args)` runs first and returns the call: inputs, imports and warm-up belong there. It must be a function of
    a module, for it is pickled with its arguments.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(sender, prepare, args))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the measured process died with exit code {child.exitcode}") from None
    finally:
        child.join()


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Markdown table; all rows have the same keys. Floats are shown to three significant digits."""
    names = list(rows[0])
    cells = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def record(title: str, rows: Sequence[Mapping[str, object]], notes: Sequence[str], options: argparse.Namespace) -> None:
    """Prints the section, and appends it to RESULTS.md unless options.no_record."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [f"## {title}", "", f"{today} · {_machine()} · {_software()}", "", table(rows), ""]
    section = "\n".join([*lines, *(f"- {note}" for note in notes)])
    print(section)
    if not options.no_record:
        head = RESULTS.read_text(encoding="utf-8").rstrip() if RESULTS.exists() else "# Measured"
        RESULTS.write_text(f"{head}\n\n{section.rstrip()}\n", encoding="utf-8")


def _measure_peak(sender: Connection, prepare: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> None:
    call = prepare(*args)
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from what is resident now
    before = _status("VmRSS")
    call()
    sender.send(_status("VmHWM") - before)


def _status(field: str) -> int:
    """Bytes of one of this process's memory counters."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory is measured on Linux only")


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        models = [line.split(":", 1)[1].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
        model = models[0] if models else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def _software() -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{versions}, {torch.get_num_threads()} threads · commit {_commit()}"


def _commit() -> str:
    """Short hash, with + where the working tree differs from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "none"


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
