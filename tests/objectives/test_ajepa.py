"""A-JEPA: the context knows nothing of the targets, the teacher follows and is never trained."""

import dataclasses
import itertools

import pytest
import torch
from objective_examples import CHANCE, SIZE, UNALTERED, make_clips, make_encoder
from torch.nn import functional as F

from birdjepa.models.patch import patchify, unpatchify
from birdjepa.models.predictor import PredictorConfig
from birdjepa.objectives.ajepa import Ajepa, AjepaConfig, latent_loss, standardised
from birdjepa.objectives.base import Chance
from birdjepa.objectives.curriculum import CurriculumConfig
from birdjepa.objectives.masks import BlockMaskConfig, ComplementMaskConfig, RandomMaskConfig, StripeMaskConfig
from birdjepa.objectives.patches import augmented_frames, take

PREDICTOR = PredictorConfig(width=32, depth=1, heads=2)
MASKS = [CurriculumConfig(), BlockMaskConfig(), StripeMaskConfig(), RandomMaskConfig(), ComplementMaskConfig()]


def make(**changes) -> Ajepa:
    config = AjepaConfig(**{"predictor": PREDICTOR, "augment": UNALTERED, **changes})
    return config.build(make_encoder(n_cls=2, n_registers=1), 0, SIZE)


def frames_of(objective: Ajepa):
    return augmented_frames(objective.encoder, make_clips(), objective.config.augment, CHANCE)


@pytest.mark.parametrize("masks", MASKS, ids=lambda masks: type(masks).__name__)
def test_nothing_of_a_target_reaches_the_prediction(masks) -> None:
    """Neither by value nor by gradient: what is predicted depends on context patches only."""
    objective = make(masks=masks)
    frames = frames_of(objective).requires_grad_()
    look = objective.look(frames, CHANCE)
    look.predicted.square().sum().backward()
    reach = patchify(frames.grad, objective.encoder.config.patch).abs().amax(-1) > 0
    context = torch.zeros_like(reach).scatter_(1, look.masks.context, True)
    assert torch.equal(reach, context)
    hidden = patchify(torch.full_like(frames, 40.0).detach(), objective.encoder.config.patch)
    kept = patchify(frames.detach(), objective.encoder.config.patch)
    changed = torch.where(context.unsqueeze(-1), kept, hidden)
    other = objective.look(unpatchify(changed, objective.encoder.config.patch, 64), CHANCE)
    assert torch.equal(other.predicted, look.predicted)
    assert torch.equal(other.embedding, look.embedding)
    assert not torch.equal(other.target, look.target)  # the teacher does see them


def test_what_trains_is_the_encoder_and_the_predictor() -> None:
    objective = make()
    output = objective(make_clips(), CHANCE)
    assert not any(term.requires_grad for term in output.terms.values())
    assert not output.watched.requires_grad
    output.loss.backward()
    trained = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {name for name, p in objective.named_parameters() if p.numel() and not name.startswith("teacher.")}
    assert trained == wanted
    assert not any(parameter.requires_grad for parameter in objective.teacher.parameters())


def test_the_teacher_follows_by_its_momentum() -> None:
    objective = make(momentum=(0.5, 0.9))
    before = [parameter.clone() for parameter in objective.teacher.parameters()]
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(1.0)
    objective.after_update(Chance(0, 5, 10))  # half-way: momentum 0.7
    for old, new in zip(before, objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.3))
    objective.after_update(Chance(0, 0, 10))  # at the start: half of what is left
    for old, new in zip(before, objective.teacher.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.65))


def test_a_momentum_of_one_keeps_the_teacher() -> None:
    objective = make(momentum=(1.0, 1.0))
    before = [parameter.clone() for parameter in objective.teacher.parameters()]
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(1.0)
    objective.after_update(CHANCE)
    assert all(map(torch.equal, before, objective.teacher.parameters()))


def test_what_is_exported_and_watched() -> None:
    batch = make_clips()
    teacher, context = make(), make(export="context")
    assert teacher.exported is teacher.teacher
    assert context.exported is context.encoder
    whole = teacher.teacher.pooled(batch.clips)
    torch.testing.assert_close(teacher(batch, CHANCE).watched, whole, rtol=1e-4, atol=1e-5)
    seen = context(batch, CHANCE)
    assert torch.equal(seen.watched, seen.embedding.detach())


def test_targets_are_standardised_over_their_width_or_as_they_are() -> None:
    plain, normed = make(target_norm="none"), make()
    frames = frames_of(plain)
    raw, standard = plain.look(frames, CHANCE).target, normed.look(frames, CHANCE).target
    torch.testing.assert_close(F.layer_norm(raw, raw.shape[-1:]), standard)
    torch.testing.assert_close(standard.mean(-1), torch.zeros(standard.shape[:2]), rtol=0, atol=1e-5)


def test_instance_norm_takes_away_what_all_patches_of_a_clip_share() -> None:
    embeddings = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([9.0, 0.0, -5.0, 1.0])
    found = standardised(embeddings, "instance")
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(1, unbiased=False), torch.ones(2, 4), rtol=0, atol=1e-4)


def test_the_losses_equal_torchs() -> None:
    predicted, target = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert latent_loss(predicted, target, "l2") == pytest.approx(float((predicted - target).square().mean()))
    far = (predicted - target).abs()
    smooth = torch.where(far < 1, far.square() / 2, far - 0.5).mean()
    assert latent_loss(predicted, target, "smooth_l1") == pytest.approx(float(smooth))


def test_each_block_is_predicted_by_itself() -> None:
    """Removing one target block changes nothing in the prediction of another."""
    objective = make(masks=BlockMaskConfig(n_targets=2))
    frames = frames_of(objective)
    both = objective.look(frames, CHANCE)
    grid = objective.encoder.grid(frames.shape[1]).expand(len(frames), -1, -1)
    tokens = patchify(objective.encoder.front_end.normalise(frames), objective.encoder.config.patch)
    context_grid = take(grid, both.masks.context)
    seen = objective.encoder.vit(take(tokens, both.masks.context), context_grid)
    alone = objective.predictor(seen.cls, seen.patches, context_grid, take(grid, both.masks.targets[:, 1]))
    torch.testing.assert_close(both.predicted[1::2], alone, rtol=1e-4, atol=1e-5)


def test_the_loss_falls() -> None:
    objective = make(masks=RandomMaskConfig())
    optimiser = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=2e-3)
    losses = []
    for step in range(40):
        chance = Chance(0, step, 40)
        loss = objective(make_clips(seed=step), chance).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        objective.after_update(chance)
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_logged_shares_are_those_of_the_masks() -> None:
    terms = make(masks=RandomMaskConfig(share=(0.5, 0.5)))(make_clips(), CHANCE).terms
    assert float(terms["context_share"]) == pytest.approx(0.5)
    assert float(terms["target_share"]) == pytest.approx(0.5)


def test_panels_hide_what_the_encoder_did_not_see() -> None:
    objective, batch = make(masks=BlockMaskConfig()), make_clips()
    panels = objective.panels(batch, CHANCE)
    assert [panel.name for panel in panels] == ["context", *(f"target {i}" for i in (1, 2, 3, 4))]
    shown = [~panel.frames.isnan() for panel in panels]
    assert not (shown[0] & torch.stack(shown[1:]).any(0)).any()
    for one, other in itertools.pairwise(panels):
        both = ~one.frames.isnan() & ~other.frames.isnan()
        assert torch.equal(one.frames[both], other.frames[both])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum must ascend"):
        AjepaConfig(momentum=(1.0, 0.9))
    assert dataclasses.replace(AjepaConfig(), momentum=(0.9, 0.9)).momentum == (0.9, 0.9)
