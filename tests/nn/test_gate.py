"""The Gaussian gate: its formula, its statistics, and components that do not stay equal."""

import math

import pytest
import torch
from torch import Tensor

from birdjepa.nn.gate import INITIAL_STRENGTH, GaussianGate
from birdjepa.nn.ragged import Stretches

WIDTH = 6


def gate(combine: str = "mixture", reach: int = 0, rows_per_frame: int = 1, components: int = 4) -> GaussianGate:
    made = GaussianGate(WIDTH, components, combine=combine, offsets="score", reach=reach, rows_per_frame=rows_per_frame)  # pyright: ignore
    made.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # the first strength hides mistakes
        made.strength.fill_(0.7)
        made.score.weight.mul_(20)
        made.score.bias.fill_(0.3)
    return made


def rows(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def naive(made: GaussianGate, x: Tensor, combine: str) -> Tensor:
    """Of one clip, moment by moment and component by component."""
    scores = made.score(x).detach()[:, 0].tolist()
    mean = sum(scores) / len(scores)
    spread = math.sqrt(max(sum((score - mean) ** 2 for score in scores) / len(scores), 1e-6))
    gains = []
    for score in scores:
        densities = []
        for offset, raw in zip(made.offset.tolist(), made.scale.tolist(), strict=True):
            scale = math.log1p(math.exp(raw)) + 1e-3
            z = (score - (mean + offset)) / (spread * scale + 1e-8)
            densities.append(math.exp(-z * z / 2) / (scale * math.sqrt(2 * math.pi)))
        gains.append(math.prod(densities) if combine == "product" else sum(densities) / len(densities))
    if combine == "product":
        gains = [gain * len(gains) / sum(gains) for gain in gains]
    return torch.stack([row * (1 + 0.7 * gain) for row, gain in zip(x, gains, strict=True)])


@pytest.mark.parametrize("combine", ["mixture", "product"])
def test_the_formula_of_each_clip_by_itself(combine: str) -> None:
    made, x = gate(combine), rows(30)
    stretches = Stretches([7, 4, 19], [0, 0, 1], 2, "cpu")
    expected = torch.cat([naive(made, part, combine) for part in x.split([11, 19])])
    torch.testing.assert_close(made(x, stretches), expected, rtol=1e-4, atol=1e-5)


def test_the_first_strength_passes_at_most_a_twentieth_more() -> None:
    made, x = gate(), rows(400)
    made.strength.data.fill_(INITIAL_STRENGTH)
    gain = made(x, Stretches([400], [0], 1, "cpu")) / x
    assert gain.min() >= 1
    assert 1.005 < gain.max() < 1.05


def test_a_constant_clip_and_a_single_row_give_numbers() -> None:
    made = gate()
    x = torch.cat((torch.zeros(5, WIDTH), rows(1))).requires_grad_()
    out = made(x, Stretches([5, 1], [0, 1], 2, "cpu"))
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()


def test_components_begin_apart_and_learn_apart() -> None:
    made, x = gate(), rows(50)
    assert made.offset.unique().numel() == 4
    torch.testing.assert_close(made.offset, -made.offset.flip(0))
    made(x, Stretches([50], [0], 1, "cpu")).square().sum().backward()
    assert made.offset.grad.unique().numel() == made.scale.grad.unique().numel() == 4
    assert all(parameter.grad.any() for parameter in made.parameters())


def test_statistics_and_density_are_float32_under_autocast() -> None:
    made, x = gate(), rows(64) + 40  # a mean that bfloat16 would swallow the spread of
    stretches = Stretches([64], [0], 1, "cpu")
    kinds = []
    made.density = lambda score, where: kinds.append(score.dtype) or GaussianGate.density(made, score, where)  # pyright: ignore
    exact = made(x.bfloat16().float(), stretches)
    with torch.autocast("cpu", torch.bfloat16):
        rough = made(x.bfloat16(), stretches)
    assert kinds == [torch.float32] * 2
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.01, atol=0)


def test_the_score_of_a_loud_offset_is_exact() -> None:
    """Windows take their spread around each frame's own mean."""
    near, far = gate(reach=2, rows_per_frame=4), gate(reach=2, rows_per_frame=4)
    far.score.bias.data.add_(300.0)
    x, stretches = rows(80), Stretches([80], [0], 1, "cpu")
    torch.testing.assert_close(far(x, stretches), near(x, stretches), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reach", [1, 3, 50])
@pytest.mark.parametrize("rows_per_frame", [1, 5])
def test_windows_are_frames_on_either_side_within_the_stretch(reach: int, rows_per_frame: int) -> None:
    made = gate(reach=reach, rows_per_frame=rows_per_frame)
    frames = (8, 3, 1)
    lengths = [rows_per_frame * n for n in frames]
    x = rows(sum(lengths))
    got = made(x, Stretches(lengths, [0, 0, 1], 2, "cpu"))
    expected = []
    for part in x.split(lengths):
        n = len(part) // rows_per_frame
        for frame in range(n):
            low, high = max(0, frame - reach) * rows_per_frame, min(n, frame + reach + 1) * rows_per_frame
            at = frame * rows_per_frame - low
            expected.append(naive(made, part[low:high], "mixture")[at : at + rows_per_frame])
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_a_reach_that_covers_everything_equals_none() -> None:
    x, stretches = rows(40), Stretches([24, 16], [0, 1], 2, "cpu")
    wide, whole = gate(reach=10, rows_per_frame=4), gate()
    torch.testing.assert_close(wide(x, stretches), whole(x, stretches))


def test_a_product_within_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="it needs reach=0, got 3"):
        gate("product", reach=3)
