"""Masks on the patch grid: what the context encoder sees, and what must be predicted; batched, from one generator.

Patches are numbered as `models.patch.patchify` orders them: time column by time column, within a column from low to
high. A block's size is drawn once per batch, its place for each clip, so that all clips have equally many targets.
Sizes are relative to the grid: a block of scale s and aspect a spans sqrt(s * a) of the rows and sqrt(s / a) of the
columns, since on a grid of 8 by 64 a block that is square in patches would fill all rows. Blocks reach every edge.
Contexts of different size are cut to the smallest one of the batch by leaving out random patches.

Axes: b clips | a attempts | m target blocks | c context patches | k patches of a target block | w columns | h rows
"""

import abc
import dataclasses
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

ATTEMPTS = 8
"""Placements tried for a clip whose context would be too small."""


class Masks(NamedTuple):
    """Patch numbers, ascending. No context patch is a target."""

    context: Int[Tensor, "b c"]
    targets: Int[Tensor, "b m k"]
    """Blocks that are predicted one by one; they may overlap each other."""

    def target_share(self, n_patches: int) -> float:
        """Share of the grid that is a target, averaged over clips."""
        hit = torch.zeros(len(self.targets), n_patches, dtype=torch.bool, device=self.targets.device)
        return float(hit.scatter_(1, self.targets.flatten(1), True).float().mean())


class MaskConfig(abc.ABC):
    """How masks are drawn. Subclasses are final frozen dataclasses."""

    @abc.abstractmethod
    def draw(self, columns: int, rows: int, batch: int, progress: float, generator: torch.Generator) -> Masks:
        """Masks of a batch on a grid of at least 2 patches, on the generator's device.

        progress is the share of the run that is done: only a curriculum reads it.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomMaskConfig(MaskConfig):
    """Unstructured: single patches drawn at random are the targets, all others the context."""

    share: tuple[float, float] = (0.4, 0.6)
    """Share of the patches that are targets, uniform in this range, once per batch."""

    def __post_init__(self) -> None:
        _check_range("share", self.share)

    def draw(self, columns: int, rows: int, batch: int, progress: float, generator: torch.Generator) -> Masks:
        n = columns * rows
        n_targets = min(max(1, round(draw_uniform(self.share, generator) * n)), n - 1)
        order = torch.rand(batch, n, generator=generator, device=generator.device).argsort(1)
        return Masks(order[:, n_targets:].sort(1).values, order[:, None, :n_targets].sort(2).values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockMaskConfig(MaskConfig):
    """Random blocks are the targets; the context is a large block without them.

    Source: A-JEPA (arXiv 2311.15830), after I-JEPA, on a geometry of our own (see the module).
    """

    n_targets: int = 4
    scale: tuple[float, float] = (0.15, 0.2)
    """Share of the grid that one target block covers."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Share of the rows over share of the columns."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Share of the grid that the context block covers, before the targets are taken out."""
    least_context: float = 0.25
    """Share of the grid below which a context is drawn again: the smallest one of a batch sets the length of all."""

    def __post_init__(self) -> None:
        _check_blocks(self.n_targets, self.scale, self.aspect)
        _check_range("context_scale", self.context_scale)
        _check_share("least_context", self.least_context)

    def draw(self, columns: int, rows: int, batch: int, progress: float, generator: torch.Generator) -> Masks:
        height, width = _target_size(columns, rows, self.scale, self.aspect, generator)
        blocks = _with_last_resort(_place(columns, rows, height, width, (ATTEMPTS, batch, self.n_targets), generator))
        room = _room(columns, rows, self.context_scale, batch, generator)
        free = ~blocks.covers(columns, rows).any(2)
        context = _first_not_empty(room & free, free)  # a context block may lie behind its targets on tiny grids
        return _masks(blocks, context, self.least_context, rows, generator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StripeMaskConfig(MaskConfig):
    """Time-frequency masks: the context loses all that shares the time span, or the band, of a target block.

    Source: A-JEPA (arXiv 2311.15830). Which of the two a block removes, and its aspect, are not known; here an axis is
    drawn for each block, and the aspect is that of the random blocks.
    """

    n_targets: int = 3
    scale: tuple[float, float] = (0.05, 0.075)
    """Share of the grid that one target block covers."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Share of the rows over share of the columns."""
    removes: Literal["either", "time", "frequency", "both"] = "either"
    """What a target takes from the context: the columns of its time span, the rows of its band, one of them drawn for
    each block, or both."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Share of the grid that the context block covers, before anything is taken out."""
    least_context: float = 0.25
    """Share of the grid below which a context is drawn again: the smallest one of a batch sets the length of all."""

    def __post_init__(self) -> None:
        _check_blocks(self.n_targets, self.scale, self.aspect)
        _check_range("context_scale", self.context_scale)
        _check_share("least_context", self.least_context)

    def draw(self, columns: int, rows: int, batch: int, progress: float, generator: torch.Generator) -> Masks:
        height, width = _target_size(columns, rows, self.scale, self.aspect, generator)
        blocks = _with_last_resort(_place(columns, rows, height, width, (ATTEMPTS, batch, self.n_targets), generator))
        covers = blocks.covers(columns, rows)
        in_time, in_band = covers.any(4, keepdim=True), covers.any(3, keepdim=True)
        coin = torch.rand(*blocks.left.shape, 1, 1, generator=generator, device=generator.device) < 0.5
        coin[-1] = coin[-1, :, :1]  # the last resort is one block on one axis
        by_time = {"either": coin, "time": torch.ones_like(coin), "frequency": torch.zeros_like(coin)}
        if self.removes == "both":
            removed = in_time | in_band
        else:
            chosen = by_time[self.removes]
            chosen = torch.full_like(chosen, width < columns) if width == columns or height == rows else chosen
            removed = torch.where(chosen, in_time, in_band)
        room = _room(columns, rows, self.context_scale, batch, generator)
        kept, free = ~removed.any(2), ~covers.any(2)
        # On tiny grids: without the context block, then without the targets alone.
        context = _first_not_empty(room & kept, kept, free)
        return _masks(blocks, context, self.least_context, rows, generator)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComplementMaskConfig(MaskConfig):
    """V-JEPA's: blocks are united to one target, and all the rest is the context; many small blocks or few large ones,
    drawn per batch.

    V-JEPA's blocks span all of a video's time; a spectrogram has no third axis, so here they are blocks of the grid.
    Source: V-JEPA (vitl16 configuration).
    """

    n_short: int = 8
    short_scale: tuple[float, float] = (0.15, 0.15)
    n_long: int = 2
    long_scale: tuple[float, float] = (0.5, 0.7)
    """V-JEPA has 0.7; from there on a coarse grid leaves little to see."""
    long_share: float = 0.5
    """Share of the batches that get the large blocks."""
    aspect: tuple[float, float] = (0.75, 1.5)
    least_context: float = 0.1
    """Share of the grid below which the blocks are drawn again."""

    def __post_init__(self) -> None:
        _check_blocks(self.n_short, self.short_scale, self.aspect)
        _check_blocks(self.n_long, self.long_scale, self.aspect)
        _check_share("least_context", self.least_context)
        if not 0 <= self.long_share <= 1:
            raise ValueError(f"long_share must be in [0, 1], got {self.long_share}")

    def draw(self, columns: int, rows: int, batch: int, progress: float, generator: torch.Generator) -> Masks:
        is_long = draw_uniform((0.0, 1.0), generator) < self.long_share
        n, scale = (self.n_long, self.long_scale) if is_long else (self.n_short, self.short_scale)
        height, width = _target_size(columns, rows, scale, self.aspect, generator)
        blocks = _with_last_resort(_place(columns, rows, height, width, (ATTEMPTS, batch, n), generator))
        united = blocks.covers(columns, rows).any(2)
        united = _choose(united, ~united, self.least_context)[0]
        targets = cut_to_common(united.flatten(1), generator)
        return Masks(cut_to_common(~united.flatten(1), generator), targets.unsqueeze(1))


class Blocks(NamedTuple):
    """Rectangles of one size on the grid."""

    left: Int[Tensor, "a b m"]
    """First column."""
    low: Int[Tensor, "a b m"]
    """First row."""
    width: int
    height: int

    def covers(self, columns: int, rows: int) -> Bool[Tensor, "a b m w h"]:
        """Which patches each block covers."""
        column = torch.arange(columns, device=self.left.device)
        row = torch.arange(rows, device=self.left.device)
        left, low = self.left.unsqueeze(-1), self.low.unsqueeze(-1)
        in_time = (column >= left) & (column < left + self.width)
        in_band = (row >= low) & (row < low + self.height)
        return in_time.unsqueeze(-1) & in_band.unsqueeze(-2)


def visible_and_hidden(
    columns: int, rows: int, batch: int, block: tuple[int, int], share: float, generator: torch.Generator
) -> tuple[Int[Tensor, "b c"], Int[Tensor, "b k"]]:
    """Patches that a masked autoencoder sees, and those that it must draw: exactly round(share * n) are hidden.

    Whole blocks of (columns, rows) are hidden in a drawn order; the last one is cut at random to the exact count, so
    grids need not be a multiple of the blocks.
    """
    device, n = generator.device, columns * rows
    wide, high = -(-columns // block[0]), -(-rows // block[1])
    rank = torch.rand(batch, wide * high, generator=generator, device=device).argsort(1).argsort(1)
    rank = rank.view(batch, wide, high).repeat_interleave(block[0], 1).repeat_interleave(block[1], 2)
    rank = rank[:, :columns, :rows].reshape(batch, n)
    shuffled = torch.rand(batch, n, generator=generator, device=device).argsort(1)
    order = shuffled.gather(1, rank.gather(1, shuffled).argsort(dim=1, stable=True))
    n_visible = n - min(max(1, round(share * n)), n - 1)
    return order[:, :n_visible].sort(1).values, order[:, n_visible:].sort(1).values


def block_size(
    columns: int,
    rows: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> tuple[int, int]:
    """Height in rows and width in columns of a block, its scale and aspect drawn independently."""
    drawn, shape = draw_uniform(scale, generator), draw_uniform(aspect, generator)
    height = min(max(1, round(math.sqrt(drawn * shape) * rows)), rows)
    width = min(max(1, round(math.sqrt(drawn / shape) * columns)), columns)
    return height, width


def _target_size(
    columns: int,
    rows: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> tuple[int, int]:
    """As block_size, but never the whole grid."""
    height, width = block_size(columns, rows, scale, aspect, generator)
    if (height, width) == (rows, columns):
        return (height - 1, width) if rows > columns else (height, width - 1)
    return height, width


def cut_to_common(chosen: Bool[Tensor, "b n"], generator: torch.Generator) -> Int[Tensor, "b c"]:
    """Numbers of the chosen patches, ascending, as many for each clip as the clip with fewest has; which of the others
    go is drawn.
    """
    n_common = int(chosen.sum(1).min())
    drawn = torch.rand(chosen.shape, generator=generator, device=chosen.device)
    return (drawn * chosen + chosen).topk(n_common, dim=1).indices.sort(1).values


def _place(
    columns: int, rows: int, height: int, width: int, shape: tuple[int, int, int], generator: torch.Generator
) -> Blocks:
    """Blocks of one size at uniform places, edges included."""
    left, low = torch.rand(2, *shape, generator=generator, device=generator.device)
    return Blocks((left * (columns - width + 1)).long(), (low * (rows - height + 1)).long(), width, height)


def _room(
    columns: int, rows: int, scale: tuple[float, float], batch: int, generator: torch.Generator
) -> Bool[Tensor, "b w h"]:
    """The context block of each clip."""
    size = block_size(columns, rows, scale, (1.0, 1.0), generator)
    return _place(columns, rows, *size, (1, batch, 1), generator).covers(columns, rows)[0, :, 0]


def _first_not_empty(first: Bool[Tensor, "a b w h"], *others: Bool[Tensor, "a b w h"]) -> Bool[Tensor, "a b w h"]:
    """For each clip and attempt the first of these that holds a patch."""
    for other in others:
        first = torch.where(first.any((2, 3), keepdim=True), first, other)
    return first


def _with_last_resort(blocks: Blocks) -> Blocks:
    """One more attempt, in which all blocks lie where the first one does, so that something is left for the context."""
    left = torch.cat((blocks.left, blocks.left[:1, :, :1].expand_as(blocks.left[:1])))
    low = torch.cat((blocks.low, blocks.low[:1, :, :1].expand_as(blocks.low[:1])))
    return blocks._replace(left=left, low=low)


def _choose(values: Tensor, context: Bool[Tensor, "a b w h"], least_share: float) -> tuple[Tensor, Int[Tensor, " b"]]:
    """values of each clip's first attempt whose context is large enough, else of its largest one; and which it was."""
    count = context.sum((2, 3))
    enough = count >= max(1, math.ceil(least_share * context[0, 0].numel()))
    attempt = torch.where(enough.any(0), enough.int().argmax(0), count.argmax(0))
    return values[attempt, torch.arange(values.shape[1], device=values.device)], attempt


def _masks(
    blocks: Blocks,
    context: Bool[Tensor, "a b w h"],
    least_share: float,
    rows: int,
    generator: torch.Generator,
) -> Masks:
    """Numbers of the context patches and of each block's, of the attempt that each clip takes."""
    chosen, attempt = _choose(context, context, least_share)
    clip = torch.arange(len(attempt), device=attempt.device)
    left, low = blocks.left[attempt, clip], blocks.low[attempt, clip]
    column = torch.arange(blocks.width, device=left.device)[:, None]
    row = torch.arange(blocks.height, device=left.device)[None, :]
    numbers = (left[..., None, None] + column) * rows + low[..., None, None] + row
    return Masks(cut_to_common(chosen.flatten(1), generator), numbers.flatten(2))


def draw_uniform(limits: tuple[float, float], generator: torch.Generator) -> float:
    """One number in [low, high)."""
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def _check_blocks(n: int, scale: tuple[float, float], aspect: tuple[float, float]) -> None:
    if n < 1 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(f"need at least 1 block and an ascending range of positive aspects, got {n}, {aspect}")
    _check_range("scale", scale)


def _check_range(name: str, limits: tuple[float, float]) -> None:
    if not 0 < limits[0] <= limits[1] <= 1:
        raise ValueError(f"{name} must be an ascending range of shares in (0, 1], got {limits[0]}, {limits[1]}")


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{name} must be a share in (0, 1), got {share}")
