"""A server of forks: a script imports what takes long once, and what is asked of it runs in a child of its own."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def serve(act: Callable[[dict[str, Any]], int]) -> None:
    """For each line read, a JSON object, `act` of it in a forked child. Answers with the child's process number, and
    with its exit code (negative: the signal that ended it) once it has ended.
    """
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = act(asked)
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
