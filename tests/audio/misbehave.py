"""What a decoder may do to its process, as functions that isolated workers can import."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from birdjepa.core.errors import AudioError


def act(item: str) -> str:
    """Does what the item says; other items come back in capitals."""
    if item.startswith("once ") and not Path(item[5:]).exists():
        Path(item[5:]).touch()
        ctypes.string_at(0)
    match item:
        case "nap":
            time.sleep(0.1)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case "spin":
            while True:
                pass
        case "memory":
            np.ones(1 << 28)
        case "audio error":
            raise AudioError("a.wav", 1.5, "truncated: here")
        case "bug":
            raise KeyError("surprise")
        case "unpicklable":
            return lambda: None  # type: ignore[return-value]
        case "torch":
            return str("torch" in sys.modules)
        case "pid":
            return str(os.getpid())
        case "signals":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        case "noise":
            os.write(2, b"C library noise\n")
            print("python message", file=sys.stderr)
    return item.upper()


def double(data: bytes) -> bytes:
    return data + data
