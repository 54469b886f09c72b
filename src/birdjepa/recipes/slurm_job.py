"""What runs inside a cluster job: one `birdjepa` command, told of signals, requeued when it stopped for one.

The command is a process of its own, so that stopping, saving and exit codes are those of the command line. Three
parties would like to handle a signal; here is who does:
  - submitit only until this module's handlers are in place: it requeues, for nothing has begun. Of itself it ignores
    SIGTERM, and all signals in tasks other than the first;
  - this module notes the signal and passes it on once, as SIGTERM, for a second one must not hurt a save under way;
  - the command finishes its step, saves and exits with 75. Then submitit's own handler is called, which requeues.
Light on imports: until submitit has loaded this, a signal kills the job.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from birdjepa.core.cluster import environment_of_slurm, remove_node_folder
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, EXIT_REQUEUE, Interrupted, UserError

HANDLED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A command as submitit runs it. With several tasks, each is one rank of it."""

    first: tuple[str, ...]
    """The command line."""
    again: tuple[str, ...]
    """The command line after a requeue, if `begun` exists by then."""
    begun: str
    folder: str
    """Working folder, so that relative paths mean what they meant where the job was submitted."""
    max_requeues: int
    patience_s: float
    """How long after a signal the command may take to save; then it is killed, to go on from its last checkpoint."""
    n_requeued: int = 0

    def __call__(self) -> int:
        """Runs the command; returns its exit code, 0 or 3.

        Raises:
          UserError: if it failed, so that the job counts as failed.
          Interrupted: if it stopped and is not requeued.
          SystemExit: once it is requeued.
        """
        ranks = environment_of_ranks(os.environ)
        relay = Relay(self.patience_s)
        requeue = relay.install()
        try:
            code = relay.run(self.command(), {**os.environ, **ranks}, self.folder)
        finally:
            if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and ranks.get("LOCAL_RANK", "0") == "0":
                remove_node_folder(os.environ)
        if code in (EXIT_DONE, EXIT_PARTIAL):
            return code
        if code != EXIT_REQUEUE and not relay.ended(code):
            raise UserError(f"{' '.join(self.command())} ended with {_told(code)}; not requeued")
        if ranks.get("RANK", "0") != "0":
            return EXIT_REQUEUE  # the first rank requeues all
        if self.n_requeued >= self.max_requeues:
            raise Interrupted(f"stopped and saved, but requeued {self.n_requeued} times already (slurm.max_requeues)")
        if relay.received == {signal.SIGTERM} and (state := state_of_job()) not in ("RUNNING", ""):
            raise Interrupted(f"stopped and saved; SLURM is ending this job ({state}), and requeues it or not")
        told = f"stopped with {_told(code)}"
        _requeue(requeue, f"birdjepa: {told}; requeue {self.n_requeued + 1} of at most {self.max_requeues}")
        raise UserError(f"{told}, but could not be requeued")

    def checkpoint(self) -> Any:
        """What submitit runs after the requeue; None where it is one too many."""
        from submitit.helpers import DelayedSubmission

        if self.n_requeued >= self.max_requeues:
            return None
        return DelayedSubmission(dataclasses.replace(self, n_requeued=self.n_requeued + 1))

    def command(self) -> tuple[str, ...]:
        """The command line of this attempt. SLURM may have requeued the job itself, after a preemption or a failure."""
        restarted = self.n_requeued > 0 or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        return self.again if restarted and Path(self.folder, self.begun).exists() else self.first


class Relay:
    """Passes the first of this process's signals on to a child, once; a child that does not end then is killed."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.received: set[signal.Signals] = set()
        self._child: subprocess.Popen[bytes] | None = None
        self._deadline_s = float("inf")
        self._killed = False

    def install(self) -> Callable[..., Any]:
        """Takes the signals over, and returns submitit's handler of the one that it requeues for."""
        from submitit import JobEnvironment

        asked = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        before = {name: signal.signal(name, self._handle) for name in {*HANDLED, asked}}
        handler = before[asked]
        assert callable(handler)
        return handler

    def run(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
        """Exit code of a command. An exception here (Ctrl-C) ends the command too, in its own orderly way."""
        with subprocess.Popen(command, env=environment, cwd=folder) as self._child:
            try:
                self._pass_on()  # what came before there was a child
                while True:
                    try:
                        return self._child.wait(timeout=1.0)
                    except subprocess.TimeoutExpired:
                        if time.monotonic() > self._deadline_s:
                            self._killed = True
                            self._child.kill()
            except BaseException:
                self._child.terminate()
                raise

    def ended(self, code: int) -> bool:
        """Whether a signal of ours ended the child, which had not begun to listen yet, or did not listen any more."""
        return bool(self.received) and (-code in HANDLED or self._killed)

    def _handle(self, number: int, _: types.FrameType | None) -> None:
        self.received.add(signal.Signals(number))
        self._pass_on()

    def _pass_on(self) -> None:
        if self.received and self._child is not None and self._deadline_s == float("inf"):
            self._deadline_s = time.monotonic() + self.patience_s
            self._child.terminate()


def environment_of_ranks(env: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for this task of a job of submitit's, on a cluster or here."""
    if env.get("SUBMITIT_EXECUTOR") != "local":
        return environment_of_slurm(env)
    here = {
        "SLURM_PROCID": env["SUBMITIT_LOCAL_GLOBALID"],
        "SLURM_LOCALID": env["SUBMITIT_LOCAL_LOCALID"],
        "SLURM_NTASKS": env["SUBMITIT_LOCAL_NTASKS"],
        "SLURM_JOB_ID": env["SUBMITIT_LOCAL_JOB_ID"],
        "SLURM_JOB_NODELIST": "localhost",
    }
    return environment_of_slurm(here)


def state_of_job() -> str:
    """State that SLURM gives this job; empty where there is no SLURM, or it does not answer.

    SIGTERM comes when a job is preempted with a time of grace (then it is RUNNING, and we requeue it), and when it is
    over: cancelled, which a requeue would undo, or preempted without grace, after which SLURM requeues it itself.
    """
    from submitit import JobEnvironment

    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        return ""
    command = ["scontrol", "--oneliner", "show", "job", JobEnvironment().job_id]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bJobState=(\w+)", shown)
    return found[1] if found else ""


def _requeue(handler: Callable[..., Any], told: str) -> None:
    """Calls submitit's handler, which leaves by SystemExit; a controller that is too busy to answer is asked again."""
    print(told, file=sys.stderr, flush=True)
    for pause_s in (0.0, 5.0, 20.0):
        time.sleep(pause_s)
        try:
            handler(signal.SIGUSR2, None)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"birdjepa: {error}", file=sys.stderr, flush=True)


def _told(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
