"""Pixio: the encoder sees visible patches only, the loss hidden ones only, the decoder knows where each one lies."""

import pytest
import torch
from objective_examples import CHANCE, SIZE, UNALTERED, make_clips, make_encoder

from birdjepa.models.patch import patchify, unpatchify
from birdjepa.models.predictor import PredictorConfig
from birdjepa.objectives.base import Chance
from birdjepa.objectives.patches import augmented_frames
from birdjepa.objectives.pixio import Pixio, PixioConfig, reconstruction_loss


def make(**changes) -> Pixio:
    config = PixioConfig(**{"decoder": PredictorConfig(width=32, depth=2, heads=2), "augment": UNALTERED, **changes})
    return config.build(make_encoder(n_cls=4), 0, SIZE)


def test_hidden_patches_reach_neither_encoder_nor_decoder() -> None:
    objective = make()
    frames = augmented_frames(objective.encoder, make_clips(), UNALTERED, CHANCE).requires_grad_()
    drawn = objective._draw(frames, CHANCE)
    drawn.predicted.square().sum().backward()
    reach = patchify(frames.grad, objective.encoder.config.patch).abs().amax(-1) > 0
    assert torch.equal(reach, torch.zeros_like(reach).scatter_(1, drawn.visible, True))


def test_visible_patches_have_no_weight_in_the_loss() -> None:
    """With the predictions held fixed, only hidden patches change the loss."""
    objective = make(normalise_target=False)
    patch = objective.encoder.config.patch
    frames = augmented_frames(objective.encoder, make_clips(), UNALTERED, CHANCE)
    drawn = objective._draw(frames, CHANCE)
    predicted = drawn.predicted.detach()
    tokens = patchify(frames, patch)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        target = objective._draw(unpatchify(tokens, patch, 64), CHANCE).target
        return reconstruction_loss(predicted, target, normalise=False)

    index = drawn.visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    assert torch.equal(loss(tokens.scatter(1, index, 9.0)), loss(tokens))
    index = drawn.hidden[:, :1].unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    assert not torch.equal(loss(tokens.scatter(1, index, 9.0)), loss(tokens))


def test_targets_are_standardised_by_the_unbiased_variance() -> None:
    target = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)) * 7 + 3
    standard = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    assert reconstruction_loss(standard, target, normalise=True) < 1e-10
    flat = torch.full((1, 2, 16), 5.0)
    assert torch.isfinite(reconstruction_loss(flat, flat, normalise=True))


def test_the_length_of_the_sequence_is_fixed() -> None:
    objective = make(share=0.75)
    for columns in (12, 13, 15):
        batch = make_clips(n_columns=columns)
        share = float(objective(batch, CHANCE).terms["visible_share"])
        assert share == pytest.approx(1 - round(0.75 * columns * 8) / (columns * 8))


def test_what_trains_is_everything_cls_tokens_included() -> None:
    objective = make()
    objective(make_clips(), CHANCE).loss.backward()
    still = {name for name, p in objective.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    assert still == set()
    assert objective.encoder.vit.cls.grad.abs().amax(1).min() > 0  # all four


def test_mask_tokens_are_told_apart_by_their_place_only() -> None:
    objective = make()
    frames = augmented_frames(objective.encoder, make_clips(), UNALTERED, CHANCE)
    predicted = objective._draw(frames, CHANCE).predicted
    assert (predicted[:, :1] - predicted[:, 1:]).abs().amax(-1).min() > 1e-4


def test_the_loss_falls_and_a_plain_mae_is_a_setting() -> None:
    for changes in ({}, {"block": (1, 1), "decoder": PredictorConfig(width=32, depth=1, heads=2)}):
        objective = make(**changes)
        optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
        losses = []
        for step in range(40):
            loss = objective(make_clips(), Chance(0, step, 40)).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[0] > 0.9
        assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_panels_show_visible_drawn_and_original() -> None:
    visible, drawn, original = make().panels(make_clips(), CHANCE)
    shown = ~visible.frames.isnan()
    assert shown.float().mean() == pytest.approx(0.25)
    assert torch.equal(visible.frames[shown], original.frames[shown])
    torch.testing.assert_close(drawn.frames[shown], original.frames[shown], rtol=1e-4, atol=1e-3)
    assert not drawn.frames.isnan().any()
    assert not torch.allclose(drawn.frames[~shown], original.frames[~shown])


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"share": 1.0}, {"block": (0, 2)}])
def test_bad_settings_are_refused(changes) -> None:
    with pytest.raises(ValueError, match="need 0 < share < 1"):
        PixioConfig(**changes)
