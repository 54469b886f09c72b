import pytest
import torch
from torch import Tensor

from birdjepa.nn.position import TIME_WAVELENGTHS_S, angles, rotary, rotate, sincos


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(n_tokens: int = 6, *, seconds: float = 10.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, n_tokens, 2, generator=generator) * torch.tensor([seconds, 8.0]) - torch.tensor([0.0, 4.0])


def scores(where: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Attention scores between all tokens, (b, h, n, n)."""
    cos, sin = rotary(where, queries.shape[-1], 0)
    turned = [rotate(x, cos, sin).transpose(1, 2) for x in (queries, keys)]
    return turned[0] @ turned[1].mT


@pytest.mark.parametrize("shift", [(3.7, 0.0), (0.0, -2.0), (11.3, 1.5)])
def test_scores_depend_on_differences_of_position_only(shift: tuple[float, float]) -> None:
    queries, keys, where = random(1, 6, 2, 16), random(1, 6, 2, 16, seed=1), grid()
    here, there = (scores(at, queries, keys) for at in (where, where + torch.tensor(shift)))
    torch.testing.assert_close(here, there, rtol=0, atol=2e-3)  # phases are float32
    stretched = scores(where * 1.1, queries, keys)
    assert (stretched - here).abs().max() > 0.1


def test_turning_keeps_lengths() -> None:
    x = random(1, 6, 2, 16)
    torch.testing.assert_close(rotate(x, *rotary(grid(), 16, 0)).norm(dim=-1), x.norm(dim=-1), rtol=0, atol=1e-6)


def test_special_tokens_do_not_turn() -> None:
    x = random(1, 9, 2, 16)
    turned = rotate(x, *rotary(grid(6), 16, 3))
    assert torch.equal(turned[:, :3], x[:, :3])
    assert (turned[:, 3:] != x[:, 3:]).any(-1).all()


def test_half_of_the_angles_follow_time_and_half_pitch() -> None:
    where = grid()
    later, higher = where + torch.tensor([0.5, 0.0]), where + torch.tensor([0.0, 0.5])
    assert torch.equal(angles(later, 8)[..., 4:], angles(where, 8)[..., 4:])
    assert torch.equal(angles(higher, 8)[..., :4], angles(where, 8)[..., :4])


def test_wavelengths_reach_from_the_shortest_to_the_longest() -> None:
    shortest, longest = TIME_WAVELENGTHS_S
    phase = angles(torch.tensor([[[shortest, 0.0], [longest, 0.0]]]), 8)[0] / (2 * torch.pi)
    torch.testing.assert_close(phase[0, 0], torch.tensor(1.0))
    torch.testing.assert_close(phase[1, 3], torch.tensor(1.0))


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_of_rotate(shared: bool) -> None:
    where = grid(5) if shared else torch.cat((grid(5), grid(5) + 1))
    cos, sin = (table.double() for table in rotary(where, 8, 2))
    x = random(2, 7, 3, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))


def test_rotate_is_the_complex_product() -> None:
    x, (cos, sin) = random(1, 6, 2, 16), rotary(grid(), 16, 0)
    expected = torch.complex(x[..., :8], x[..., 8:]) * torch.complex(cos[..., :8], sin[..., 8:])
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat((expected.real, expected.imag), -1), rtol=0, atol=1e-6)


def test_rotate_keeps_the_dtype() -> None:
    assert rotate(random(1, 6, 2, 16).bfloat16(), *rotary(grid(), 16, 0)).dtype == torch.bfloat16


def test_sincos_has_mean_square_one_half_and_tells_places_apart() -> None:
    code = sincos(grid(20), 64)
    torch.testing.assert_close(code.square().mean(-1), torch.full((1, 20), 0.5))
    apart = torch.cdist(code[0], code[0]) + 10 * torch.eye(20)
    assert apart.min() > 0.1
