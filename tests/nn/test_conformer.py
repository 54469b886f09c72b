"""Conformers: hidden frames have no influence, reach is a bound, and the norm over clips is torch's."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from birdjepa.nn.conformer import ClipNorm, Conformer, barred, initialise

WIDTH = 16


def block(**settings: Any) -> Conformer:
    made = Conformer(WIDTH, 4, **{"kernel": 7, "reach": 0, "rope": True, "norm": "frame", "eps": 1e-5, **settings})
    initialise(made, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter += 0.2 * random(*parameter.shape, seed=number)
    return made


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def times(n: int) -> Tensor:
    return torch.arange(n) / 25.0


@pytest.mark.parametrize("norm", ["frame", "clip"])
@pytest.mark.parametrize("rope", [True, False])
def test_frames_that_are_not_kept_have_no_influence(norm: str, rope: bool) -> None:
    made, x = block(norm=norm, rope=rope), random(2, 12, WIDTH).requires_grad_()
    kept = torch.ones(2, 12, dtype=torch.bool)
    kept[0, 3:6] = kept[1, 8:] = False
    out = made(x, kept, times(12))
    out[kept].square().sum().backward()
    assert not x.grad[~kept].any()
    assert x.grad[kept].abs().sum(-1).min() > 0
    short = made(x[1:, :8], kept[1:, :8], times(8))
    torch.testing.assert_close(out[1:, :8], short)


@pytest.mark.parametrize("reach", [1, 3])
def test_nothing_beyond_reach_and_kernel_counts(reach: int) -> None:
    made, x = block(reach=reach, kernel=5), random(1, 20, WIDTH).requires_grad_()
    made(x, torch.ones(1, 20, dtype=torch.bool), times(20))[0, 10].square().sum().backward()
    heard = x.grad[0].any(-1).nonzero()[:, 0]
    assert (int(heard.min()), int(heard.max())) == (10 - reach - 2, 10 + reach + 2)


def test_without_rope_only_the_convolution_tells_the_order() -> None:
    made, x = block(rope=False, kernel=1), random(1, 9, WIDTH)
    kept, order = torch.ones(1, 9, dtype=torch.bool), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(x[:, order], kept, times(9)), made(x, kept, times(9))[:, order])
    turned = block(rope=True, kernel=1)
    assert (turned(x[:, order], kept, times(9)) - turned(x, kept, times(9))[:, order]).abs().max() > 1e-2


def test_what_is_barred() -> None:
    kept = torch.tensor([[True, True, False, True]])
    assert barred(torch.ones(2, 4, dtype=torch.bool), 0) is None
    assert barred(kept, 0).tolist() == [[[False, False, True, False]]]
    near = barred(kept, 1)
    assert near[0].tolist() == [
        [False, False, True, True],
        [False, False, True, True],
        [True, False, False, False],
        [True, True, True, False],
    ]
    nothing = barred(torch.zeros(1, 3, dtype=torch.bool), 1)
    assert not nothing.all(-1).any()


def test_the_norm_over_clips_equals_group_norm() -> None:
    ours, theirs = ClipNorm(WIDTH, 1e-5), nn.GroupNorm(1, WIDTH, eps=1e-5)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(random(WIDTH))
            norm.bias.copy_(random(WIDTH, seed=1))
    x, kept = 3 + random(3, 9, WIDTH), torch.ones(3, 9, dtype=torch.bool)
    torch.testing.assert_close(ours(x, kept), theirs(x.mT).mT)
    kept[:, 5:] = False
    torch.testing.assert_close(ours(x, kept)[:, :5], theirs(x[:, :5].mT).mT)


@pytest.mark.parametrize(
    ("settings", "message"), [({"kernel": 4}, "must be odd, got 4"), ({"reach": 2, "norm": "clip"}, "needs reach=0")]
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block(**settings)
