"""What a cluster job runs, without torch: each attempt notes what it sees in a file and behaves as its argument says.

usage: cluster_child.py NOTES BEHAVIOUR... (one for each attempt)
"""

import os
import signal
import sys
import time
from pathlib import Path

notes, *behaviours = sys.argv[1:]


def note(text: str) -> None:
    with Path(notes).open("a") as file:
        file.write(f"{os.environ.get('RANK', '0')} {text}\n")


received = []
rank = os.environ.get("RANK", "0")
attempt = sum(line.startswith(f"{rank} begun") for line in Path(notes).read_text().splitlines())
behaviour = behaviours[attempt]
if behaviour not in ("early", "finish", "fail", "killed"):
    for name in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(name, lambda number, _: received.append(signal.Signals(number).name))
note(f"begun {behaviour} {os.getpid()}")
if behaviour == "ranks":
    note(" ".join(f"{name}={os.environ.get(name)}" for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")))
if behaviour == "fail":
    sys.exit(1)
if behaviour == "ranks":
    sys.exit(0)
if behaviour == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour in ("finish", "refused"):
    sys.exit(3 if behaviour == "refused" else 0)
end = time.monotonic() + 60
while time.monotonic() < end and (not received or behaviour == "deaf"):
    time.sleep(0.01)
if behaviour == "slow":
    time.sleep(1.0)
note(f"saved after {' '.join(received)}")
sys.exit(75)
