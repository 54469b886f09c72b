"""A grid of heads against training them one by one and against torch's optimiser; losses against their formulas."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from classifier_examples import SMALL, brief, toy
from torch.nn import functional as F

from birdjepa.benchmark.classifiers import LinearConfig, MlpConfig, fit_and_score
from birdjepa.benchmark.classifiers.loss import LossConfig, losses
from birdjepa.benchmark.classifiers.pooled import _TwoLayers
from birdjepa.benchmark.classifiers.selection import average_precision, hold_out, validation_metric
from birdjepa.benchmark.classifiers.training import BETAS, EPSILON, GradientClassifier, GridConfig, _Stack
from birdjepa.benchmark.multilabel import mean_average_precision
from birdjepa.core.errors import UsageError


@pytest.mark.parametrize("name", ["linear", "mlp", "prototypical", "attentive", "attentive-deep"])
def test_a_head_of_a_grid_is_the_head_alone(name: str) -> None:
    features, truth, rows, groups = toy("multi-label")
    config = brief(name)
    assert isinstance(config, GradientClassifier)

    def fit(rates: tuple[float, ...], decays: tuple[float, ...]):
        grid = dataclasses.replace(config.grid, rates=rates, decays=decays, n_epochs=4, patience=1)
        one = dataclasses.replace(config, grid=grid)
        return fit_and_score(one, features, truth, rows, groups, kind="multi-label", seed=0)

    rates, decays = (1e-3, 3e-2), (0.1, 3.0)
    together = fit(rates, decays)
    alone = {each: fit((each[0],), (each[1],)) for each in itertools.product(rates, decays)}
    best = max(alone.values(), key=lambda outcome: outcome.chosen["validation"])
    assert together.chosen == best.chosen
    np.testing.assert_allclose(together.scores, best.scores, atol=1e-5, rtol=1e-4)


def test_the_optimiser_is_torchs_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    module = _TwoLayers(5, 4, 3)
    module.initialise(generator)
    heads = [(1e-3, 0.0), (1e-2, 0.5), (3e-2, 3.0)]
    stack = _Stack(module, heads, "cpu")
    plain = []
    for rate, decay in heads:
        own = [value.detach().clone().requires_grad_() for value in module.parameters()]
        matrices, rest = [p for p in own if p.ndim > 1], [p for p in own if p.ndim == 1]
        parts = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
        plain.append((own, rate, torch.optim.AdamW(parts, lr=rate, betas=BETAS, eps=EPSILON)))
    left = np.array([True, True, True])
    for step in range(6):
        gradients = {name: torch.randn(value.shape, generator=generator) for name, value in stack.parameters.items()}
        share = 1 - step / 6
        for place, head in enumerate(stack.which):
            own, rate, optimiser = plain[head]
            for parameter, gradient in zip(own, gradients.values(), strict=True):
                parameter.grad = gradient[place].clone()
            for group in optimiser.param_groups:
                group["lr"] = rate * share
            optimiser.step()
        stack.step(gradients, share)
        if step == 2:
            left = np.array([True, False, True])
            stack.keep(left)
    assert stack.which.tolist() == [0, 2]
    for place, head in enumerate(stack.which):
        for parameter, value in zip(plain[head][0], stack.parameters.values(), strict=True):
            torch.testing.assert_close(value[place], parameter.detach(), atol=1e-6, rtol=1e-5)


def test_an_undecayed_linear_head_ends_at_scikit_learns_minimum() -> None:
    """Without early stopping and with many steps, unpenalised binary cross-entropy ends at its minimum."""
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    features, truth, rows, _ = toy("multi-label", n=240)
    assert features.pooled is not None
    noisy = features.pooled + generator.normal(size=features.pooled.shape).astype(np.float32)
    features = dataclasses.replace(features, pooled=noisy)
    grid = GridConfig(rates=(0.1,), decays=(0.0,), n_epochs=1, min_steps=200, batch_size=1000)
    joined = rows._replace(train=np.concatenate(rows[:2]), validation=rows.train[:0])
    whole = ["one recording"] * len(truth)  # so that nothing is held out
    outcome = fit_and_score(LinearConfig(grid=grid), features, truth, joined, whole, kind="multi-label", seed=0)
    for column in range(truth.shape[1]):
        other = LogisticRegression(C=1e8, tol=1e-10, max_iter=10_000)
        mean, std = noisy[joined.train].mean(0), noisy[joined.train].std(0)
        other.fit((noisy[joined.train] - mean) / std, truth[joined.train, column])
        expected = other.decision_function((noisy[rows.test] - mean) / std)
        assert np.corrcoef(outcome.scores[:, column], expected)[0, 1] > 0.99


def test_the_losses_are_the_published_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    wanted = (torch.rand(5, 4, generator=generator) < 0.4).double()
    p = logits.sigmoid()
    q = (p - 0.1).clamp(min=0)
    published = -(wanted * (1 - p) ** 2 * p.log() + (1 - wanted) * q**3 * (1 - q).log())
    config = LossConfig(form="asymmetric", gamma_negative=3.0, gamma_positive=2.0, margin=0.1)
    torch.testing.assert_close(losses(logits, wanted, config, "multi-label"), published.mean((1, 2)))
    summed = dataclasses.replace(config, over_classes="sum")
    torch.testing.assert_close(losses(logits, wanted, summed, "multi-label"), published.sum(2).mean(1))
    binary = torch.stack([F.binary_cross_entropy_with_logits(head, wanted) for head in logits])
    torch.testing.assert_close(losses(logits, wanted, LossConfig(), "multi-label"), binary)
    single = F.one_hot(torch.tensor([0, 3, 1, 1, 2]), 4).double()
    cross = torch.stack([F.cross_entropy(head, single.argmax(1)) for head in logits])
    torch.testing.assert_close(losses(logits, single, LossConfig(), "single-label"), cross)


def test_a_loss_for_another_task_or_without_effect_is_refused() -> None:
    with pytest.raises(UsageError, match="single-label"):
        LossConfig(form="ce").of("multi-label")
    for changes in (
        {"gamma_negative": 2.0},
        {"form": "asymmetric", "margin": 1.0},
        {"form": "ce", "over_classes": "sum"},
    ):
        with pytest.raises(ValueError, match=r"got|apply"):
            LossConfig(**changes)  # pyright: ignore[reportArgumentType]


def test_the_constants_of_the_loss_matter() -> None:
    features, truth, rows, groups = toy("multi-label")
    config = brief("linear")
    assert isinstance(config, LinearConfig)
    forms = (LossConfig(), LossConfig(form="asymmetric"), LossConfig(form="asymmetric", gamma_negative=0.0))
    scores = [
        fit_and_score(
            dataclasses.replace(config, loss=loss), features, truth, rows, groups, kind="multi-label", seed=0
        ).scores
        for loss in forms
    ]
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": (1e-2, 1e-3)}, "rates must be ascending"),
        ({"decays": ()}, "decays must be ascending"),
        ({"decays": (-1.0,)}, "not negative"),
        ({"patience": 0}, "patience"),
        ({"warmup": 1.0}, "warmup"),
    ],
)
def test_limits(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridConfig(**changes)  # pyright: ignore[reportArgumentType]


def test_limits_of_the_heads() -> None:
    with pytest.raises(ValueError, match="hidden"):
        MlpConfig(hidden=0)
    assert GridConfig(rates=(1e-3, 1e-2, 1e-1), decays=(0.0, 1.0)).middle == 3
    assert isinstance(SMALL["linear"], LinearConfig)


def test_the_metric_of_many_heads_is_the_metric_of_each() -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((50, 6)) < 0.2).astype(np.int64)
    truth[:, 4] = 0
    scores = generator.normal(size=(3, 50, 6)).astype(np.float32)
    expected = [float(mean_average_precision(truth, head)) for head in scores]
    np.testing.assert_allclose(average_precision(scores, truth), expected)
    np.testing.assert_allclose(average_precision(scores - 3, truth), expected)
    constant = average_precision(np.zeros_like(scores), truth)
    assert (constant < 0.2).all()
    scores[1, 3, 2] = np.nan
    assert np.isneginf(validation_metric(scores, truth, "multi-label")).tolist() == [False, True, False]


def test_what_is_held_out_is_whole_groups_and_a_fifth_of_each_class() -> None:
    generator = np.random.default_rng(0)
    truth = np.eye(5, dtype=np.int64)[generator.integers(5, size=400)]
    truth[:20] = 0
    groups = [f"g{index}" for index in generator.integers(150, size=400)]
    held = hold_out(truth, groups, seed=0)
    names = np.array(groups)
    assert not set(names[held]) & set(names[~held])
    assert 0.15 < held.mean() < 0.25
    shares = truth[held].sum(0) / truth.sum(0)
    assert (shares <= 1 / 3).all()
    assert (shares > 0.05).all()
    order = generator.permutation(400)
    assert (hold_out(truth[order], names[order].tolist(), seed=0) == held[order]).all()
    assert not (hold_out(truth, groups, seed=1) == held).all()


@pytest.mark.parametrize(("k", "n_held"), [(1, 0), (2, 0), (3, 3), (5, 4), (10, 8)])
def test_few_examples_are_held_out_only_where_most_are_left(k: int, n_held: int) -> None:
    truth = np.repeat(np.eye(4, dtype=np.int64), k, axis=0)
    held = hold_out(truth, [str(index) for index in range(len(truth))], seed=0)
    assert held.sum() == n_held
    assert not hold_out(truth, ["one"] * len(truth), seed=0).any()
