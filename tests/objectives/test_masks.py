"""Masks: exact counts on any grid, nothing of a target in its context, every edge reached, pure in the step."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from birdjepa.objectives.curriculum import CurriculumConfig, hard_probability
from birdjepa.objectives.masks import (
    BlockMaskConfig,
    ComplementMaskConfig,
    MaskConfig,
    Masks,
    RandomMaskConfig,
    StripeMaskConfig,
    block_size,
    cut_to_common,
    visible_and_hidden,
)

ALL: list[MaskConfig] = [
    RandomMaskConfig(),
    BlockMaskConfig(),
    *(StripeMaskConfig(removes=removes) for removes in ("either", "time", "frequency", "both")),
    ComplementMaskConfig(),
    CurriculumConfig(),
]
GRIDS = st.tuples(st.integers(4, 128), st.integers(4, 8))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_grid(numbers: Tensor, columns: int, rows: int) -> Tensor:
    """Booleans (b, columns, rows) of patch numbers (b, k)."""
    hit = torch.zeros(len(numbers), columns * rows, dtype=torch.bool)
    return hit.scatter_(1, numbers, True).view(len(numbers), columns, rows)


@pytest.mark.parametrize("config", ALL, ids=lambda config: type(config).__name__)
@settings(max_examples=25, deadline=None)
@given(grid=GRIDS, batch=st.integers(1, 9), seed=st.integers(0, 10_000), progress=st.floats(0, 1))
def test_context_and_targets_are_apart_on_every_grid(
    config: MaskConfig, grid: tuple[int, int], batch: int, seed: int, progress: float
) -> None:
    columns, rows = grid
    masks = config.draw(columns, rows, batch, progress, seeded(seed))
    context, targets = masks
    assert context.shape[0] == targets.shape[0] == batch
    assert context.shape[1] >= 1
    assert targets.shape[2] >= 1
    for numbers in (context, targets.flatten(0, 1)):
        assert (numbers.diff(dim=1) > 0).all()  # ascending, none twice
        assert numbers.min() >= 0
        assert numbers.max() < columns * rows
    seen, asked = on_grid(context, columns, rows), on_grid(targets.flatten(1), columns, rows)
    assert not (seen & asked).any()
    assert masks.target_share(columns * rows) == pytest.approx(float(asked.float().mean()))
    again = config.draw(columns, rows, batch, progress, seeded(seed))
    assert torch.equal(again.context, context)
    assert torch.equal(again.targets, targets)


@settings(max_examples=60, deadline=None)
@given(
    grid=GRIDS,
    batch=st.integers(1, 5),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 10_000),
)
def test_hidden_patches_are_counted_exactly(
    grid: tuple[int, int], batch: int, block: tuple[int, int], share: float, seed: int
) -> None:
    n = grid[0] * grid[1]
    visible, hidden = visible_and_hidden(*grid, batch, block, share, seeded(seed))
    assert hidden.shape == (batch, min(max(1, round(share * n)), n - 1))
    assert torch.equal(torch.cat((visible, hidden), 1).sort(1).values, torch.arange(n).expand(batch, n))


def test_patches_are_hidden_by_blocks() -> None:
    _, hidden = visible_and_hidden(16, 8, 50, (4, 4), 0.75, seeded(0))
    blocks = on_grid(hidden, 16, 8).float().unflatten(2, (2, 4)).unflatten(1, (4, 4)).mean((2, 4))
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(blocks.sum((1, 2)), torch.full((50,), 6.0))
    assert (blocks.mean(0) > 0.5).all()  # every block is hidden in some clips
    _, hidden = visible_and_hidden(15, 8, 50, (2, 2), 0.75, seeded(0))  # 90 patches are no multiple of 4
    broken = on_grid(hidden, 15, 8)[:, :14].float().unflatten(2, (4, 2)).unflatten(1, (7, 2)).mean((2, 4))
    assert ((broken > 0) & (broken < 1)).sum((1, 2)).max() <= 1


def rectangle(block: Tensor) -> bool:
    """Whether a (columns, rows) pattern is one filled rectangle."""
    columns, rows = block.any(1).nonzero().flatten(), block.any(0).nonzero().flatten()
    filled = (columns[-1] - columns[0] + 1) * (rows[-1] - rows[0] + 1)
    return bool(filled == block.sum())


def test_target_blocks_are_rectangles_of_one_size_relative_to_the_grid() -> None:
    masks = BlockMaskConfig(scale=(0.16, 0.16), aspect=(1.0, 1.0)).draw(64, 8, 40, 0.0, seeded(0))
    assert masks.targets.shape == (40, 4, 26 * 3)  # 0.4 of 64 columns, 0.4 of 8 rows: not square in patches
    for block in on_grid(masks.targets.flatten(0, 1), 64, 8):
        assert rectangle(block)


@pytest.mark.parametrize("config", [BlockMaskConfig(), StripeMaskConfig(), ComplementMaskConfig(), RandomMaskConfig()])
def test_every_patch_is_a_target_and_a_context_about_as_often_as_its_mirror_image(config: MaskConfig) -> None:
    """I-JEPA's sampler never takes the last row, and cuts contexts at their late and high end."""
    seen = torch.zeros(2, 15, 8)
    for seed in range(60):
        masks = config.draw(15, 8, 32, 0.0, seeded(seed))
        seen[0] += on_grid(masks.context, 15, 8).float().mean(0) / 60
        seen[1] += on_grid(masks.targets.flatten(1), 15, 8).float().mean(0) / 60
    assert (seen > 0.005).all()
    for axis in (1, 2):
        torch.testing.assert_close(seen, seen.flip(axis), rtol=0, atol=0.09)


@pytest.mark.parametrize(("removes", "axis"), [("time", 2), ("frequency", 1)])
def test_a_stripe_mask_takes_the_whole_span_of_its_targets_from_the_context(removes: str, axis: int) -> None:
    for seed in range(20):
        masks = StripeMaskConfig(removes=removes).draw(30, 8, 8, 0.0, seeded(seed))
        seen, asked = on_grid(masks.context, 30, 8), on_grid(masks.targets.flatten(1), 30, 8)
        assert not (seen.any(axis) & asked.any(axis)).any()
    both = StripeMaskConfig(removes="both").draw(30, 8, 8, 0.0, seeded(0))
    seen, asked = on_grid(both.context, 30, 8), on_grid(both.targets.flatten(1), 30, 8)
    assert not any((seen.any(axis) & asked.any(axis)).any() for axis in (1, 2))


def test_either_removes_one_axis_for_each_block() -> None:
    masks = StripeMaskConfig(n_targets=1).draw(30, 8, 400, 0.0, seeded(0))
    seen, asked = on_grid(masks.context, 30, 8), on_grid(masks.targets[:, 0], 30, 8)
    no_time, no_band = (~(seen.any(axis) & asked.any(axis)).any(1) for axis in (2, 1))
    assert (no_time | no_band).all()
    assert 0.4 < no_time.float().mean() < 0.65
    assert 0.4 < no_band.float().mean() < 0.65


def test_a_context_is_drawn_again_when_it_is_too_small() -> None:
    least = StripeMaskConfig(least_context=0.3)
    for seed in range(20):
        context = least.draw(64, 8, 64, 0.0, seeded(seed)).context
        assert context.shape[1] >= 0.3 * 64 * 8


def test_contexts_are_cut_at_random_and_not_at_their_end() -> None:
    chosen = torch.ones(2000, 40, dtype=torch.bool)
    chosen[0, 10:] = False  # the smallest: ten patches
    kept = cut_to_common(chosen, seeded(0))
    assert kept.shape == (2000, 10)
    often = torch.zeros(40).scatter_add_(0, kept[1:].flatten(), torch.ones(1999 * 10)) / 1999
    torch.testing.assert_close(often, torch.full((40,), 0.25), rtol=0, atol=0.05)


def test_sizes_follow_scale_and_aspect() -> None:
    sizes = [block_size(128, 64, (0.1, 0.2), (0.5, 2.0), seeded(seed)) for seed in range(300)]
    shares = torch.tensor([height * width / (128 * 64) for height, width in sizes])
    aspects = torch.tensor([(height / 64) / (width / 128) for height, width in sizes])
    assert shares.min() > 0.09
    assert shares.max() < 0.21
    assert aspects.min() > 0.45
    assert aspects.max() < 2.2
    assert torch.corrcoef(torch.stack((shares, aspects)))[0, 1].abs() < 0.15  # drawn independently


@pytest.mark.parametrize(
    ("pace", "start", "half", "end"),
    [
        ("sqrt", 0.01, (0.5 * (1 - 0.01**2) + 0.01**2) ** 0.5, 1.0),
        ("linear", 0.01, 0.505, 1.0),
        ("quadratic", 0.01, (0.5 * 0.9 + 0.1) ** 2, 1.0),
        ("step", 0.0, 1.0, 1.0),
        ("constant", 0.5, 0.5, 0.5),
        ("inverse", 0.99, 1 - (0.5 * (1 - 0.01**2) + 0.01**2) ** 0.5, 0.0),
    ],
)
def test_the_probability_of_hard_masks(pace: str, start: float, half: float, end: float) -> None:
    found = [hard_probability(progress, pace, 0.01) for progress in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([start, half, end])


def test_a_quarter_of_the_way_half_of_the_batches_are_hard() -> None:
    """Two thirds of all steps are, over the whole run."""
    assert hard_probability(0.25, "sqrt", 0.01) == pytest.approx(0.5, abs=1e-3)
    mean = sum(hard_probability(i / 1000, "sqrt", 0.01) for i in range(1000)) / 1000
    assert mean == pytest.approx(2 / 3, abs=0.01)


def test_the_curriculum_moves_from_four_blocks_to_three() -> None:
    def hard_share(progress: float) -> float:
        drawn = [CurriculumConfig().draw(15, 8, 2, progress, seeded(seed)).targets.shape[1] for seed in range(200)]
        assert set(drawn) <= {3, 4}
        return drawn.count(3) / 200

    assert hard_share(0.0) < 0.06
    assert 0.6 < hard_share(0.5) < 0.82
    assert hard_share(1.0) == 1.0


def test_masks_are_cheap() -> None:
    """A guard against loops over clips, not a measurement: benchmarks/objectives.py has that."""
    began = time.perf_counter()
    CurriculumConfig().draw(64, 8, 256, 1.0, seeded(0))
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RandomMaskConfig(share=(0.6, 0.4)), "share must be an ascending range"),
        (lambda: BlockMaskConfig(n_targets=0), "at least 1 block"),
        (lambda: BlockMaskConfig(aspect=(0.0, 1.0)), "positive aspects"),
        (lambda: StripeMaskConfig(scale=(0.1, 1.2)), "scale must be"),
        (lambda: StripeMaskConfig(least_context=0.0), "least_context must be"),
        (lambda: ComplementMaskConfig(long_share=2.0), "long_share"),
        (lambda: CurriculumConfig(start=1.0), "start must be"),
    ],
)
def test_bad_settings_are_refused(make, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_masks_is_a_tuple_of_numbers() -> None:
    masks = Masks(torch.tensor([[0, 1]]), torch.tensor([[[2, 3], [3, 4]]]))
    assert masks.target_share(10) == pytest.approx(0.3)
