"""A whole collection to one Parquet file: any number of recordings of any length, resumable, every file accounted for.

One row per clip, or per labelled segment where the manifest has them, in the manifest's order: `path`, `start_s`,
`end_s`, the manifest's label columns, `embedding`. The file's metadata say what it was made of (`parts.read_metadata`).

Work is done in parts (see `parts`). No batch crosses a part's border, so a part's bytes depend on the recordings alone,
and a run that was killed and taken up again gives the file of one that was not.

Axes: e embedding
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
from torch import nn

from birdjepa.audio.clips import ClipConfig
from birdjepa.core import config as configs
from birdjepa.core import failures
from birdjepa.core.errors import InputError, Interrupted, LabelError, UsageError
from birdjepa.core.failures import Failure
from birdjepa.core.provenance import versions
from birdjepa.data.manifest import Manifest
from birdjepa.embed.batching import Batcher
from birdjepa.embed.embedders import Embedder, Pooled, Precision, geometry_of, require_confined, stretch_of_row
from birdjepa.embed.parts import COLUMNS, Cursor, Part, PartStore, PartSummary, Refusal, first_refusals
from birdjepa.embed.reading import ReadConfig, Request, Stretch, read_ahead
from birdjepa.models.pool import Pooling
from birdjepa.models.sound_encoder import SoundEncoder

FORMAT = 1
_LISTED = 10_000
"""Refused rows that the file's metadata list; failures.csv has them all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How a collection is embedded."""

    pooling: Pooling | None = None
    """How tokens become one embedding; by default as the encoder was made."""
    clips: ClipConfig | None = None
    """How recordings are cut; by default as the encoder was made."""
    dtype: Literal["float32", "float16"] = "float32"
    """What the file holds."""
    precision: Precision = "float32"
    """bf16 runs the transformer under autocast: faster on most hardware, about three digits."""
    batch_size: int = 16
    clips_per_part: int = 256
    """Work that a kill can cost, and what is written at once."""
    reading: ReadConfig = dataclasses.field(default_factory=ReadConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.clips_per_part < 1:
            raise ValueError(f"need batch_size, clips_per_part >= 1, got {self.batch_size}, {self.clips_per_part}")


class Progress(NamedTuple):
    """How far a run is."""

    n_done: int
    """Manifest rows, done or refused, those of earlier runs included."""
    n_examples: int
    n_clips: int
    """Clips read by this run."""
    seconds: float
    """Seconds of sound that they stand for."""


@dataclasses.dataclass(frozen=True)
class EmbedSummary:
    """What became of a collection: n_examples = n_embedded + len(refused), unless the file was there before."""

    out: Path
    n_examples: int
    """Manifest rows: recordings, or labelled segments."""
    n_refused: int
    n_rows: int
    """Rows of the file."""
    refused: tuple[InputError, ...]
    """Which were refused and why, with paths as in the manifest (the first 10,000 if the file was there before)."""
    failures: Path | None
    """Table of the refused; None if there are none."""
    n_resumed: int
    """Rows of the file that earlier, interrupted runs had made."""
    already_done: bool
    """The file was there, made from the same encoder, data and settings; nothing was computed."""

    @property
    def n_embedded(self) -> int:
        return self.n_examples - self.n_refused


def embed_collection(
    encoder: SoundEncoder,
    manifest: Manifest,
    out: Path | str,
    config: EmbedConfig | None = None,
    *,
    provenance: dict[str, Any],
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> EmbedSummary:
    """Embeds a manifest into the Parquet file `out`, taking up where an interrupted run has stopped.

    Refused rows are in the summary and in `failures.csv` beside `out`; a recording that fails half-way has no rows.
    `stop` is asked before each batch.

    Raises:
      UsageError: if `out` or its parts belong to another encoder, data or settings; for CLS pooling of segments.
      Interrupted: when stop() says so; finished parts are kept.
    """
    config = config or EmbedConfig()
    pooling = config.pooling or encoder.config.pooling
    return embed_by(
        Pooled(encoder, pooling, config.precision),
        {**encoder_identity(encoder), "pooling": pooling},
        manifest,
        out,
        config,
        provenance=provenance,
        progress=progress,
        stop=stop,
    )


def embed_by(
    embedder: Embedder,
    identity: Mapping[str, Any],
    manifest: Manifest,
    out: Path | str,
    config: EmbedConfig,
    *,
    provenance: dict[str, Any],
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> EmbedSummary:
    """`embed_collection` by any embedder, whose vectors become the column `embedding`.

    identity is JSON that decides the embedder's numbers. Of config, pooling says nothing here: the embedder has its
    own, and config.precision must be what it was made with.

    Raises:
      UsageError, Interrupted: as `embed_collection`.
    """
    out = Path(out)
    try:
        encoder_config = embedder.config.cut_by(config.clips or embedder.config.clips)
    except ValueError as error:
        raise UsageError(str(error)) from None
    require_confined([embedder], manifest)
    store = PartStore(out, _identity(identity, encoder_config.clips, manifest, config))
    found = store.finished()
    if found is not None:
        return _summary_of(out, found)
    done = store.open()
    n_resumed = sum(part.n_rows for part in done)

    def check() -> None:
        if stop():
            kept = done[-1].end.row if done else 0
            raise Interrupted(
                f"stopped: {kept} of {len(manifest)} examples are embedded and kept in {store.folder};"
                " run the same command again to go on"
            )

    geometry = geometry_of(encoder_config)
    requests = _requests(manifest, done[-1].end if done else Cursor(0, 0), config.batch_size)
    stretches = read_ahead(requests, geometry, config.reading, clips_ahead=2 * config.batch_size)
    with contextlib.closing(stretches):
        for part in _parts(stretches, embedder, manifest, config, done, check, progress):
            done.append(store.write(len(done), part))
    rows = failures.left_out(manifest.refused)
    rows += [Failure(manifest.keys[i.row], i.stage, i.offset_s, i.reason) for i in first_refusals(done)]
    listed = _write_failures(store, rows)
    n_examples = len(manifest) + len(manifest.refused)
    metadata = {
        "n_examples": n_examples,
        "n_refused": len(rows),
        "refused": [[row.path, row.offset_s, row.reason] for row in rows[:_LISTED]],
        "data": manifest.name,
        "packages": versions(),
        "provenance": provenance,
    }
    n_rows = store.merge(done, manifest, metadata)
    return EmbedSummary(
        out=out,
        n_examples=n_examples,
        n_refused=len(rows),
        n_rows=n_rows,
        refused=tuple(InputError(row.path, row.offset_s, row.reason) for row in rows),
        failures=listed,
        n_resumed=n_resumed,
        already_done=False,
    )


def weights_sha256(module: nn.Module) -> str:
    """Hash of an encoder's weights, or a head's: the `weights_sha256` in its folder's config.json or head.json."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights, metadata={"format": "pt"})).hexdigest()


def _requests(manifest: Manifest, begin: Cursor, n_pieces: int) -> Iterator[Request]:
    for row in range(begin.row, len(manifest)):
        first = begin.piece if row == begin.row else 0
        yield Request(row, manifest.source(row), *stretch_of_row(manifest, row), first, n_pieces)


def _parts(
    stretches: Iterator[tuple[Request, Stretch | InputError]],
    embedder: Embedder,
    manifest: Manifest,
    config: EmbedConfig,
    done: Sequence[PartSummary],
    check: Callable[[], None],
    progress: Callable[[Progress], None] | None,
) -> Iterator[Part]:
    """Parts as they are finished; at least one, so that there is a table even when every file is refused."""
    width = embedder.width()
    begin = done[-1].end if done else Cursor(0, 0)
    builder = _PartBuilder(embedder, config, width, begin, check)
    n_clips, seconds, n_yielded = 0, 0.0, len(done)
    for request, result in stretches:
        builder.add(request, result)
        if isinstance(result, Stretch):
            n_clips += len(result.pieces)
            seconds += sum(piece.end_s - piece.start_s for piece in result.pieces)
        if builder.full:
            yield builder.finish()
            builder = _PartBuilder(embedder, config, width, builder.end, check)
            n_yielded += 1
        if progress is not None:
            progress(Progress(builder.end.row, len(manifest), n_clips, seconds))
    if builder.end != builder.begin or n_yielded == 0:
        yield builder.finish()


class _PartBuilder:
    """A part in the making."""

    def __init__(
        self, embedder: Embedder, config: EmbedConfig, width: int, begin: Cursor, check: Callable[[], None]
    ) -> None:
        self.begin = self.end = begin
        self._dtype, self._width, self._enough = config.dtype, width, config.clips_per_part
        self._batcher = Batcher([embedder], config.batch_size, check)
        self._slots: list[tuple[int, float, float]] = []
        """Manifest row, start and end of each slot."""
        self._refused: list[Refusal] = []
        self._n_clips, self._complete = 0, True

    @property
    def full(self) -> bool:
        """Whether there is enough; the tiles of one segment stay together."""
        return self._n_clips >= self._enough and self._complete

    def add(self, request: Request, result: Stretch | InputError) -> None:
        """Takes what was read next."""
        if isinstance(result, InputError):
            stage = "label" if isinstance(result, LabelError) else "decode"
            self._refuse(Refusal(request.row, stage, result.offset_s, result.reason))
            self.end, self._complete = Cursor(request.row + 1, 0), True
            return
        whole = math.isnan(request.offset_s)
        for index, piece in enumerate(result.pieces):
            if whole or request.first + index == 0:
                self._slots.append((request.row, piece.start_s, piece.end_s))
            else:
                row, start_s, _ = self._slots[-1]
                self._slots[-1] = (row, start_s, piece.end_s)
            self._batcher.add(len(self._slots) - 1, piece)
        self._n_clips += len(result.pieces)
        following = Cursor(request.row, request.first + len(result.pieces))
        self.end = Cursor(request.row + 1, 0) if result.ended else following
        self._complete = result.ended or whole

    def finish(self) -> Part:
        """Runs what is waiting and puts the part together."""
        self._batcher.flush()
        refused = {refusal.row for refusal in self._refused}
        kept = [slot for slot, (row, _, _) in enumerate(self._slots) if row not in refused]
        embeddings = np.zeros((len(kept), self._width), dtype=self._dtype)
        with np.errstate(over="ignore"):
            for index, slot in enumerate(kept):
                [embeddings[index]] = self._batcher.take(slot)
        for index in np.flatnonzero(~np.isfinite(embeddings).all(1)):
            row, start_s, _ = self._slots[kept[index]]
            self._refuse(Refusal(row, "embed", start_s, f"not finite: the embedding in {self._dtype}"))
        slots = [self._slots[slot] for slot in kept]
        return Part(
            begin=self.begin,
            end=self.end,
            rows=np.array([row for row, _, _ in slots], dtype=np.int64),
            start_s=np.array([start_s for _, start_s, _ in slots], dtype=np.float64),
            end_s=np.array([end_s for _, _, end_s in slots], dtype=np.float64),
            embeddings=embeddings,
            refused=self._refused,
        )

    def _refuse(self, refusal: Refusal) -> None:
        for slot, (row, _, _) in enumerate(self._slots):
            if row == refusal.row:
                self._batcher.drop(slot)
        self._refused.append(refusal)


def encoder_identity(encoder: SoundEncoder) -> dict[str, Any]:
    """What decides an encoder's numbers, as the file's metadata show it."""
    return {
        "encoder": {
            "config_hash": configs.fingerprint(encoder.config),
            "weights_sha256": weights_sha256(encoder),
            "config": configs.to_json(encoder.config),
        }
    }


def _identity(
    embedder: Mapping[str, Any], clips: ClipConfig, manifest: Manifest, config: EmbedConfig
) -> dict[str, Any]:
    """What decides the numbers and the columns of a file, and nothing else."""
    columns = {name: manifest.columns.get(name, []) for name in COLUMNS}
    return {
        "format": FORMAT,
        **embedder,
        "clips": configs.to_json(clips),
        "dtype": config.dtype,
        "precision": config.precision,
        "data": {"fingerprint": manifest.fingerprint(), "columns": configs.fingerprint(columns)},
    }


def _write_failures(store: PartStore, rows: Sequence[Failure]) -> Path | None:
    """Lists the refused beside the output; a list left by an earlier run is emptied if there are none."""
    path = store.out.with_name(failures.NAME)
    if rows or path.exists():
        made = store.folder / path.name  # a kill must leave nothing in the user's folder
        failures.write(made, rows)
        made.replace(path)
    return path if rows else None


def _summary_of(out: Path, found: dict[str, Any]) -> EmbedSummary:
    """The summary of a file that was there before."""
    listed = out.with_name(failures.NAME)
    n_rows = pq.read_metadata(out).num_rows
    return EmbedSummary(
        out=out,
        n_examples=found["n_examples"],
        n_refused=found["n_refused"],
        n_rows=n_rows,
        refused=tuple(InputError(*entry) for entry in found["refused"]),
        failures=listed if found["n_refused"] and listed.exists() else None,
        n_resumed=n_rows,
        already_done=True,
    )
