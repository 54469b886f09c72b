import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.nn.convolution import ResidualBlock, Upsampling, draw_weights, reach


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["leaky_relu", "snake"])
def test_a_residual_block_equals_hifigans(activation) -> None:
    block, x = ResidualBlock(4, 7, (1, 3, 5), activation), random(2, 4, 60)

    def act(snakes: nn.ModuleList, i: int, x: Tensor) -> Tensor:
        return snakes[i](x) if activation == "snake" else F.leaky_relu(x, 0.1)

    expected, before = x, x.clone()
    for i, dilation in enumerate((1, 3, 5)):
        first, second = block.dilated[i], block.plain[i]
        assert isinstance(first, nn.Conv1d)
        assert isinstance(second, nn.Conv1d)
        inner = F.conv1d(act(block.before, i, expected), first.weight, first.bias, padding="same", dilation=dilation)
        expected = expected + F.conv1d(act(block.between, i, inner), second.weight, second.bias, padding="same")
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)


def test_the_reach_of_a_residual_block_is_where_its_gradient_ends() -> None:
    block, x = ResidualBlock(2, 5, (1, 3), "leaky_relu"), random(1, 2, 101).requires_grad_()
    block(x)[0, :, 50].sum().backward()
    assert x.grad is not None
    touched = x.grad[0].abs().sum(0).nonzero()
    assert block.reach == 2 + 2 + 6 + 2
    assert (touched.min().item(), touched.max().item()) == (50 - block.reach, 50 + block.reach)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 38])
@pytest.mark.parametrize("stride", [2, 3, 4, 5, 6, 7, 8])
def test_upsampling_makes_exactly_stride_times_as_many_samples(stride: int, n_frames: int) -> None:
    assert Upsampling(3, 2, stride)(random(2, 3, n_frames)).shape == (2, 2, n_frames * stride)


@pytest.mark.parametrize("stride", [2, 3, 5, 8])
def test_what_upsampling_reads_is_where_its_gradient_ends(stride: int) -> None:
    up, x = Upsampling(1, 1, stride), random(1, 1, 9).requires_grad_()
    nn.init.ones_(up.weight)
    for first, last in ((3 * stride, 4 * stride - 1), (3 * stride + 1, 3 * stride + 1)):
        (grad,) = torch.autograd.grad(up(x)[..., first : last + 1].sum(), x)
        touched = grad[0, 0].nonzero()
        assert up.read_by(first, last) == (touched.min().item(), touched.max().item())
    assert up.read_by(0, stride - 1)[0] < 0


def test_what_would_change_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="must be odd and positive to leave the length as it is, got 32"):
        ResidualBlock(4, 32, (1, 3, 5), "snake")
    with pytest.raises(ValueError, match="must be odd"):
        reach(0)
    with pytest.raises(ValueError, match="at least 2 to upsample, got 1"):
        Upsampling(1, 1, 1)


def test_drawn_weights_keep_the_size_of_the_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    for conv in (nn.Conv1d(64, 64, 7, padding=3), Upsampling(64, 64, 5)):
        draw_weights(conv, 0.5, generator)
        assert conv(random(4, 64, 100)).std().item() == pytest.approx(0.5, rel=0.1)
        assert conv.bias is not None
        assert not conv.bias.any()
