"""A cluster of one machine on PATH: sbatch keeps the script, srun starts its tasks here, scontrol answers and notes.

Its srun passes a signal on to all its tasks, as SLURM sends them; a requeue sends SIGTERM to the task that asked.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

SBATCH = """
import pathlib, shutil, sys
here = pathlib.Path(__file__).parent
if (here / "refuse").exists():
    sys.exit((here / "refuse").read_text())
shutil.copy(sys.argv[1], here / "script.sh")
print("Submitted batch job 41")
"""

SRUN = """
import os, signal, subprocess, sys
arguments = sys.argv[1:]
output = arguments[arguments.index("--output") + 1]
command = arguments[arguments.index(sys.executable):]
n_tasks = int(os.environ["SLURM_NTASKS"])
tasks = []
for name in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
    signal.signal(name, lambda number, _: [task.send_signal(number) for task in tasks])
for rank in range(n_tasks):
    log = open(output.replace("%j", "41").replace("%A_%a", "41_0").replace("%t", str(rank)), "a")
    task = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
    tasks.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **task}))
sys.exit(max(task.wait() & 255 for task in tasks))
"""

SCONTROL = """
import os, pathlib, signal, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as file:
    print(*sys.argv[1:], file=file)
if sys.argv[1] == "--oneliner":
    print("JobId=41 JobName=x", "JobState=" + (here / "state").read_text(), "Reason=None")
else:
    os.kill(os.getppid(), signal.SIGTERM)
"""


class FakeSlurm:
    """Its programs lie in a folder that a test puts on PATH."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder
        folder.mkdir()
        for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(f"#!{sys.executable}\n{text}")
            (folder / name).chmod(0o755)
        self.state("RUNNING")

    def state(self, name: str) -> None:
        """What scontrol shows of the job."""
        (self.bin / "state").write_text(name)

    def refuse(self, reason: str) -> None:
        """Lets sbatch fail."""
        (self.bin / "refuse").write_text(reason)

    @property
    def script(self) -> list[str]:
        """Lines of what was submitted."""
        return (self.bin / "script.sh").read_text().splitlines()

    @property
    def asked(self) -> list[str]:
        """What scontrol was asked for."""
        return (self.bin / "asked").read_text().splitlines() if (self.bin / "asked").exists() else []

    @contextlib.contextmanager
    def running(self, *, n_tasks: int = 1, restarts: int = 0) -> Iterator[Callable[[signal.Signals], None]]:
        """Runs the submitted script as SLURM would, until it ends; yields how to signal its step."""
        job = {
            "SLURM_JOB_ID": "41",
            "SLURM_NTASKS": str(n_tasks),
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_NODELIST": "node[07-08]",
            "SLURM_RESTART_COUNT": str(restarts),
        }
        script = subprocess.Popen(["bash", str(self.bin / "script.sh")], env={**os.environ, **job})

        def send(name: signal.Signals) -> None:
            (srun,) = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
            os.kill(int(srun), name)

        try:
            yield send
            script.wait(timeout=120)
        finally:
            script.kill()
            script.wait()
