"""Spans that hide an exact share of each clip, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from birdjepa.core import random
from birdjepa.objectives.base import Chance
from birdjepa.objectives.spans import SpanMaskConfig, draw_spans

CHANCE = Chance(seed=3, step=7, n_steps=10)


@given(n=st.integers(2, 300), share=st.floats(0.01, 0.99), shortest=st.integers(1, 9), seed=st.integers(0, 9))
def test_exactly_the_share_is_hidden(n: int, share: float, shortest: int, seed: int) -> None:
    config = SpanMaskConfig(share=share, shortest=shortest)
    hidden = config.draw(n, random.generator(seed, "mask"))
    assert hidden.sum() == config.n_hidden(n)
    assert 0 < hidden.sum() < n


@pytest.mark.parametrize("n", [37, 24, 8, 5, 3])
def test_the_default_share_is_a_half_where_the_public_sampler_is_off(n: int) -> None:
    """That one hides 0.45 of 37 frames and 0.78 of 3, and of a third of the latter everything."""
    shares = [SpanMaskConfig().draw(n, random.generator(seed, "mask")).mean() for seed in range(50)]
    assert set(shares) == {SpanMaskConfig().n_hidden(n) / n}


def test_a_single_frame_is_seen() -> None:
    assert not SpanMaskConfig().draw(1, random.generator(0, "mask")).any()


def test_every_frame_is_hidden_about_as_often() -> None:
    config = SpanMaskConfig(share=0.4)
    often = np.mean([config.draw(40, random.generator(seed, "mask")) for seed in range(2000)], 0)
    assert often.min() > 0.35
    assert often.max() < 0.45


def test_spans_are_no_shorter_than_asked_but_for_few() -> None:
    config = SpanMaskConfig(share=0.3, shortest=5, longest=0.2)
    for seed in range(50):
        hidden = config.draw(100, random.generator(seed, "mask"))
        edges = np.flatnonzero(np.diff(np.r_[0, hidden.astype(int), 0]))
        spans = edges[1::2] - edges[::2]
        assert (spans < 5).sum() <= 3


def test_a_clip_has_its_mask_whoever_draws_it() -> None:
    n_frames = [20, 9, 33, 14]
    alone = draw_spans(n_frames, 33, SpanMaskConfig(), CHANCE)
    halves = [
        draw_spans(n_frames[2 * rank : 2 * rank + 2], 33, SpanMaskConfig(), Chance(3, 7, 10, rank=rank, world=2))
        for rank in range(2)
    ]
    assert torch.equal(alone, torch.cat(halves))
    assert not torch.equal(alone, draw_spans(n_frames, 33, SpanMaskConfig(), Chance(3, 8, 10)))
    assert not alone[1, 9:].any()


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.0}, {"shortest": 0}, {"longest": 0.0}])
def test_limits(bad: dict) -> None:
    with pytest.raises(ValueError, match="need 0 < share < 1"):
        SpanMaskConfig(**bad)
