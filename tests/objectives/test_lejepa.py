import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig, bird_mae
from birdjepa.core.batch import ClipBatch
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.patch import PatchConfig, patchify
from birdjepa.models.pool import pool
from birdjepa.models.projector import ProjectorConfig
from birdjepa.models.vit import VitConfig
from birdjepa.nn.sigreg import SigregConfig, null_floor
from birdjepa.objectives import lejepa
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.base import Chance, DataSize
from birdjepa.objectives.lejepa import Lejepa, LejepaConfig, invariance_loss
from birdjepa.objectives.views import ClipViews, Views, ViewsConfig, draw_views, embed_views, window_frames

RATE = 32_000
NOTHING = AugmentConfig(gain_db=0.0, mix_probability=0.0, mask_mels=0, mask_share=0.0)
SAME = ViewsConfig(augment=NOTHING, n_local=0, global_s=0.48)
"""Views without alteration; with clips of 48 frames, all windows are the whole clip."""
SHORT = ViewsConfig(global_s=0.64, local_s=0.32)
CHANCE = Chance(seed=0, step=5, n_steps=10)


def make(views: ViewsConfig = SHORT, *, front_end: LogMelConfig | None = None, **vit: Any) -> Lejepa:
    encoder = EncoderConfig(
        front_end=front_end or LogMelConfig(),
        patch=PatchConfig(frames=16, mels=32),
        vit=VitConfig(**{"size": "nano", **vit}),
        clips=ClipConfig(),
        pooling="mean",
    )
    config = LejepaConfig(views=views, projector=ProjectorConfig(hidden=64, width=16), sigreg=SigregConfig(n_slices=64))
    return config.build(encoder.build().initialise(0), seed=0, data=DataSize(8, 0))


def clips(n_clips: int = 8, n_samples: int = RATE, *, seed: int = 0) -> ClipBatch:
    """Each clip is a tone of its own with its own slow beat, in noise."""
    time = torch.arange(n_samples) / RATE
    pitch = 400 * 2 ** (torch.arange(n_clips) / 2)[:, None]
    tone = torch.sin(2 * torch.pi * pitch * time) * (1 + torch.sin(2 * torch.pi * (1 + pitch / 1000) * time))
    noise = torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(seed))
    none = torch.full((n_clips,), -1)
    return ClipBatch(
        clips=0.1 * tone + 0.02 * noise,
        lengths=torch.full((n_clips,), n_samples),
        label=none,
        labels=torch.zeros(n_clips, 0).bool(),
        recording=none,
        refused=(),
    )


def whole() -> ClipBatch:
    return clips(n_samples=LogMelConfig().n_samples(48))


def permuted(batch: ClipBatch, order: Tensor) -> ClipBatch:
    return dataclasses.replace(batch, clips=batch.clips[order])


def test_identical_views_have_no_invariance_loss() -> None:
    output = make(SAME)(whole(), CHANCE)
    assert output.terms["invariance"] < 1e-10
    louder = dataclasses.replace(SAME, augment=dataclasses.replace(NOTHING, gain_db=6.0))
    assert make(louder)(whole(), CHANCE).terms["invariance"] > 1e-4


def test_invariance_equals_the_formula_written_out() -> None:
    z = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for clip in range(3):
        centre = (z[0, clip] + z[1, clip]) / 2
        total += sum(((z[view, clip] - centre) ** 2).sum() for view in range(5))
    torch.testing.assert_close(invariance_loss(z, 2), total / (5 * 3 * 4))


def test_permuting_the_clips_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = make(), clips()
    views = draw_views(objective.encoder, batch.clips, objective.config.views, CHANCE)
    expected = objective(batch, CHANCE)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = ClipViews(*(Views(*(field[:, order] for field in part)) for part in views))
    monkeypatch.setattr(lejepa, "draw_views", lambda *_: shuffled)
    output = objective(permuted(batch, order), CHANCE)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(output.embedding, expected.embedding[order], rtol=0, atol=1e-5)


def test_views_of_different_clips_are_never_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips that are constant in themselves: all views of one clip are equal, so no invariance loss may be left."""
    objective = make(dataclasses.replace(SAME, n_global=3, global_s=0.32))
    levels = torch.linspace(-80, -10, 8)[:, None, None] + torch.linspace(-5, 5, 128)
    frames = levels.expand(8, 32, 128)
    views = Views(frames.expand(3, 8, 32, 128), *torch.tensor([0, 32]).view(2, 1, 1).expand(2, 3, 8))
    none = Views(*(field[:0] for field in views))
    monkeypatch.setattr(lejepa, "draw_views", lambda *_: ClipViews(views, none))
    output = objective(clips(), CHANCE)
    assert output.terms["invariance"] < 1e-10
    encoder = objective.encoder
    normalised = encoder.front_end.normalise(frames)
    alone = [
        pool(encoder.vit(patchify(clip[None], encoder.config.patch), encoder.grid(32)[None]), "mean", 4)
        for clip in normalised
    ]
    torch.testing.assert_close(output.watched, torch.cat(alone).detach(), rtol=0, atol=1e-5)


def test_embedding_is_the_mean_over_global_views_only() -> None:
    objective, batch = make(), clips()
    views = draw_views(objective.encoder, batch.clips, objective.config.views, CHANCE)
    embedded = embed_views(objective.encoder, views, CHANCE)[: objective.config.views.n_global]
    torch.testing.assert_close(objective(batch, CHANCE).watched, embedded.mean(0).detach())


@pytest.mark.parametrize("vit", [{}, {"drop_path": 0.2, "n_registers": 2, "layer_scale": 0.1}])
def test_what_trains_is_the_encoder_and_the_projector(vit: dict[str, Any]) -> None:
    objective = make(**vit)
    output = objective(clips(), CHANCE)
    assert output.embedding.requires_grad
    assert not output.watched.requires_grad
    assert not any(term.requires_grad for term in output.terms.values())
    output.loss.backward()
    still = {name for name, p in objective.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    cancelled = {f"projector.layers.{i}.bias" for i in (0, 3)}  # BatchNorm takes its input's mean away
    assert still <= cancelled
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"encoder", "projector"}
    assert {name.split(".")[1] for name, _ in objective.encoder.named_parameters(prefix="encoder")} == {"vit"}


def test_the_same_chance_gives_the_same_loss_and_another_step_other_views() -> None:
    objective, batch = make(drop_path=0.3), clips()
    assert torch.equal(objective(batch, CHANCE).loss, objective(batch, CHANCE).loss)
    frames = objective.panels(batch, CHANCE)[0].frames
    for other in (Chance(0, 6, 10), Chance(1, 5, 10), Chance(0, 5, 10, micro=1)):
        assert not torch.equal(objective.panels(batch, other)[0].frames, frames)
        assert not torch.equal(objective(batch, other).loss, objective(batch, CHANCE).loss)


def test_global_and_local_views_are_drawn_apart() -> None:
    objective = make(ViewsConfig(n_global=2, n_local=2, global_s=0.32, local_s=0.32))
    global_views, local_views = draw_views(objective.encoder, clips().clips, objective.config.views, CHANCE)
    assert not torch.equal(global_views.start, local_views.start)


def test_terms_add_up_to_the_loss() -> None:
    objective = make()
    output = objective(clips(), CHANCE)
    normality = output.terms["sigreg_excess"] + null_floor(SigregConfig())
    torch.testing.assert_close(output.loss.detach(), 0.98 * output.terms["invariance"] + 0.02 * normality)


def test_bfloat16_autocast_is_close() -> None:
    objective, batch = make(), clips()
    exact = objective(batch, CHANCE)
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(batch, CHANCE)
    assert rough.loss.dtype == rough.embedding.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0)
    rough.loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def test_views_do_not_depend_on_autocast() -> None:
    objective, batch = make(), clips()
    expected = objective.panels(batch, CHANCE)[0].frames
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.panels(batch, CHANCE)[0].frames, expected)


@pytest.mark.parametrize("front_end", [LogMelConfig(normalise="clip"), bird_mae()])
def test_other_front_ends(front_end: LogMelConfig) -> None:
    output = make(front_end=front_end)(clips(), CHANCE)
    assert output.loss.isfinite()


@pytest.mark.parametrize(("seconds", "frames"), [(0.01, 16), (0.23, 16), (0.25, 32), (0.64, 64)])
def test_a_view_is_a_whole_number_of_patches(seconds: float, frames: int) -> None:
    assert window_frames(make().encoder, seconds) == frames


def train(objective: Lejepa, n_steps: int, lr: float = 1e-3) -> list[dict[str, float]]:
    optimiser = torch.optim.AdamW(objective.parameters(), lr=lr)
    seen = []
    for step in range(n_steps):
        output = objective(clips(seed=step), Chance(0, step, 100))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        terms = {name: term.item() for name, term in output.terms.items()}
        seen.append({"loss": output.loss.item(), "std": output.embedding.std(0).mean().item(), **terms})
    return seen


def test_three_golden_steps() -> None:
    """These numbers are our own: a change of them must be meant."""
    losses = [step["loss"] for step in train(make(drop_path=0.1), 3)]
    assert losses == pytest.approx([0.5888327, 0.5083031, 0.4163880], rel=1e-4)


def test_it_learns() -> None:
    seen = train(make(), 20)
    first, last = ({name: sum(step[name] for step in part) / 4 for name in seen[0]} for part in (seen[:4], seen[-4:]))
    assert last["invariance"] < 0.5 * first["invariance"]
    assert last["loss"] < first["loss"]
    assert last["std"] > 0.01


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_bad_settings_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be in"):
        LejepaConfig(weight=weight)
