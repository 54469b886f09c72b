"""A scan of many small files: how fast, against plain ways, and whether it tells the truth about each.

python benchmarks/scan.py [--files 100000] [--no-record]

Writes a folder of WAV, FLAC, Ogg Vorbis and MP3 recordings of 0.15 to 0.4 s, one in a hundred damaged in varied ways
(tests/crowd.py), and scans it: headers only, deep, and headers only by a command that is killed (SIGKILL) when it is
half done and run again. Plain: soundfile.info on each file in a loop, which dies with the decoder. As before: isolated
workers that are given one file at a time. All times are with the folder walk; CPU seconds are those of all processes.
"""

import argparse
import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import soundfile

sys.path[:0] = [str(common.ROOT / "tests")]

import crowd  # noqa: E402 - beside the tests
from tiny_run import COMMAND  # noqa: E402

from birdjepa.audio.isolate import IsolatedWorkers  # noqa: E402
from birdjepa.audio.worker import hush  # noqa: E402
from birdjepa.data.scan import ScanReport, look, scan  # noqa: E402
from birdjepa.data.sources import open_data  # noqa: E402

N_WORKERS = 2


def files_of(folder: Path) -> list[tuple[str, Path]]:
    manifest = open_data(str(folder)).recordings()
    return [(key, manifest.path(row)) for row, key in enumerate(manifest.keys)]


def plain(folder: Path) -> float:
    """Hours of what opens, by soundfile.info in a loop."""
    hours = 0.0
    for _, path in files_of(folder):
        try:
            hours += soundfile.info(path).duration / 3600
        except (soundfile.SoundFileError, ZeroDivisionError):
            continue
    return hours


def one_at_a_time(folder: Path) -> int:
    """Rows of a headers-only look at each file, each given to a worker by itself."""
    items = [(key, str(path)) for key, path in files_of(folder)]
    with IsolatedWorkers(N_WORKERS) as workers:
        return sum(1 for _ in workers.map(functools.partial(look, deep=False), items, name=lambda item: item[1]))


def killed_and_resumed(folder: Path, n_files: int, out: Path) -> int:
    """Rows in the table of a headers-only scan that SIGKILL met when it was half done."""
    command = [*COMMAND, "data", "scan", str(folder), "--headers-only", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while first.poll() is None and not any(rows_in(path) > n_files / 2 for path in out.glob(".scan-*.journal")):
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    if first.returncode != -signal.SIGKILL:
        raise RuntimeError("the scan was done before it could be killed: take more files")
    code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    if code != 3:
        raise RuntimeError(f"the resumed scan ended with {code}")
    return rows_in(out / "files.csv") + rows_in(out / "failures.csv")


def rows_in(path: Path) -> int:
    """Lines but the first."""
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def measured(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of this process and the ended ones that it started, and the result."""
    began, used = time.perf_counter(), cpu_s()
    result = call()
    return time.perf_counter() - began, cpu_s() - used, result


def cpu_s() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def judged(report: ScanReport, truths: list[crowd.Truth]) -> str:
    wrong = crowd.wrong(truths, report)
    for line in wrong[:10]:
        print(line)
    n_damaged = sum(bool(truth.damage) for truth in truths)
    n_told = len(report.refused) + sum(bool(file.notes) for file in report.good)
    truth_hours, told = crowd.hours(truths), f"{n_told} of {n_damaged} damaged files listed, {len(wrong)} rows wrong"
    return f"{told}; {report.hours:.4f} hours, in truth {truth_hours:.4f}"


def main() -> None:
    options = parse()
    hush()  # what mpg123 says of the damaged files in the plain loop
    with tempfile.TemporaryDirectory() as temporary:
        folder, notes = Path(temporary) / "crowd", []
        truths = crowd.write(folder, options.files)
        files_of(folder)  # whatever is to be cached
        walk_s, _, _ = measured(lambda: files_of(folder))
        ways: dict[str, Callable[[], Any]] = {
            "soundfile.info in a loop": lambda: plain(folder),
            "one file at a time": lambda: one_at_a_time(folder),
            "scan, headers only": lambda: scan(files_of(folder), n_workers=N_WORKERS, deep=False),
            "scan, deep": lambda: scan(files_of(folder), n_workers=N_WORKERS),
            "headers only, killed, run again": lambda: killed_and_resumed(folder, len(truths), Path(temporary) / "out"),
        }
        rows, first_s = [], 0.0
        for name, way in ways.items():
            wall_s, used_s, result = measured(way)
            first_s = first_s or wall_s
            rows.append(
                {
                    "way": name,
                    "wall s": wall_s,
                    "CPU s": used_s,
                    "files/s": len(truths) / wall_s,
                    "times the loop's time": wall_s / first_s,
                }
            )
            if isinstance(result, ScanReport):
                notes.append(f"{name}: {judged(result, truths)}.")
            elif "killed" in name and result != len(truths):
                raise RuntimeError(f"{result} rows for {len(truths)} files")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    notes += [
        f"{len(truths)} files, {N_WORKERS} workers, {os.cpu_count()} cores; the folder walk takes {walk_s:.1f} s of "
        "each; the command that is killed starts twice (importing torch). The loop has no isolation, and one process.",
        f"Peak resident memory of this process: {peak:.0f} MiB, torch among it.",
        "Goals: 100 000 headers in under 2 minutes on 2 cores; every damage told that headers show, all by the deep "
        "scan; a kill costs no file and no more than what was in flight.",
    ]
    common.record("Scan: many small files", rows, notes, options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
