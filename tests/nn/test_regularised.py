"""Regularised masking: who may not be attended to, by whom, and that it is nowhere at inference."""

import pytest
import torch
from torch.nn import functional as F

from birdjepa.core.random import Draws
from birdjepa.models.vit import Vit, VitConfig
from birdjepa.nn.block import attend
from birdjepa.nn.regularised import RegularisedMaskingConfig, draw_barred


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(**settings) -> Vit:
    return VitConfig(**{"size": "nano", "n_cls": 1, "n_registers": 1, **settings}).build(6).initialise(seeded())


def inputs(n: int = 20):
    grid = torch.stack((torch.arange(n) * 0.1, torch.arange(n) % 4), -1)[None].float()
    return torch.randn(3, n, 6, generator=seeded(1)), grid


@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 0.99])
def test_patches_are_barred_to_the_exact_count_and_special_tokens_never(share: float) -> None:
    drawn = draw_barred(RegularisedMaskingConfig(share=share), 4, 5, 2, 20, Draws(seeded()), torch.device("cpu"))
    assert len(drawn) == 4
    if share == 0:
        assert drawn == [None] * 4
        return
    for layer in drawn:
        assert layer.shape == (5, 1, 22)
        assert (layer.sum(-1) == round(share * 20)).all()
        assert not layer[..., :2].any()
    assert share > 0.9 or not torch.equal(drawn[0], drawn[1])  # drawn anew in each layer


def test_something_is_always_left() -> None:
    [layer] = draw_barred(RegularisedMaskingConfig(share=0.99), 1, 2, 0, 3, Draws(seeded()), torch.device("cpu"))
    assert (layer.sum(-1) == 2).all()


def test_diagonal_bars_a_patch_from_itself_only() -> None:
    config = RegularisedMaskingConfig(share=0.2, bars="diagonal")
    [layer] = draw_barred(config, 1, 3, 1, 10, Draws(seeded()), torch.device("cpu"))
    assert layer.shape == (3, 11, 11)
    assert (layer.sum((1, 2)) == 2).all()
    assert torch.equal(layer, torch.diag_embed(layer.diagonal(dim1=1, dim2=2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_barred_keys_have_no_say_and_the_rest_is_plain_attention(dtype: torch.dtype) -> None:
    q, k, v = torch.randn(3, 2, 2, 6, 8, generator=seeded()).to(dtype)
    barred = torch.zeros(2, 1, 6, dtype=torch.bool)
    barred[:, :, 4] = True
    wild = v.clone()
    wild[:, :, 4] = 99.0
    assert torch.equal(attend(q, k, v, barred), attend(q, k, wild, barred))
    kept = [0, 1, 2, 3, 5]
    plain = F.scaled_dot_product_attention(q, k[:, :, kept], v[:, :, kept])
    torch.testing.assert_close(attend(q, k, v, barred), plain, rtol=1e-2, atol=1e-2)


def test_a_barred_patch_keeps_its_query_and_its_place() -> None:
    model, (tokens, grid) = vit(), inputs()
    out = model(tokens, grid, Draws(seeded()), RegularisedMaskingConfig(share=0.3))
    assert out.patches.shape == (3, 20, 64)
    assert torch.isfinite(out.patches).all()
    changed = tokens.clone()
    changed[:, 7] += 1.0
    other = model(changed, grid, Draws(seeded()), RegularisedMaskingConfig(share=0.3))
    assert (out.patches[:, 7] - other.patches[:, 7]).abs().amax() > 1e-3


@pytest.mark.parametrize("bars", ["keys", "diagonal"])
def test_rate_zero_and_inference_are_plain_attention(bars) -> None:
    model, (tokens, grid) = vit(), inputs()
    plain = model(tokens, grid)
    zero = model(tokens, grid, Draws(seeded()), RegularisedMaskingConfig(share=0.0, bars=bars))
    asleep = model(tokens, grid, None, RegularisedMaskingConfig(share=0.5, bars=bars))
    awake = model(tokens, grid, Draws(seeded()), RegularisedMaskingConfig(share=0.5, bars=bars))
    assert torch.equal(zero.patches, plain.patches)
    assert torch.equal(asleep.patches, plain.patches)
    assert not torch.allclose(awake.patches, plain.patches, atol=1e-3)


def test_it_does_not_move_the_draws_of_stochastic_depth() -> None:
    model, (tokens, grid) = vit(drop_path=0.5), inputs()
    alone = model(tokens, grid, Draws(seeded(3)))
    barely = model(tokens, grid, Draws(seeded(3)), RegularisedMaskingConfig(share=0.0))
    assert torch.equal(alone.patches, barely.patches)


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\)"):
        RegularisedMaskingConfig(share=1.0)
