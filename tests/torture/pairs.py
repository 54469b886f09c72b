"""Runs of two processes, of which one is killed: the other must end by itself, and both go on from the checkpoint."""

import shutil
import signal
import socket
import time
from pathlib import Path

from attempts import Attempt, Lane
from trials import DONE, FAILED, REQUEUE, Bench, Case, Row, intact, unlike

from birdjepa.core import random

LIMIT_S = {"SIGKILL": 60.0, "SIGSTOP": 240.0}
"""For the survivor to end; its watchdog waits for ten of its steps."""


class Pair:
    """Two lanes that run one command as processes 0 and 1, connected over the loopback."""

    def __init__(self, bench: Bench, other: Lane) -> None:
        self.bench = bench
        self.lanes = (bench.lane, other)

    def begin(self, run: Path, *plants: list) -> list[Attempt]:
        """Starts the run, or goes on with it."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        start = ["pretrain", "lejepa", "--config", str(run.parent / "config-of-the-run.json")]
        argv = ["pretrain", "--resume", str(run)] if (run / "config.json").exists() else start
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return [
            lane.begin(argv, *plants, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, lane in enumerate(self.lanes)
        ]

    def finish(self, run: Path) -> list[str]:
        """Goes on to the end; what is wrong with how."""
        attempts = self.begin(run)
        codes = [attempt.ended() for attempt in attempts]
        return [] if set(codes) <= set(DONE) else [f"ended with {codes}: {attempts[0].said()[-300:]}"]

    def reference(self, case: Case) -> Path:
        """The undisturbed run of two."""
        run = self.bench.shared / "undisturbed" / case.name / "run"
        if not (run / "encoder" / "config.json").exists():
            shutil.rmtree(run.parent, ignore_errors=True)
            self.bench.config(case, run)
            assert self.finish(run) == []
        return run


def lost_rank(bench: Bench, other: Lane, case: Case, seed: int, n_times: int, *, name: str = "SIGKILL") -> Row:
    """A run of two processes in which one is killed, or stopped for good, n times; compared with an undisturbed run of
    two. A stopped one is for the watchdog of the other to notice, which is made quick.
    """
    row = Row("one of two processes is lost", f"{name}, {case.name}, seed {seed}, {n_times} times")
    rng = random.generator(seed, "torture", "ranks")
    pair = Pair(bench, other)
    reference, run = pair.reference(case), bench.new(case)
    for _ in range(n_times):
        attempts = pair.begin(run, *([["quick watchdog", 3.0]] if name == "SIGSTOP" else []))
        victim = int(rng.integers(2))
        if name == "SIGSTOP":  # in a step, but the first: that one and a save have an hour, and gloo ten minutes
            attempts[0].wait_for(lambda: attempts[0].entered("step") > 2 and attempts[0].phase() == "step")  # noqa: B023
        else:
            first = "save" if rng.integers(2) else "step"
            attempts[0].wait_for(lambda: attempts[0].entered(first) >= 1)  # noqa: B023
            time.sleep(rng.uniform(0, 0.5))
        row.landed.append(f"{attempts[victim].phase()} of process {victim}")
        attempts[victim].send(signal.Signals[name])
        began = time.monotonic()
        try:
            left = attempts[1 - victim].ended(LIMIT_S[name])
        finally:
            row.seconds = max(row.seconds, time.monotonic() - began)
            attempts[victim].send(signal.SIGKILL)
            dead = attempts[victim].ended()
        if dead == -signal.SIGKILL:
            row.wrong += [] if left in (FAILED, REQUEUE) else [f"the survivor ended with {left}"]
        said = attempts[1 - victim].said()
        row.wrong += [f"traceback: {said.strip()[-300:]}"] if "Traceback" in said else []
        row.wrong += intact(run, attempts[0].saved())
    row.wrong += pair.finish(run)
    row.wrong += unlike(reference, run) if (run / "encoder" / "config.json").exists() else ["no export"]
    shutil.rmtree(run.parent)
    return row
