import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from birdjepa.core.random import Draws
from birdjepa.objectives.augment import DB, AugmentConfig, groups
from birdjepa.objectives.views import Views, ViewsConfig, make_views

PLAIN = AugmentConfig(gain_db=0.0, mix_probability=0.0, tilt_db=0.0, mask_mels=0, mask_share=0.0)
SHAPES = ("stretch", "zoom")
VIEW_SETTINGS = ("n_global", "n_local", "global_s", "local_s", *SHAPES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return -50 + 10 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(
    frames: Tensor, *, n_views: int = 2, window: int = 20, seed: int = 0, db_per_unit: float = 1.0, **changes: Any
) -> Views:
    shape = {name: changes.pop(name) for name in SHAPES if name in changes}
    config = ViewsConfig(augment=dataclasses.replace(PLAIN, **changes), **shape)
    draws = Draws(torch.Generator().manual_seed(seed))
    return make_views(frames, n_views, window, config, db=db_per_unit, draws=draws)


def windows(frames: Tensor, views: Views) -> Tensor:
    """The same windows without any alteration."""
    length = views.frames.shape[2]
    rows = [[clip[at : at + length] for clip, at in zip(frames, starts, strict=True)] for starts in views.start]
    return torch.stack([torch.stack(row) for row in rows])


def level(power: Tensor) -> Tensor:
    """Mean power of each view in dB."""
    return 10 * torch.log10(power.mean((2, 3)))


def power(views: Tensor) -> Tensor:
    return 10 ** (views.double() / 10)


def test_views_are_a_function_of_their_generator() -> None:
    frames = random(3, 50, 16)
    everything = {"gain_db": 6.0, "mix_probability": 0.5, "tilt_db": 3.0, "mask_mels": 4, "mask_share": 0.2}
    first, again, other = (make(frames, seed=seed, **everything) for seed in (1, 1, 2))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.start, again.start)
    assert not torch.equal(first.frames, other.frames)


def test_windows_are_cut_where_they_say_and_uniformly() -> None:
    frames = torch.arange(24.0)[None, :, None].expand(500, 24, 4) + 100 * torch.arange(500.0)[:, None, None]
    views = make(frames, n_views=4)
    assert (views.span == 20).all()
    assert torch.equal(views.frames, windows(frames, views))
    counts = views.start.flatten().bincount(minlength=5)
    assert len(counts) == 5  # 0 to 4, the last place that fits
    assert (counts.double() / 2000 - 0.2).abs().max() < 0.04


def test_views_of_a_clip_differ_and_a_window_may_fill_the_clip() -> None:
    frames = random(8, 200, 16)
    assert (make(frames).start[0] != make(frames).start[1]).any()
    whole = make(frames, window=200)
    assert torch.equal(whole.frames, frames.expand(2, -1, -1, -1))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make(frames[order], window=200).frames, whole.frames[:, order])
    with pytest.raises(ValueError, match="a view of 201 frames does not fit into clips of 200"):
        make(frames, window=201)
    assert make(frames, n_views=0, window=201).frames.shape == (0, 8, 201, 16)


def test_gain_is_one_number_per_view_uniform_in_its_range() -> None:
    frames = random(400, 30, 4)
    views = make(frames, gain_db=6.0)
    gain = views.frames - windows(frames, views)
    torch.testing.assert_close(gain, gain[:, :, :1, :1].expand_as(gain), rtol=0, atol=1e-4)
    drawn = gain[:, :, 0, 0].flatten().sort().values
    torch.testing.assert_close(drawn, torch.linspace(-6, 6, 800), rtol=0, atol=0.6)


@pytest.mark.parametrize("changes", [{"gain_db": 6.0}, {"mix_probability": 1.0}, {"tilt_db": 3.0}])
def test_nepers_are_altered_like_decibels(changes: dict[str, Any]) -> None:
    frames = random(4, 30, 16)
    decibels, nepers = make(frames, **changes), make(frames / DB, db_per_unit=DB, **changes)
    torch.testing.assert_close(nepers.frames * DB, decibels.frames, rtol=0, atol=1e-3)
    assert pytest.approx(10 / math.log(10)) == DB


@pytest.mark.parametrize("snr", [0.0, 10.0])
def test_the_background_lies_as_far_below_as_drawn(snr: float) -> None:
    frames = random(6, 30, 16)
    views = make(frames, mix_probability=1.0, mix_snr_db=(snr, snr))
    plain = power(windows(frames, views))
    background = power(views.frames) - plain
    torch.testing.assert_close(level(plain) - level(background), torch.full((2, 6), snr).double(), rtol=0, atol=0.01)
    candidates = power(windows(frames, views)).flatten(2)
    shape = torch.nn.functional.cosine_similarity(background.flatten(2).unsqueeze(2), candidates.unsqueeze(1), dim=-1)
    assert (shape.amax(2) > 0.999).all()  # it is one other clip's view, scaled
    assert (shape.argmax(2) != torch.arange(6)).all()


def test_snr_is_uniform_in_its_range() -> None:
    frames = random(400, 20, 8)
    views = make(frames, mix_probability=1.0, mix_snr_db=(3.0, 25.0))
    plain = power(windows(frames, views))
    drawn = (level(plain) - level(power(views.frames) - plain)).flatten().sort().values
    torch.testing.assert_close(drawn, torch.linspace(3, 25, 800).double(), rtol=0, atol=1.2)


def test_no_clip_is_mixed_with_itself_and_all_others_come() -> None:
    n_clips = 5
    frames = torch.full((n_clips, 20, n_clips), -200.0)
    frames[torch.arange(n_clips), :, torch.arange(n_clips)] = 0.0  # clip i sounds in band i alone
    views = make(frames, n_views=40, mix_probability=1.0, mix_snr_db=(3.0, 3.0))
    sounding = (views.frames[:, :, 0] > -50).sum(0)
    assert torch.equal(sounding.diagonal(), torch.full((n_clips,), 40))
    assert torch.equal(sounding.sum(1), torch.full((n_clips,), 80))
    assert (sounding > 0).all()


def test_the_mixed_share_is_as_asked_and_a_lone_clip_stays_alone() -> None:
    frames = random(500, 20, 8)
    views = make(frames, mix_probability=0.3)
    mixed = (views.frames != windows(frames, views)).any(3).any(2).float().mean()
    assert 0.25 < mixed < 0.35
    lone = make(frames[:1], mix_probability=1.0)
    assert torch.equal(lone.frames, windows(frames[:1], lone))


def test_masks_stay_within_their_limits_and_read_the_view_mean() -> None:
    frames = random(300, 50, 32)
    views = make(frames, window=40, mask_mels=8, mask_share=0.25)
    plain = windows(frames, views)
    hidden = views.frames != plain
    means = plain.mean((2, 3), keepdim=True).expand_as(plain)
    torch.testing.assert_close(views.frames[hidden], means[hidden])
    bands, times = hidden.all(2).sum(2), hidden.all(3).sum(2)
    assert bands.max() == 8
    assert times.max() == 10
    assert bands.min() == times.min() == 0
    assert torch.equal(hidden, hidden.all(2, keepdim=True) | hidden.all(3, keepdim=True))
    covered = hidden.all(2).float().mean((0, 1))
    assert (covered > 0.06).all()  # no band is spared
    assert (covered < 0.16).all()
    one = hidden.all(2).flatten(0, 1).int()
    assert (one.diff(dim=1).abs().sum(1) <= 2).all()  # one stripe


def test_a_stretched_view_shows_more_or_less_of_the_clip() -> None:
    frames = torch.arange(60.0)[None, :, None].expand(300, 60, 4)  # frame t reads t
    views = make(frames, window=20, stretch=(0.5, 1.5))
    assert (views.span.min(), views.span.max()) == (10, 30)
    assert (views.start + views.span).max() == 60
    assert views.start.min() == 0
    place = (torch.arange(20) + 0.5) * views.span[..., None] / 20 - 0.5
    expected = views.start[..., None] + place.maximum(torch.zeros(())).minimum(views.span[..., None] - 1)
    torch.testing.assert_close(views.frames[..., 0], expected)
    assert make(frames, window=50, stretch=(2.0, 2.0)).span.unique().tolist() == [60]


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_zoomed_view_spreads_or_squeezes_its_bands(factor: float) -> None:
    frames = torch.arange(64.0).expand(50, 20, 64)  # band m reads m
    views = make(frames, zoom=(factor, factor)).frames
    assert views.min() >= 0
    assert views.max() <= 63
    steps = views.diff(dim=-1)
    inside = (views[..., :-1] > 0) & (views[..., 1:] < 63)
    torch.testing.assert_close(steps[inside], torch.full_like(steps[inside], 1 / factor), rtol=0, atol=1e-4)
    shown = (views[..., -1] - views[..., 0]).flatten()
    assert (shown > 63 / max(factor, 1) - 1.5).all()
    assert len(views[..., 0, 32].unique()) > 50  # at a random place


def test_tilt_is_smooth_and_of_the_asked_size() -> None:
    frames = random(300, 30, 65)
    views = make(frames, tilt_db=3.0)
    tilt = views.frames - windows(frames, views)
    torch.testing.assert_close(tilt, tilt[:, :, :1].expand_as(tilt), rtol=0, atol=1e-4)
    curve = tilt[:, :, 0]
    assert 2.7 < curve[..., ::16].std() < 3.3
    straight = curve.diff(dim=-1).diff(dim=-1).abs()
    bends = straight.amax((0, 1)) > 1e-3
    assert bends.nonzero().flatten().tolist() == [15, 31, 47]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_global": 0}, "n_global >= 1"),
        ({"n_local": -1}, "n_local >= 0"),
        ({"global_s": 0.0}, "global_s > 0"),
        ({"local_s": 0.0}, "local_s > 0"),
        ({"stretch": (0.0, 1.0)}, "stretch must be"),
        ({"stretch": (1.2, 1.1)}, "stretch must be"),
        ({"zoom": (1.0, 0.9)}, "zoom must be"),
        ({"mix_probability": 1.1}, "mix_probability"),
        ({"mix_snr_db": (5.0, 3.0)}, "ascending"),
        ({"gain_db": -1.0}, "gain_db >= 0"),
        ({"tilt_db": -1.0}, "tilt_db >= 0"),
        ({"mask_mels": -1}, "mask_mels >= 0"),
        ({"mask_share": 1.0}, "mask_share < 1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    shape = {name: value for name, value in changes.items() if name in VIEW_SETTINGS}
    altered = {name: value for name, value in changes.items() if name not in VIEW_SETTINGS}
    with pytest.raises(ValueError, match=message):
        ViewsConfig(augment=AugmentConfig(**altered), **shape)


def test_partners_of_mixing_lie_in_groups_of_neighbours() -> None:
    """So that none lies in another process; the last group takes what is left over."""
    first, size = groups(21, torch.device("cpu"))
    assert first.tolist() == [0] * 8 + [8] * 13
    assert size.tolist() == [8] * 8 + [13] * 13
    assert groups(5, torch.device("cpu"))[1].tolist() == [5] * 5
    n_clips = 16
    frames = torch.full((n_clips, 20, n_clips), -200.0)
    frames[torch.arange(n_clips), :, torch.arange(n_clips)] = 0.0  # clip i sounds in band i alone
    views = make(frames, n_views=60, mix_probability=1.0, mix_snr_db=(3.0, 3.0))
    together = (views.frames[:, :, 0] > -50).any(0)
    assert torch.equal(together, torch.block_diag(torch.ones(8, 8), torch.ones(8, 8)).bool())
