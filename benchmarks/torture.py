"""Torture: whole runs of the command line under kills, storage faults, damage, dying workers, bad numbers and signals.

python benchmarks/torture.py [--lanes 2] [--scale 1.0] [--seed 0] [--only kills,signals] [--log rows.jsonl]

Every disturbed run goes on and must end as the undisturbed one did: tensors, metrics, meta and export, bit for bit.
Then faults are planted in the product, and some trial must notice each. Trials are in tests/torture; a small part of
them runs in every test run. Prints what is wrong as it comes, and a scoreboard; exits with 1 if anything is.
"""

import argparse
import collections
import dataclasses
import json
import math
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import torch

sys.path[:0] = [str(common.ROOT / "tests"), str(common.ROOT / "tests" / "torture")]

import attempts  # noqa: E402 - beside the tests
import pairs  # noqa: E402
import plants  # noqa: E402
import trials  # noqa: E402
from trials import Bench, Case, Row  # noqa: E402

Trial = tuple[str, Callable[[Bench], Row]]
"""Section, and what to do."""

CASE = Case()
SAVES = Case(steps=6, keep=1)
"""Its second save deletes a checkpoint, and one more follows."""
WHOLE = Case(steps=2, every=1)
FULL = Case(steps=12)
WORKERS = Case(workers=2, steps=12)
KILLED = [
    Case(steps=24),
    Case(steps=24, workers=2),
    Case(objective="ajepa", steps=24),
    Case(objective="pixio", steps=24, workers=2),
    Case(steps=24, report=True),
]
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")


def of(trial: Callable[..., Row], *args: Any, **kwargs: Any) -> Callable[[Bench], Row]:
    return lambda bench: trials.guarded(trial, bench, *args, **kwargs)


def kills(seed: int, scale: float) -> Iterator[Trial]:
    for number in range(math.ceil(25 * scale)):
        yield "kills", of(trials.kills, KILLED[number % len(KILLED)], 1000 * seed + number, 5 + number % 6)
    for number in range(math.ceil(10 * scale)):
        yield "kills", of(trials.killed_importing, CASE, 1000 * seed + number)


def crash_points(bench: Bench, scale: float) -> Iterator[Trial]:
    for case, phase, n in ((SAVES, "save", 1), (SAVES, "save", 2), (WHOLE, "start-up", 1)):
        for call in thinned(trials.calls_of(bench, case, phase, n), scale):
            yield "crash points", of(trials.crash_at, case, phase, n, call)


def storage(bench: Bench, scale: float) -> Iterator[Trial]:
    calls = trials.calls_of(bench, SAVES, "save", 2)
    for error in ERRORS:
        for call in thinned(calls, scale):
            yield "storage", of(trials.error_at, SAVES, call, error)
    for error in ERRORS[:2]:
        for call in thinned(calls[:: 2 if error == "EIO" else 1], scale):
            yield "storage", of(trials.error_at, SAVES, call, error, onwards=True)
    yield "storage", of(trials.synced_in_order, CASE)


def disks(scale: float) -> Iterator[Trial]:
    for kind in ("quota", "rows"):
        for stays in (False, True):
            yield "storage", of(trials.full_for_a_while, FULL, kind, stays=stays)
    yield "storage", of(trials.full_tmpfs, FULL)


def damage(scale: float) -> Iterator[Trial]:
    for kind, how in trials.DAMAGES.items():
        for name in trials.FILES:
            yield "damage", of(trials.damaged, CASE, kind, name, how, all_of_them=False)
        yield "damage", of(trials.damaged, CASE, kind, trials.FILES[0], how, all_of_them=True)


def workers(scale: float) -> Iterator[Trial]:
    for fault in plants.WORKER_FAULTS:
        yield "workers", of(trials.dying_worker, WORKERS, fault)
    if scale >= 1:
        yield "workers", of(trials.dying_worker, WORKERS, "SIGSTOP", watchdog_s=None, limit_s=200.0)


def numbers(scale: float) -> Iterator[Trial]:
    for step in (0, 1, 5):
        for where in ("loss", "gradient"):
            for value in (math.nan, math.inf, 1e30):
                yield "numbers", of(trials.poisoned, CASE, where, step, value)
        for value in (math.nan, math.inf):
            yield "numbers", of(trials.poisoned, CASE, "averaged weights", step, value)
    for value in (math.nan, math.inf, 1e30):
        yield "numbers", of(trials.bad_recording, CASE, value)


def signals(seed: int, scale: float) -> Iterator[Trial]:
    for number, name in enumerate(SIGNALS):
        for moment in trials.MOMENTS:
            yield "signals", of(trials.signalled, CASE, name, moment, 1000 * seed + number)
        yield "signals", of(trials.signalled_twice, CASE, name)
        yield "signals", of(trials.signalled_importing, CASE, name, 1000 * seed + number)


def ranks(
    lane: attempts.Lane, other: attempts.Lane, shared: Path, seed: int, scale: float
) -> Iterator[tuple[str, Row]]:
    """Two processes at a time, on two lanes."""
    bench = Bench(lane, shared)
    for engine in ("ddp", "fsdp"):
        case = Case("pixio", engine=engine, steps=16)
        for number in range(math.ceil(3 * scale)):
            yield "ranks", trials.guarded(pairs.lost_rank, bench, other, case, 1000 * seed + number, 4)
        yield "ranks", trials.guarded(pairs.lost_rank, bench, other, case, 1000 * seed, 1, name="SIGSTOP")


def planted(lane: attempts.Lane, shared: Path, can_trace: bool) -> Iterator[tuple[str, Row]]:
    """Each fault of the product with the first trial that notices it, or the last one that did not."""
    saves = [("save", 2, ("fsync", 1)), ("save", 2, ("fsync", 3)), ("save", 2, ("mkdir", 1))]
    crash = [of(trials.crash_at, SAVES, *point) for point in saves]
    stopped = [of(trials.signalled, CASE, "SIGTERM", "step", 0)]
    by: dict[str, list[Callable[[Bench], Row]]] = {
        "saved in place": [of(trials.crash_at, SAVES, "save", 2, ("openat", n)) for n in range(12, 24, 2)],
        "old checkpoints deleted first": crash,
        "no fsync": [of(trials.synced_in_order, CASE)],
        "averaged weights forgotten": stopped,
        "optimiser forgotten": stopped,
        "one step late after a resume": stopped,
        "starts again at step 0": stopped,
        "rows twice": crash[2:],
        "hashes dropped": [of(trials.damaged, CASE, "bit flipped", trials.FILES[0], trials.flipped, all_of_them=False)],
        "failed saves swallowed": [of(trials.full_for_a_while, FULL, "quota", stays=True)],
        "guard against NaN dropped": [of(trials.poisoned, CASE, "gradient", 5, math.nan)],
        "checkpoints may hold NaN": [of(trials.poisoned, CASE, "averaged weights", 5, math.nan)],
        "signals not heard": stopped,
        "no watchdog": [of(trials.dying_worker, WORKERS, "SIGSTOP", limit_s=20.0)],
    }
    assert by.keys() == plants.FAULTS.keys()
    for fault, ways in by.items():
        if fault in ("saved in place", "old checkpoints deleted first", "no fsync", "rows twice") and not can_trace:
            continue
        row = Row("planted fault", fault)
        for way in ways:
            row = way(Bench(lane, shared, fault=fault))
            if row.wrong:
                break
        noticed = Row("planted fault", f"{fault}: {'; '.join(row.wrong)[:160]}", seconds=row.seconds)
        noticed.wrong = [] if row.wrong else ["not noticed"]
        yield "planted faults", noticed


def thinned(points: list[Any], scale: float) -> list[Any]:
    return points[:: max(1, round(1 / scale))]


def run(todo: list[Trial], lanes: list[attempts.Lane], shared: Path, note: Callable[[str, Row], None]) -> None:
    """Does all trials, one lane beside the other."""
    left: queue.SimpleQueue[Trial] = queue.SimpleQueue()
    for trial in todo:
        left.put(trial)

    def work(lane: attempts.Lane) -> None:
        bench = Bench(lane, shared)
        while True:
            try:
                section, trial = left.get_nowait()
            except queue.Empty:
                return
            note(section, trial(bench))

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def scoreboard(rows: list[tuple[str, Row]]) -> list[dict[str, object]]:
    board = []
    for section in dict.fromkeys(section for section, _ in rows):
        own = [row for name, row in rows if name == section]
        good = sum(not row.wrong for row in own)
        landed = collections.Counter(phase for row in own for phase in row.landed)
        where = ", ".join(f"{phase} {n}" for phase, n in landed.most_common())
        longest = max(row.seconds for row in own) if section in ("workers", "signals", "ranks") else float("nan")
        board.append(
            {"trials": section, "passed": f"{good}/{len(own)}", "landed in": where, "longest to the end, s": longest}
        )
    return board


def main() -> int:
    parser = common.arguments(__doc__)
    parser.add_argument("--lanes", type=int, default=1, help="attempts side by side")
    parser.add_argument("--scale", type=float, default=1.0, help="share of kills and enumerated points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--log", type=Path, help="file that takes one JSON line per trial")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    rows: list[tuple[str, Row]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows = torture(Path(folder), options)
    wrong = [(section, row) for section, row in rows if row.wrong]
    n_kills = sum(len(row.landed) for section, row in rows if section in ("kills", "crash points", "ranks"))
    notes = [
        f"Goal: everything passed. {n_kills} kills in all; seed {options.seed}, scale {options.scale:g}, "
        f"{options.lanes} lane(s), {(time.monotonic() - began) / 60:.0f} minutes. "
        "Every run that went on is equal to the undisturbed one bit for bit.",
        *(f"WRONG: {section}: {row.of}: {'; '.join(row.wrong)}" for section, row in wrong),
    ]
    common.record("Torture: runs under kills, faults and signals", scoreboard(rows), notes, options)
    return 1 if wrong else 0


def torture(folder: Path, options: argparse.Namespace) -> list[tuple[str, Row]]:
    """All rows; told as they come."""
    rows: list[tuple[str, Row]] = []
    lock = threading.Lock()
    shared = folder / "shared"
    only = set(filter(None, options.only.split(",")))
    began = time.monotonic()

    def note(section: str, row: Row) -> None:
        with lock:
            rows.append((section, row))
            told = "; ".join(row.wrong) if row.wrong else "ok"
            print(f"{time.monotonic() - began:6.0f} s  {section}: {row.trial}, {row.of}: {told}", flush=True)
            if options.log:
                with options.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"section": section, **dataclasses.asdict(row)}) + "\n")

    def wanted(section: str) -> bool:
        return not only or section in only

    lanes = [attempts.Lane(folder / f"lane-{number}") for number in range(options.lanes)]
    try:
        bench, scale = Bench(lanes[0], shared), options.scale
        for case in (CASE, SAVES, WHOLE, FULL, *KILLED):
            bench.reference(case)
        can_trace = attempts.can_trace()
        if not can_trace:
            print("strace cannot attach here: crash points and errors at single calls are left out", flush=True)
        todo = [*kills(options.seed, scale), *disks(scale), *damage(scale), *workers(scale), *numbers(scale)]
        todo += signals(options.seed, scale)
        if can_trace and wanted("crash points"):
            todo += crash_points(bench, scale)
        if can_trace and wanted("storage"):
            todo += storage(bench, scale)
        run([trial for trial in todo if wanted(trial[0])], lanes, shared, note)
        if wanted("ranks"):
            if len(lanes) == 1:
                lanes.append(attempts.Lane(folder / "lane-1"))
            for section, row in ranks(lanes[0], lanes[1], shared, options.seed, scale):
                note(section, row)
        if wanted("planted faults"):
            for section, row in planted(lanes[0], shared, can_trace):
                note(section, row)
    finally:
        for lane in lanes:
            lane.__exit__()
    return rows


if __name__ == "__main__":
    sys.exit(main())
