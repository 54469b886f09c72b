"""Runs in processes of their own, for jobs that make several: from where they stand to their end, and what they logged.

A process for each, so that its memory can be told and its failure is only its own. A signal is passed on once, to be
answered by a save.
"""

import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from birdjepa.core import config as configs
from birdjepa.core import files, memory
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, EXIT_REQUEUE, Interrupted, UsageError, UserError
from birdjepa.recipes.any_run import RUNS
from birdjepa.recipes.config import RunConfig
from birdjepa.train.signals import StopSignal
from birdjepa.train.sinks import METRICS, read_metrics

COMMAND = (sys.executable, "-m", "birdjepa")
"""The command line of this installation."""
MEMORY = "memory.json"
"""Peak of the memory of a run that was trained apart."""
POLL_S = 0.05


def is_finished(folder: Path) -> bool:
    """Whether a run has exported what it was for."""
    return any((folder / kind.exports / "config.json").exists() for kind in RUNS.values())


def train(config: RunConfig, signal: StopSignal) -> bool:
    """Runs it to its end in config.out, from where it stands; whether there was anything left to do.

    Raises:
      UsageError: if the folder holds another run.
      Interrupted: a signal came; the run is saved.
      UserError: if it failed, with the last line that it said.
    """
    folder = config.out
    if (folder / "config.json").exists():
        require_same(config)
        if is_finished(folder):
            return False
        arguments = ["--resume", str(folder)]
    else:
        asked = folder.with_name(f"{folder.name}.json")
        files.write_json(asked, configs.to_json(config))
        arguments = ["--config", str(asked)]
    code, said, peak_mib = _watched([*COMMAND, "pretrain", *arguments], signal)
    if code == EXIT_REQUEUE or (signal.stop() and code not in (EXIT_DONE, EXIT_PARTIAL)):
        raise Interrupted(f"stopped in {folder}; the same command goes on")
    if code not in (EXIT_DONE, EXIT_PARTIAL):
        raise UserError(f"{folder}: pretraining ended with exit code {code}: {said}")
    files.write_json(folder / MEMORY, {"peak_mib": peak_mib})
    return True


def require_same(config: RunConfig) -> None:
    """Refuses a folder that holds another run than config's.

    Raises:
      UsageError: saying how it differs.
    """
    differs = configs.difference(configs.read_file(config.out / "config.json"), configs.to_json(config))
    if differs:
        raise UsageError(f"{config.out}: holds another run ({'; '.join(differs[:3])}); choose another --out")


def peak_memory_mib(folder: Path) -> float:
    """Peak of the memory that a run trained apart took; its workers not counted."""
    return float(configs.read_file(folder / MEMORY)["peak_mib"])


def step_seconds(folder: Path) -> float:
    """Median time of the logged steps but the first, which warms up; NaN where none is logged."""
    rows = read_metrics(folder / METRICS)
    times = [row["step_s"] for row in rows if row["step"] > 1 and row.get("step_s")]
    return statistics.median(times) if times else math.nan


def loss_curve(folder: Path) -> Iterator[tuple[int, float]]:
    """Step and loss of each logged step."""
    yield from ((row["step"], row["loss"]) for row in read_metrics(folder / METRICS) if row.get("loss") is not None)


def _watched(command: list[str], signal: StopSignal) -> tuple[int, str, float]:
    """Exit code, the last line on the error stream (all of which is passed on), peak of resident memory in MiB."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    last = [""]
    teller = threading.Thread(target=_tell_on, args=(process, last), daemon=True)
    teller.start()
    told, peak_mib = False, 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak_mib = max(peak_mib, memory.peak_mib(process.pid))
        if signal.stop() and not told:
            process.terminate()
            told = True
        time.sleep(POLL_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    teller.join(timeout=5.0)
    return process.returncode, last[0], peak_mib or memory.rusage_mib(usage)


def _tell_on(process: "subprocess.Popen[str]", last: list[str]) -> None:
    """Passes the lines of the error stream on, and keeps the last one that says something."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            if line.strip():
                last[0] = line.strip().removeprefix("birdjepa: ")
