"""A stopwatch for the loop: where the time of a step goes, by marks that are set as the parts end."""

import collections
import time

import torch


class Stopwatch:
    """Counts seconds by part. A mark costs under a microsecond, so that every run carries them.

    On a GPU, which works behind the program's back, a part is only told apart from the next where the stopwatch is
    exact: it then waits for the GPU at each mark, which slows the run down.
    """

    def __init__(self, device: torch.device, *, exact: bool = False) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        """Time of each part since the start."""
        self.part = ""
        """The one that ended last."""
        self._waits = exact and device.type == "cuda"
        self._device = device
        self._last = time.perf_counter()
        self._told: dict[str, float] = {}

    def restart(self) -> None:
        """The time since the last mark belongs to no part."""
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        """The time since the last mark was this part's."""
        if self._waits:
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last, self.part = now, part

    def share(self, part: str) -> float:
        """Share of a part in all that was marked since this was asked before, in [0, 1]."""
        passed = {name: seconds - self._told.get(name, 0.0) for name, seconds in self.seconds.items()}
        self._told = dict(self.seconds)
        total = sum(passed.values())
        return passed.get(part, 0.0) / total if total > 0 else 0.0
