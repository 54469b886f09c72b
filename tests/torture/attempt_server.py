"""The command line, many times over: torch is imported once, and each attempt is a fork that is free to be killed.

Reads one JSON object per line: argv of birdjepa, file for what it says, file of the board, what is planted, what is
added to the environment. Answers with the attempt's process number, and with its exit code (negative: the signal) once
it has ended. What runs in the child is `birdjepa.cli.main`, in a session of its own; what is planted there is in
plants.py.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from forks import serve


def attempt(argv: list[str], said: str, board: str, plants: list[list], fault: str, env: dict[str, str]) -> int:
    """Runs in the child; returns the exit code."""
    os.environ.update(env)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["birdjepa", *argv]
    if fault:
        planting.FAULTS[fault]()
    planting.show_phases(board)
    for name, *arguments in plants:
        planting.PLANTS[name](*arguments)
    code = cli.main(argv)
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # the first one imports torch's compiler
    import plants as planting

    from birdjepa import cli
    from birdjepa.cli import finetune, pretrain  # noqa: F401 - so that no child imports them

    serve(lambda asked: attempt(**asked))
    os._exit(0)  # nothing is left to be done, and torch takes its time to end
