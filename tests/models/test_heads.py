import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark import logistic
from birdjepa.core import config as configs
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.heads import EPSILON, AttentiveHead, Head, HeadConfig, LinearHead, PrototypicalHead
from birdjepa.models.patch import PatchConfig
from birdjepa.models.pool import pool
from birdjepa.models.vit import EncoderOutput, VitConfig

ENCODER = EncoderConfig(
    front_end=LogMelConfig(),
    patch=PatchConfig(frames=16, mels=32),
    vit=VitConfig(size="16x1x2", n_cls=2),
    clips=ClipConfig(clip_s=1.0, hop_s=0.5),
    pooling="rows+std",
)
N_CLASSES, N_COLUMNS = 3, 5
CONFIGS = [
    HeadConfig(),
    HeadConfig(form="mean"),
    HeadConfig(form="attentive"),
    HeadConfig(form="attentive", n_queries=1),
    HeadConfig(form="prototypical"),
    HeadConfig(form="prototypical", n_prototypes=1),
]
each_head = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.form}-{c.n_prototypes}-{c.n_queries}")


def build(config: HeadConfig, seed: int = 0) -> Head:
    return config.build(ENCODER, N_CLASSES).initialise(torch.Generator().manual_seed(seed))


def tokens(n_clips: int = 4, n_columns: int = N_COLUMNS) -> EncoderOutput:
    generator = torch.Generator().manual_seed(1)
    return EncoderOutput(
        cls=torch.randn(n_clips, 2, 16, generator=generator),
        patches=torch.randn(n_clips, n_columns * ENCODER.n_rows, 16, generator=generator),
        registers=torch.randn(n_clips, 0, 16, generator=generator),
        bare=torch.empty(n_clips, 0, 16),
        fc_norm=torch.empty(n_clips, 0, 16),
    )


@each_head
def test_the_head_is_a_function_of_its_generator(config: HeadConfig) -> None:
    first, again, other = (build(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@each_head
def test_everything_trains(config: HeadConfig) -> None:
    head, output = build(config), tokens()
    output.patches.requires_grad_()
    F.cross_entropy(head(output), torch.tensor([0, 1, 2, 0])).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad.abs().flatten(1).sum(1) > 0).all() if parameter.ndim > 1 else parameter.grad.any(), name
    assert output.patches.grad is not None
    assert output.patches.grad.any()


@each_head
def test_a_patch_of_weight_zero_has_no_influence_at_all(config: HeadConfig) -> None:
    head, output = build(config), tokens()
    weights = torch.ones(output.patches.shape[:2])
    weights[:, 4:8] = 0  # a whole column, so that rows stay complete without it
    loud = output._replace(patches=output.patches.clone())
    loud.patches[:, 4:8] = 1e6
    loud.patches.requires_grad_()
    assert torch.equal(head(output, weights), head(loud, weights))
    head(loud, weights).square().sum().backward()
    assert loud.patches.grad is not None
    assert not loud.patches.grad[:, 4:8].any()
    assert loud.patches.grad.isfinite().all()
    without = output._replace(patches=torch.cat((output.patches[:, :4], output.patches[:, 8:]), 1))
    torch.testing.assert_close(head(output, weights), head(without))


@each_head
def test_a_weight_means_so_many_copies(config: HeadConfig) -> None:
    head, output = build(config), tokens()
    weights = torch.ones(output.patches.shape[:2])
    weights[:, :4] = 2
    twice = output._replace(patches=torch.cat((output.patches[:, :4], output.patches), 1))
    torch.testing.assert_close(head(output, weights), head(twice), rtol=0, atol=1e-5)
    torch.testing.assert_close(head(output, 0.25 * weights), head(output, weights), rtol=0, atol=1e-5)
    torch.testing.assert_close(head(output, torch.ones_like(weights)), head(output))


@each_head
def test_clips_do_not_see_each_other(config: HeadConfig) -> None:
    head, output = build(config), tokens()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(head(EncoderOutput(*(part[order] for part in output))), head(output)[order])


@each_head
def test_logits_are_float32_under_autocast_too(config: HeadConfig) -> None:
    head = build(config)
    rough = EncoderOutput(*(part.bfloat16() for part in tokens()))
    plain = head(rough)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(rough)
    assert plain.dtype == inside.dtype == torch.float32
    assert torch.equal(plain, inside)


@each_head
def test_configurations_go_through_json(config: HeadConfig) -> None:
    assert configs.from_json(HeadConfig, configs.to_json(config)) == config


@each_head
def test_a_head_learns_which_patch_matters(config: HeadConfig) -> None:
    generator = torch.Generator().manual_seed(3)
    classes = torch.arange(N_CLASSES).repeat(8)
    patches = torch.randn(len(classes), N_COLUMNS * ENCODER.n_rows, 16, generator=generator)
    patches[torch.arange(len(classes)), 7, classes] += 12
    output = tokens(len(classes))._replace(patches=patches)
    head = build(config)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    first = F.cross_entropy(head(output), classes).item()
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(head(output), classes).backward()
        optimizer.step()
    assert F.cross_entropy(head(output), classes).item() < 0.8 * first  # one prototype's logits span 1 at weight 1
    assert (head(output).argmax(1) == classes).float().mean() > 0.9


def test_pooled_reads_the_encoders_pooling_and_mean_the_mean() -> None:
    output = tokens()
    for config, pooling in ((HeadConfig(), "rows+std"), (HeadConfig(form="mean"), "mean")):
        head = build(config)
        assert isinstance(head, LinearHead)
        torch.testing.assert_close(head(output), head.linear(pool(output, pooling, ENCODER.n_rows)))
    cls = HeadConfig().build(dataclasses.replace(ENCODER, pooling="cls"), 3).initialise(torch.Generator())
    assert cls(output).shape == (4, 3)


@pytest.mark.parametrize("form", ["pooled", "mean"])
def test_a_fitted_logistic_regression_can_be_taken_over(form) -> None:
    head, output = build(HeadConfig(form=form)), tokens(40)
    assert isinstance(head, LinearHead)
    output.patches[..., 3] = 7.0  # constant: the standardiser leaves it out
    embeddings = pool(output, head.pooling, head.n_rows).double()
    classes = torch.from_numpy(np.random.default_rng(0).integers(0, N_CLASSES, 40))
    problem = logistic.Problem(torch.arange(40), (0.1, 1.0))
    (fitted,) = logistic.fit(embeddings, classes, [problem], n_classes=N_CLASSES, balanced=False, tolerance=1e-8)
    assert (fitted.standardiser.scale == 0).any()
    head.fit(fitted.standardiser.mean, 1 / fitted.standardiser.scale).take_over(fitted.weights[1], fitted.bias[1])
    torch.testing.assert_close(head(output).double(), fitted.logits(embeddings)[1], rtol=1e-4, atol=1e-4)
    head(output).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    saved = build(HeadConfig(form=form), seed=1)
    saved.load_state_dict(head.state_dict())
    assert torch.equal(saved(output), head(output))


def test_what_cannot_be_taken_over_is_refused() -> None:
    head = build(HeadConfig(form="mean"))
    assert isinstance(head, LinearHead)
    with pytest.raises(ValueError, match="std positive"):
        head.fit(torch.zeros(16), torch.zeros(16))
    with pytest.raises(ValueError, match="finite"):
        head.take_over(torch.full((16, 3), torch.nan), torch.zeros(3))


def test_attention_equals_torchs() -> None:
    head, output = build(HeadConfig(form="attentive")), tokens()
    assert isinstance(head, AttentiveHead)
    reference = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat((torch.eye(16), head.keys.weight, head.values.weight)))
        reference.in_proj_bias.zero_()[32:].copy_(head.values.bias)
        reference.out_proj.weight.copy_(torch.eye(16))
        reference.out_proj.bias.zero_()
    queries = head.queries.expand(4, -1, -1)
    found, _ = reference(queries, output.patches, output.patches)
    torch.testing.assert_close(head(output), head.linear(found.flatten(1)))


def naive_prototypical(head: PrototypicalHead, patches: Tensor) -> Tensor:
    rows = []
    for clip in patches:
        for prototypes, weight, bias in zip(head.prototypes, head.weight, head.bias, strict=True):
            likeness = F.cosine_similarity(clip[:, None], prototypes[None], dim=-1).clamp_min(0).amax(0)
            rows.append((likeness * weight.clamp_min(0)).sum() + bias)
    return torch.stack(rows).view(len(patches), -1)


def test_prototypical_equals_the_plain_formula() -> None:
    head, output = build(HeadConfig(form="prototypical", n_prototypes=5)), tokens()
    assert isinstance(head, PrototypicalHead)
    assert (head.weight == 1).all()
    assert (head.bias == -2).all()
    with torch.no_grad():
        head.weight[0, 0], head.weight[1, 2] = -3.0, 2.5
    torch.testing.assert_close(head(output), naive_prototypical(head, output.patches), rtol=0, atol=1e-3)


def test_a_prototype_in_the_clip_is_found_wherever_it_is_and_silence_is_like_nothing() -> None:
    head = build(HeadConfig(form="prototypical", n_prototypes=1))
    assert isinstance(head, PrototypicalHead)
    silent = tokens(1)._replace(patches=torch.zeros(1, 20, 16))
    assert torch.equal(head(silent), torch.full((1, 3), -2.0))
    for place in (0, 11, 19):
        silent.patches.zero_()[0, place] = 40 * head.prototypes[1, 0].detach()
        assert head(silent)[0, 1].item() == pytest.approx(-1.0, abs=1e-3)
    silent.patches.zero_().requires_grad_()
    head(silent).sum().backward()
    assert silent.patches.grad is not None
    assert silent.patches.grad.isfinite().all()


def test_orthogonality_is_the_mean_squared_cosine_within_a_class() -> None:
    head = build(HeadConfig(form="prototypical", n_prototypes=4))
    assert isinstance(head, PrototypicalHead)
    gram = F.normalize(head.prototypes, dim=-1) @ F.normalize(head.prototypes, dim=-1).mT
    squares = [gram[c, i, j].item() ** 2 for c in range(3) for i in range(4) for j in range(4) if i != j]
    assert head.orthogonality().item() == pytest.approx(np.mean(squares), abs=10 * EPSILON)
    head.orthogonality().backward()
    assert head.prototypes.grad is not None
    assert head.prototypes.grad.any()
    with torch.no_grad():
        head.prototypes.copy_(torch.eye(16)[:12].view(3, 4, 16))
    assert head.orthogonality() == 0
    with torch.no_grad():
        head.prototypes.copy_(torch.ones(3, 4, 16))
    assert head.orthogonality().item() == pytest.approx(1.0, abs=1e-4)
    for other in (*CONFIGS[:4], CONFIGS[5]):
        assert build(other).orthogonality() == 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"form": "prototypical", "n_prototypes": 0}, "must be positive"),
        ({"form": "attentive", "n_queries": 0}, "must be positive"),
        ({"n_prototypes": 5}, "needs form='prototypical'"),
        ({"form": "attentive", "n_prototypes": 5}, "needs form='prototypical'"),
        ({"form": "prototypical", "n_queries": 2}, "needs form='attentive'"),
    ],
)
def test_bad_settings_are_refused(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        HeadConfig(**settings)


def test_a_head_without_classes_or_without_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 class"):
        HeadConfig().build(ENCODER, 0)
    bare = dataclasses.replace(ENCODER, pooling="cls", vit=VitConfig(size="16x1x2", n_cls=0))
    with pytest.raises(ValueError, match="n_cls >= 1"):
        HeadConfig().build(bare, 3)
