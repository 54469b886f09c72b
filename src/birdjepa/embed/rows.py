"""One embedding per manifest row, for probes: recordings or labelled segments in, one table per embedder out.

A recording's embedding is the mean of its clips' embeddings, weighted by their lengths; a segment's is pooled inside
[onset, offset] only.

Axes: n rows kept
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from birdjepa.core.errors import InputError
from birdjepa.data.manifest import Manifest
from birdjepa.embed.batching import Batcher
from birdjepa.embed.embedders import Embedder, geometry_of, require_confined, stretch_of_row
from birdjepa.embed.reading import ReadConfig, Request, read_ahead


class RowEmbeddings(NamedTuple):
    """What became of a manifest's rows: each is either kept or refused."""

    tables: list[Float[np.ndarray, "n _"]]
    """One table per embedder, float32."""
    rows: Int[np.ndarray, " n"]
    """The manifest rows that the tables hold, ascending."""
    refused: list[tuple[int, InputError]]
    """The others, with the reason."""


def embed_rows(
    embedders: Sequence[Embedder],
    manifest: Manifest,
    *,
    batch_size: int = 16,
    reading: ReadConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RowEmbeddings:
    """Embeds every row of a manifest by every embedder; each row is decoded once.

    `progress(done, total)` is called after each row.

    Raises:
      UsageError: for CLS pooling of labelled segments.
      ValueError: if the embedders cut recordings in different ways.
    """
    if not embedders or batch_size < 1:
        raise ValueError(f"need an embedder and batch_size >= 1, got {len(embedders)} and {batch_size}")
    geometry = geometry_of(embedders[0].config)
    if any(geometry_of(embedder.config) != geometry for embedder in embedders):
        raise ValueError("embedders of one pass must agree on front end, clips and patch length")
    require_confined(embedders, manifest)
    batcher = Batcher(embedders, batch_size, before_batch=lambda: None)
    requests = (
        Request(row, manifest.source(row), *stretch_of_row(manifest, row), 0, batch_size)
        for row in range(len(manifest))
    )
    kept: list[int] = []
    refused: list[tuple[int, InputError]] = []
    stretches = read_ahead(requests, geometry, reading or ReadConfig(), clips_ahead=2 * batch_size)
    with contextlib.closing(stretches):
        for request, result in stretches:
            if isinstance(result, InputError):
                batcher.drop(request.row)
                refused.append((request.row, result))
            else:
                for piece in result.pieces:
                    batcher.add(request.row, piece)
                if not result.ended:
                    continue
                kept.append(request.row)
            if progress is not None:
                progress(request.row + 1, len(manifest))
    batcher.flush()
    tables = [np.zeros((len(kept), embedder.width()), dtype=np.float32) for embedder in embedders]
    for index, row in enumerate(kept):
        for table, embedding in zip(tables, batcher.take(row), strict=True):
            table[index] = embedding
    return RowEmbeddings(tables, np.array(kept, dtype=np.int64), refused)
