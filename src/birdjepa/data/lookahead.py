"""Shards fetched before their recordings are asked for, so that a batch need not wait at each shard's edge.

The order is a pure function of the position, so what a process will read is known: it looks a few batches ahead of the
one in hand, and begins to fetch the shards that those will open.
"""

import math
import os
from collections.abc import Sequence

import numpy as np
from torch.utils import data as torch_data

from birdjepa.core.errors import UsageError
from birdjepa.data import hub_cache
from birdjepa.data.manifest import Manifest
from birdjepa.data.order import ExampleOrder, StreamConfig
from birdjepa.data.shards import ShardFile

HORIZON = 100
"""Batches that a process looks ahead at most."""
STRIDE = 4
"""Batches that it looks at while it makes one: seeing far costs some batches, and no batch much."""


class Lookahead:
    """What one process reads soon. What it remembers only saves time."""

    def __init__(
        self, sources: Sequence[Manifest], order: ExampleOrder, batch_size: int, rank: int, world: int
    ) -> None:
        self._sources, self._order = sources, order
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._next = 0
        """First batch that was not looked at yet."""
        self._coming: set[ShardFile] = set()
        """Shards that were asked for ahead and not reached yet."""

    def reach(self, number: int) -> None:
        """Tells that the batch of a number is about to be made."""
        info = torch_data.get_worker_info()
        n_workers = info.num_workers if info else 1  # which take the batches by turns
        now = self._shards(number)
        if not number < self._next <= number + (HORIZON + 1) * n_workers or (self._next - number) % n_workers:
            self._next, self._coming = number + n_workers, set()
            for file in now:
                file.prefetch()  # side by side, while the first is waited for
        self._coming -= now
        for file in self._coming:
            file.prefetch()  # again, where there was no room
        most = max(2, self._order.lanes.n // (self._world * n_workers))
        for _ in range(STRIDE):
            if len(self._coming) >= most or self._next > number + HORIZON * n_workers:
                break
            self._coming |= {file for file in self._shards(self._next) if file.prefetch()}
            self._next += n_workers

    def _shards(self, number: int) -> set[ShardFile]:
        """The shards that this process's part of a batch opens."""
        n_own = self._batch_size // self._world
        first = number * self._batch_size + self._rank * n_own
        visits = [self._order.visit(position) for position in range(first, first + n_own)]
        held = [(self._sources[visit.source], visit.row) for visit in visits]
        return {
            source.shards.files[int(source.shards.shard[int(source.place[row])])]
            for source, row in held
            if source.shards is not None and source.place is not None and not source.shards.at_hand
        }


def require_room(sources: Sequence[Manifest], order: ExampleOrder, stream: StreamConfig, world: int) -> None:
    """Refuses a cache in which the shards that are read side by side do not fit: each would be fetched again and again.

    Raises:
      UsageError: saying how much they need.
    """
    limit = hub_cache.limit_bytes()
    if not limit:
        return
    share = min(1.0, int(os.environ.get("LOCAL_WORLD_SIZE", world)) / world)
    lanes = math.ceil(order.lanes.n * share)
    needed = 0.0
    for source in sources:
        files = source.shards.files if source.shards is not None and not source.shards.at_hand else []
        sizes = np.array([file.n_bytes for file in files if isinstance(file, hub_cache.HubFile)])
        if len(sizes):
            rows = max(1.0, len(source) / len(sizes))
            side_by_side = lanes * (math.ceil(stream.window / rows) + 2)  # cut by a window's edges, and one to come
            needed += float(np.sort(sizes)[::-1][:side_by_side].sum())
    if needed > limit:
        raise UsageError(
            f"{hub_cache.LIMIT}={limit / 1e9:g} is too little: the shards that are read side by side take up to "
            f"{needed / 1e9:.3g} GB; give more, or lower --loader.stream.abreast, --loader.stream.turns or "
            "--loader.stream.window"
        )
