"""Trials: a run of the real command line is disturbed, goes on, and must end as the undisturbed one did, bit for bit.

Each trial returns a Row; what is wrong with it is in words, and empty where all is well.
"""

import contextlib
import dataclasses
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from attempts import CALLS, Attempt, Call, Lane, Stuck, changes, traced
from tiny_run import RATE, differences, running, tiny, write_config, write_songs

from birdjepa.checkpoint import manifest, store
from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.core import random
from birdjepa.models.predictor import PredictorConfig
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.train.watchdog import STACKS

_REAL = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
from birdjepa.cli import main
sys.exit(main())
"""
SMALL = PredictorConfig(width=32, depth=1, heads=2)
OBJECTIVES = {
    "lejepa": None,
    "ajepa": AjepaConfig(predictor=SMALL, momentum=(0.5, 1.0)),
    "pixio": PixioConfig(decoder=SMALL),
}
DONE = (0, 3)
"""Exit codes of a finished run: 3 where recordings were refused, and one of the songs is damaged."""
FAILED, REQUEUE = 1, 75


@dataclasses.dataclass(frozen=True)
class Case:
    """A run to disturb."""

    objective: str = "lejepa"
    workers: int = 0
    steps: int = 8
    every: int = 2
    keep: int = 3
    report: bool = False
    engine: str = "single"

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in dataclasses.astuple(self))


@dataclasses.dataclass
class Row:
    """What a trial showed."""

    trial: str
    of: str
    wrong: list[str] = dataclasses.field(default_factory=list)
    landed: list[str] = dataclasses.field(default_factory=list)
    """Phase of each kill or signal."""
    seconds: float = 0.0
    """The longest from a signal, or from a fault, to the end."""


class Bench:
    """A lane, the songs, and the undisturbed runs that all others must equal."""

    def __init__(self, lane: Lane, shared: Path, *, fault: str = "") -> None:
        self.lane = lane
        self.shared = shared
        self.fault = fault
        """A fault of the product, planted in all attempts but the undisturbed ones."""
        self._n_runs = 0

    def songs(self) -> Path:
        folder = self.shared / "songs"
        return folder / "metadata.csv" if folder.exists() else write_songs(folder, 8, damaged=1)

    def config(self, case: Case, out: Path) -> Path:
        """A configuration file beside out."""
        config = tiny(
            self.songs(),
            out,
            workers=case.workers,
            steps=case.steps,
            checkpoint_every=case.every,
            retention=store.RetentionConfig(keep_last=case.keep),
            engine=case.engine,
        )
        objective = OBJECTIVES[case.objective] or config.objective
        config = dataclasses.replace(config, objective=objective, report=case.report)
        out.parent.mkdir(parents=True, exist_ok=True)
        return write_config(config, out.parent / "config-of-the-run.json")

    def reference(self, case: Case) -> Path:
        """The undisturbed run; workers change nothing, so there is one for all."""
        case = dataclasses.replace(case, workers=0)
        run = self.shared / "undisturbed" / case.name / "run"
        if not (run / "encoder" / "config.json").exists():
            shutil.rmtree(run.parent, ignore_errors=True)
            code, said = self.lane.do(["pretrain", "lejepa", "--config", str(self.config(case, run))])
            assert code in DONE, said
        return run

    def new(self, case: Case) -> Path:
        """A folder for a run, with its configuration beside it."""
        self._n_runs += 1
        run = self.lane.scratch / f"{self._n_runs:04d}" / "run"
        self.config(case, run)
        return run

    def begin(self, run: Path, *plants: list) -> Attempt:
        """Starts the run, or goes on with it."""
        start = ["pretrain", "lejepa", "--config", str(run.parent / "config-of-the-run.json")]
        argv = ["pretrain", "--resume", str(run)] if (run / "config.json").exists() else start
        return self.lane.begin(argv, *plants, fault=self.fault)

    def finish(self, case: Case, run: Path) -> list[str]:
        """Goes on to the end; what is wrong with it."""
        before = newest(run)
        attempt = self.begin(run)
        code = attempt.ended()
        wrong = [] if code in DONE else [f"the last attempt ended with {code}"]
        wrong += no_nonsense(attempt, code, restored=before)
        if code in DONE:
            wrong += unlike(self.reference(case), run)
        wrong += left_over(run, attempt)
        shutil.rmtree(run.parent)
        return wrong


# ---- what must hold


def unlike(reference: Path, run: Path) -> list[str]:
    """What differs from the undisturbed run: tensors, meta, metrics, export, refused recordings, kept checkpoints
    (their number only: a stop signal saves in between).
    """
    wrong = [f"differs: {', '.join(found[:3])} ..." for found in [differences(reference, run)] if found]
    for name in ("failures.csv", "encoder/config.json"):
        texts = [
            _without_origin((each / name).read_text()) if (each / name).exists() else "" for each in (reference, run)
        ]
        wrong += [] if texts[0] == texts[1] else [f"differs: {name}"]
    kept = [sum(map(manifest.looks_whole, (each / "checkpoints").glob("step-*"))) for each in (reference, run)]
    return wrong + ([] if kept[0] == kept[1] else [f"kept {kept[1]} checkpoints, not {kept[0]}"])


def _without_origin(text: str) -> str:
    return re.sub(r'"(provenance|command)": (\{.*?\n  \}|\[.*?\])', "", text, flags=re.DOTALL)


def intact(run: Path, saved: int = 0) -> list[str]:
    """After a death: everything that is listed is whole and finite, and nothing that was saved is gone."""
    told: list[str] = []
    try:
        found = store.latest(run / "checkpoints", warn=told.append)
    except CheckpointError as error:
        return [str(error)]
    wrong = [f"corrupt: {line}" for line in told]
    newest = found.step if found else 0
    if newest < saved:
        wrong.append(f"step {saved} was saved, and the newest is {newest}")
    for path in store._newest_first(run / "checkpoints"):
        with contextlib.suppress(CheckpointError):  # told above
            for name, tensor in store.load(path).tensors.items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    wrong.append(f"{path.name}: {name} is not finite")
    return wrong


def newest(run: Path) -> int:
    steps = [int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*")]
    return max(steps, default=0)


def no_nonsense(attempt: Attempt, code: int, *, restored: int = 0) -> list[str]:
    """No traceback, no damage told, and no start from zero where there is a checkpoint."""
    said = attempt.said()
    wrong = [f"said: {word}" for word in ("damaged checkpoint", "another process") if word in said]
    wrong += [f"traceback: {said.strip()[-300:]}"] if "Traceback" in said else []
    if restored and attempt.entered("step") and f"going on from step {restored} of" not in said:
        wrong.append(f"did not go on from step {restored}")
    return wrong + ([f"ended with {code}"] if code == 2 else [])


def orphans(attempt: Attempt) -> list[str]:
    """Workers must die with the process that they work for."""
    deadline = time.monotonic() + 5
    while attempt.group() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [f"processes left: {attempt.group()}"] if attempt.group() else []


def left_over(run: Path, attempt: Attempt) -> list[str]:
    """Processes and half-written files that a finished run must not leave."""
    wrong = orphans(attempt)
    files = [path.name for path in run.rglob(".*") if path.name != ".lock" and "report" not in path.name]
    if not attempt.entered("save"):  # it is the next save that clears away what could not be deleted
        files = [name for name in files if not name.startswith((".deleting-", ".writing-"))]
    return wrong + ([f"files left: {files}"] if files else [])


# ---- kill -9 at random moments


def kills(bench: Bench, case: Case, seed: int, n_kills: int) -> Row:
    """A run that is killed n times before it may finish: at any moment, or aimed at a save, the export, the start."""
    row = Row("kill -9 at random moments", f"{case.name}, seed {seed}, {n_kills} kills")
    rng = random.generator(seed, "torture", "kills")
    run = bench.new(case)
    before = 0
    for _ in range(n_kills):
        attempt = bench.begin(run)
        aim = rng.choice(["any", "save", "start"], p=[0.4, 0.4, 0.2]) if newest(run) < case.steps else "export"
        if aim == "save":
            n = int(rng.integers(1, 3))
            attempt.wait_for(lambda: attempt.entered("save") >= n)  # noqa: B023
            time.sleep(rng.uniform(0, 0.06))
        elif aim == "export":
            attempt.wait_for(lambda: attempt.phase() == "export")  # noqa: B023
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, 1.2 if aim == "any" else 0.3))
        phase = attempt.phase()
        attempt.send(signal.SIGKILL, to_group=bool(rng.integers(2)))
        code = attempt.ended()
        row.landed.append(phase if code == -signal.SIGKILL else "after the end")
        row.wrong += no_nonsense(attempt, code, restored=before)
        row.wrong += [] if code in (-signal.SIGKILL, *DONE) else [f"ended with {code} instead of being killed"]
        row.wrong += intact(run, attempt.saved()) + orphans(attempt)
        before = newest(run)
    row.wrong += bench.finish(case, run)
    return row


def killed_importing(bench: Bench, case: Case, seed: int) -> Row:
    """A real process, killed while it imports or begins."""
    row = Row("kill -9 while importing", f"{case.name}, seed {seed}")
    run = bench.new(case)
    file = run.parent / "config-of-the-run.json"
    with _real("pretrain", "lejepa", "--config", str(file)) as child:
        time.sleep(random.generator(seed, "torture", "importing").uniform(0, 4))
        row.landed.append("step" if newest(run) else "imports and start-up")
        child.kill()
    row.wrong = intact(run) + bench.finish(case, run)
    return row


def _real(*arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """`birdjepa ...` in a process that imports everything itself."""
    command = [sys.executable, "-c", _REAL, *arguments]
    return running(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


# ---- crash points and storage errors, enumerated with strace


def calls_of(bench: Bench, case: Case, phase: str, n: int) -> list[Call]:
    """What an undisturbed run calls that changes its folder: from the n-th entry of a phase to the phase's end; of
    start-up to the end of the run, without what is inside a save.
    """
    run = bench.new(case)
    attempt = bench.begin(run, ["hold", phase, n])
    with traced(attempt, "-e", f"trace={CALLS}") as log:
        attempt.ended()
    found = changes(log, run, until="" if phase == "start-up" else phase)
    if phase == "start-up":
        inside = set(changes(log, run / "checkpoints"))
        found = [call for call in found if call not in inside]
    shutil.rmtree(run.parent)
    return found


def crash_at(bench: Bench, case: Case, phase: str, n: int, call: Call) -> Row:
    """A kill at one system call of a run."""
    row = Row("kill at a system call", f"{phase} {n}, {call[0]} {call[1]}")
    run = bench.new(case)
    attempt = bench.begin(run, ["hold", phase, n])
    with traced(attempt, "-e", f"trace={call[0]}", "-e", f"inject={call[0]}:signal=KILL:when={call[1]}"):
        code = attempt.ended()
    row.landed.append(attempt.phase())
    row.wrong += [] if code == -signal.SIGKILL else [f"ended with {code} instead of being killed"]
    row.wrong += intact(run, attempt.saved()) + bench.finish(case, run)
    return row


def error_at(bench: Bench, case: Case, call: Call, error: str, *, onwards: bool = False) -> Row:
    """A storage error at one system call of the second save of a run, or at that one and all later ones of its kind."""
    row = Row("storage error in a save", f"{error}{' onwards' if onwards else ''}, {call[0]} {call[1]}")
    run = bench.new(case)
    before = case.every
    attempt = bench.begin(run, ["hold", "save", 2])
    attempt.wait_for(lambda: attempt.state() == "T")
    kept = contents(run / "checkpoints")
    when = f"{call[1]}+" if onwards else str(call[1])
    with traced(attempt, "-e", f"trace={call[0]}", "-e", f"inject={call[0]}:error={error}:when={when}"):
        code = attempt.ended()
    said = attempt.said()
    allowed = (*DONE, REQUEUE, FAILED) if onwards else DONE
    row.wrong += [] if code in allowed else [f"ended with {code}"]
    row.wrong += no_nonsense(attempt, code)
    if f"checkpoint of step {2 * before} not written" in said:
        row.wrong += [] if "bytes free" in said and str(run) in said else ["the message lacks path or room"]
        row.wrong += [] if onwards or "the run goes on and saves again" in said else ["did not go on"]
    if onwards and code not in DONE:
        after = contents(run / "checkpoints")
        changed = [path for path, data in kept.items() if after.get(path) != data]
        # a deletion that fails half-way has been unlisted before, and a newer checkpoint is there
        row.wrong += [f"changed: {changed}"] if changed and newest(run) == before else []
    row.wrong += intact(run, attempt.saved()) + bench.finish(case, run)
    return row


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def synced_in_order(bench: Bench, case: Case) -> Row:
    """Rows and files reach the disk before the name that promises them: seen by the kernel."""
    row = Row("order of syncs", case.name)
    run = bench.new(case)
    attempt = bench.begin(run, ["hold", "step", case.every])
    with traced(attempt, "-e", f"trace={CALLS}") as log:
        attempt.ended()
    lines = log.read_text(errors="replace").splitlines()
    step = f"step-{case.every:08d}"
    patterns = [
        r"fsync\(.*metrics\.jsonl>",
        rf"fsync\(.*\.writing-{step}[^/]*/state\.safetensors>",
        rf"fsync\(.*\.writing-{step}[^/]*/manifest\.json>",
        rf"fsync\(.*\.writing-{step}[^/]*>\)",
        rf"rename.*/{step}\"",
        r"fsync\(.*/checkpoints>",
    ]
    at = -1
    for pattern in patterns:
        later = [number for number, line in enumerate(lines) if number > at and re.search(pattern, line)]
        if not later:
            row.wrong.append(f"not there, or too early: {pattern}")
            break
        at = later[0]
    shutil.rmtree(run.parent)
    return row


# ---- disks that are full, without strace


def full_for_a_while(bench: Bench, case: Case, kind: str, *, stays: bool) -> Row:
    """Saves or rows fail for lack of room; the disk gets room again, or stays full and the run ends with 75."""
    row = Row("full disk", f"{kind}, {'for good' if stays else 'for a while'}")
    last = 99 if stays else 3
    plant = ["small files", 2, last, 10_000] if kind == "quota" else ["no rows", 3, 2 * last]
    run = bench.new(case)
    attempt = bench.begin(run, plant)
    code, said = attempt.ended(), attempt.said()
    row.wrong += no_nonsense(attempt, code)
    row.wrong += [] if "bytes free" in said else ["the room is not told"]
    row.wrong += [] if said.count("the run goes on and saves again") >= 2 else ["the run did not go on"]
    if stays:
        row.wrong += (
            [] if code == REQUEUE and "3 saves in a row have failed" in said else [f"ended with {code}: {said[-200:]}"]
        )
    else:
        row.wrong += [] if code in DONE else [f"ended with {code}"]
    row.wrong += intact(run, attempt.saved()) + bench.finish(case, run)
    return row


def full_tmpfs(bench: Bench, case: Case) -> Row:
    """A real small file system fills up in mid-run, and is made larger before the run goes on."""
    row = Row("full disk", "a tmpfs of 5 MB")
    run = bench.new(case)
    run.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(run)], capture_output=True)
    if mount.returncode:
        row.of += ": not permitted here, left out"
        return row
    try:
        attempt = bench.begin(run)
        code, said = attempt.ended(), attempt.said()
        full = "No space left on device" in said and "bytes free" in said
        row.wrong += [] if code == REQUEUE and full else [f"ended with {code}: {said[-200:]}"]
        row.wrong += no_nonsense(attempt, code) + intact(run, attempt.saved())
        subprocess.run(["mount", "-o", "remount,size=30m", str(run)], check=True)
        attempt = bench.begin(run)
        code = attempt.ended()
        row.wrong += [] if code in DONE else [f"ended with {code}: {attempt.said()[-200:]}"]
        row.wrong += unlike(bench.reference(case), run) + left_over(run, attempt)
    finally:
        subprocess.run(["umount", str(run)], check=False)
    shutil.rmtree(run.parent)
    return row


# ---- damaged checkpoints


def half_done(bench: Bench, case: Case) -> Path:
    """A run that was stopped in its middle, with two checkpoints or more; made once."""
    run = bench.lane.scratch / f"half-{case.name}" / "run"
    if not run.exists():
        bench.config(case, run)
        fault, bench.fault = bench.fault, ""
        attempt = bench.begin(run, SLOW)
        attempt.wait_for(lambda: attempt.entered("step") > 2 * case.every)
        attempt.send(signal.SIGTERM)
        assert attempt.ended() == REQUEUE, attempt.said()
        bench.fault = fault
    return run


def copy_of(bench: Bench, case: Case, run: Path) -> Path:
    copy = bench.new(case)
    shutil.copytree(run, copy, symlinks=True)
    return copy


def damaged(
    bench: Bench, case: Case, kind: str, name: str, damage: Callable[[Path], None], *, all_of_them: bool
) -> Row:
    """The newest checkpoint is damaged between two attempts, or each one is."""
    row = Row("damaged checkpoint", f"{'all' if all_of_them else 'newest'}, {name} {kind}")
    run = copy_of(bench, case, half_done(bench, case))
    paths = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    for path in paths if all_of_them else paths[:1]:
        damage(path / name)
    attempt = bench.begin(run)
    code, said = attempt.ended(), attempt.said()
    told = re.findall(r"damaged checkpoint passed over: (.*)", said)
    row.wrong += [] if len(told) == (len(paths) if all_of_them else 1) else [f"told {len(told)} times"]
    row.wrong += [] if all(any(path.name in line for line in told) for path in paths[: len(told)]) else ["not named"]
    if all_of_them:
        row.wrong += [] if code == FAILED and "none of the" in said else [f"ended with {code}"]
        row.wrong += [] if not attempt.entered("step") else ["trained from zero"]
    else:
        second = int(paths[1].name[5:])
        row.wrong += [] if f"going on from step {second} of" in said else [f"did not go on from step {second}"]
        row.wrong += unlike(bench.reference(case), run) if code in DONE else [f"ended with {code}"]
    shutil.rmtree(run.parent)
    return row


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def older(file: Path) -> None:
    """The same file of an older checkpoint."""
    first = min(file.parents[1].glob("step-*"))
    if first != file.parent:
        shutil.copy(first / file.name, file)
    else:
        file.unlink()


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "bit flipped": flipped,
    "cut in half": halved,
    "deleted": Path.unlink,
    "of another step": older,
    "made a pipe": piped,
}
FILES = (manifest.STATE, manifest.META, manifest.MANIFEST)


# ---- workers


def dying_worker(bench: Bench, case: Case, fault: str, *, watchdog_s: float | None = 3.0, limit_s: float = 60.0) -> Row:
    """A worker dies, stops or sends nonsense in the middle of a run, which must end within a limit. watchdog_s None
    leaves the watchdog as it is.
    """
    row = Row("worker", fault if watchdog_s else f"{fault}, the watchdog as delivered")
    run = bench.new(case)
    n_batches = 2 * case.steps
    plants = [["worker", fault, n_batches // 2], *([["quick watchdog", watchdog_s]] if watchdog_s else [])]
    attempt = bench.begin(run, *plants)
    try:
        attempt.wait_for(lambda: attempt.entered("step") >= case.steps // 2 - 4)
        began = time.monotonic()
        code = attempt.ended(limit_s)
        row.seconds = time.monotonic() - began
    except Stuck as error:
        shutil.rmtree(run.parent)
        row.wrong.append(str(error))
        return row
    said = attempt.said()
    named = "a process that decodes recordings failed" in said or "_Unpicklable" in said
    ended = code == REQUEUE and "the process is stuck and ends" in said and (run / STACKS).exists()
    row.landed.append("watchdog" if ended else "named error")
    row.wrong += [] if (code == FAILED and named) or ended else [f"ended with {code}: {said[-300:]}"]
    row.wrong += left_over(run, attempt) + intact(run, attempt.saved()) + bench.finish(case, run)
    return row


# ---- numbers


def poisoned(bench: Bench, case: Case, where: str, step: int, value: float) -> Row:
    """A number that is none in one step: the run stops, what is saved is what was before, and it goes on from there."""
    row = Row("numbers", f"{where} times {value:g} in step {step + 1}")
    run = bench.new(case)
    attempt = bench.begin(run, ["poison", where, step, value])
    code, said = attempt.ended(), attempt.said()
    row.wrong += [] if code == FAILED else [f"ended with {code}"]
    row.wrong += no_nonsense(attempt, code) + intact(run, attempt.saved())
    if where == "averaged weights":
        row.wrong += [] if "holds NaN or infinity" in said else ["not told"]
    else:
        row.wrong += (
            [] if f"step {step + 1}: loss" in said and "recordings: " in said else ["step or recordings not told"]
        )
        row.wrong += [] if newest(run) == step else [f"the newest checkpoint is of step {newest(run)}"]
    row.wrong += bench.finish(case, run)
    return row


def bad_recording(bench: Bench, case: Case, value: float) -> Row:
    """A recording with a sample that is no number, or is absurd, among the others."""
    row = Row("numbers", f"a recording with samples of {value:g}")
    run = bench.new(case)
    songs = run.parent / "songs"
    write_songs(songs, 6)
    samples = (0.1 * np.sin(np.arange(RATE) / 5)).astype(np.float32)
    samples[100:200] = value
    soundfile.write(songs / "000.wav", samples, RATE, subtype="FLOAT")
    config = tiny(songs / "metadata.csv", run, steps=case.steps, checkpoint_every=case.every)
    write_config(config, run.parent / "config-of-the-run.json")
    attempt = bench.begin(run)
    code, said = attempt.ended(), attempt.said()
    listed = (run / "failures.csv").exists() and "000.wav" in (run / "failures.csv").read_text()
    stopped = code == FAILED and "000.wav" in said
    row.landed.append("refused" if code == 3 else "stopped" if code == FAILED else "trained on")
    row.wrong += (
        [] if (code == 3 and listed) or stopped or (code == 0 and np.isfinite(value)) else [f"{code}: {said[-200:]}"]
    )
    row.wrong += no_nonsense(attempt, code) + intact(run, attempt.saved())
    shutil.rmtree(run.parent)
    return row


# ---- signals

SLOW = ["slow", 0.2]
"""Steps so long that a signal still finds the run where it was seen."""
MOMENTS = ("restore", "first step", "step", "save", "last step", "export")


def signalled(bench: Bench, case: Case, name: str, moment: str, seed: int) -> Row:
    """A stop signal at a moment: a checkpoint and 75 in time, or the run is done; then it goes on."""
    row = Row("signals", f"{name} in {moment}")
    number = signal.Signals[name]
    run = copy_of(bench, case, half_done(bench, case)) if moment == "restore" else bench.new(case)
    attempt = bench.begin(run, SLOW)
    there: dict[str, Callable[[], bool]] = {
        "restore": lambda: attempt.entered("restore") > 0,
        "first step": lambda: attempt.entered("step") > 0,
        "step": lambda: attempt.entered("step") > case.steps // 2,
        "save": lambda: attempt.entered("save") > 1,
        "last step": lambda: attempt.entered("step") == case.steps,
        "export": lambda: attempt.phase() == "export",
    }
    attempt.wait_for(there[moment])
    time.sleep(random.generator(seed, "torture", "signal").uniform(0, 0.02))
    row.landed.append(attempt.phase() if not attempt.is_over() else "after the end")
    attempt.send(number)
    began = time.monotonic()
    code = attempt.ended()
    row.seconds = time.monotonic() - began
    allowed = (REQUEUE, *DONE) if moment in ("last step", "export", "save") else (REQUEUE,)
    row.wrong += [] if code in allowed else [f"ended with {code}"]
    row.wrong += [] if row.seconds < 25 else [f"took {row.seconds:.0f} s"]
    row.wrong += no_nonsense(attempt, code) + intact(run, attempt.saved())
    stopped = re.search(r"stopped at step (\d+), saved", attempt.said())
    if code == REQUEUE and "stopped before its first step" not in attempt.said():
        row.wrong += [] if stopped and int(stopped[1]) == newest(run) else ["what was saved is not what was told"]
    row.wrong += bench.finish(case, run)
    return row


def signalled_twice(bench: Bench, case: Case, name: str) -> Row:
    """A second signal a second later, in steps so long that the first has not ended the run yet."""
    row = Row("signals", f"{name} twice")
    run = bench.new(case)
    attempt = bench.begin(run, ["slow", 1.5])
    attempt.wait_for(lambda: attempt.entered("step") > 3)
    attempt.send(signal.Signals[name])
    began = time.monotonic()
    time.sleep(1)
    row.landed.append(attempt.phase())
    attempt.send(signal.Signals[name])
    code = attempt.ended()
    row.seconds = time.monotonic() - began
    row.wrong += [] if code in (-signal.Signals[name], REQUEUE) else [f"ended with {code}"]
    row.wrong += [] if row.seconds < 25 else [f"took {row.seconds:.0f} s"]
    row.wrong += intact(run, attempt.saved()) + bench.finish(case, run)
    return row


def signalled_importing(bench: Bench, case: Case, name: str, seed: int) -> Row:
    """A stop signal to a real process that is still importing. Its limit is in processor seconds, for much of this is
    work, which takes longer where others work too.
    """
    row = Row("signals", f"{name} while importing")
    run = bench.new(case)
    worked_before = _worked_s()
    with _real("pretrain", "lejepa", "--config", str(run.parent / "config-of-the-run.json")) as child:
        time.sleep(random.generator(seed, "torture", "importing").uniform(0.4, 2.5))
        row.landed.append("start-up" if not run.exists() else "later")
        child.send_signal(signal.Signals[name])
        began = time.monotonic()
        _, said = child.communicate(timeout=240)
        row.seconds = min(time.monotonic() - began, _worked_s() - worked_before)
    row.wrong += [] if child.returncode == REQUEUE else [f"ended with {child.returncode}: {said[-200:]}"]
    row.wrong += [] if row.seconds < 25 else [f"took {row.seconds:.0f} s"]
    row.wrong += intact(run) + bench.finish(case, run)
    return row


def _worked_s() -> float:
    """Processor seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def guarded(trial: Callable[..., Row], bench: Bench, *args: Any, **kwargs: Any) -> Row:
    """The trial's row, also where it got stuck or broke: that is wrong too."""
    began = time.monotonic()
    try:
        row = trial(bench, *args, **kwargs)
    except (Stuck, AssertionError, OSError, CheckpointError) as error:
        row = Row(trial.__name__, str(args[1:])[:80], [f"{type(error).__name__}: {error}"])
    row.seconds = row.seconds or time.monotonic() - began
    return row
