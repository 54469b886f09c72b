"""Statistics over processes, with one process; tests/train/test_engines.py has two."""

import torch
from torch import nn

from birdjepa.nn import synced
from birdjepa.nn.synced import BatchNorm


def clips(n: int = 12, width: int = 5) -> torch.Tensor:
    return 3 + 2 * torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def test_with_one_process_it_is_torchs_to_the_last_bit() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for _ in range(2):
        x, y = clips().requires_grad_(), clips().requires_grad_()
        a, b = ours(x), theirs(y)
        a.square().sum().backward()
        b.square().sum().backward()
        assert torch.equal(a, b)
        assert torch.equal(x.grad, y.grad)
    assert all(
        torch.equal(one, other)
        for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert torch.equal(ours.eval()(clips()), theirs.eval()(clips()))


def test_sums_means_and_spread_of_one_process_are_the_plain_ones() -> None:
    x = clips()
    assert synced.summed(x) is x
    assert torch.equal(synced.mean(x), x.mean(0))
    assert torch.equal(synced.std(x), x.std(0))
    assert synced.n_rows(x) == 12
