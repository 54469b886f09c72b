import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from birdjepa.benchmark import logistic
from birdjepa.benchmark.logistic import LinearModels, LinearProbe, Problem, example_weights, fit, predict_folds
from birdjepa.core.errors import UsageError

STRENGTHS = (1e-3, 1e-1, 10.0)


def data(n: int, d: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes along correlated dimensions of different scale, as embeddings are; classes are uneven."""
    generator = np.random.default_rng(seed)
    classes = np.minimum(generator.geometric(0.35, n) - 1, n_classes - 1)
    rows = generator.normal(size=(n_classes, d))[classes] * 0.5 + generator.normal(size=(n, d))
    mix = generator.normal(size=(d, d)) * np.logspace(0, -1.5, d)[:, None]
    return rows @ mix + 3.0, classes


def solve(rows: np.ndarray, classes: np.ndarray, train: np.ndarray, *, balanced: bool = False) -> LinearModels:
    problems = [Problem(torch.from_numpy(train), STRENGTHS)]
    n_classes = int(classes.max()) + 1
    x, y = torch.from_numpy(rows), torch.from_numpy(classes)
    return next(iter(fit(x, y, problems, n_classes=n_classes, balanced=balanced, tolerance=1e-10)))


@pytest.mark.parametrize(("n", "d", "n_classes"), [(150, 12, 4), (60, 200, 5), (100, 8, 2), (40, 40, 3)])
@pytest.mark.parametrize("balanced", [False, True])
def test_equals_scikit_learn(n: int, d: int, n_classes: int, balanced: bool) -> None:
    rows, classes = data(n, d, n_classes)
    train = np.arange(0, n, 2) if n > d else np.arange(n - 10)
    model = solve(rows, classes, train, balanced=balanced)
    scaler = StandardScaler().fit(rows[train])
    probability = torch.softmax(model.logits(torch.from_numpy(rows)), dim=2).numpy()
    for i, strength in enumerate(STRENGTHS):
        weight = "balanced" if balanced else None
        other = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000, class_weight=weight)
        other.fit(scaler.transform(rows[train]), classes[train])
        coefficients = model.weights[i].numpy().T
        if n_classes == 2:
            coefficients = coefficients[1:] - coefficients[:1]
        assert np.linalg.norm(coefficients - other.coef_) < 1e-3 * np.linalg.norm(other.coef_)
        expected = other.predict_proba(scaler.transform(rows))
        assert probability[i] == pytest.approx(expected, abs=1e-3)
        assert np.array_equal(probability[i].argmax(axis=1), expected.argmax(axis=1))


def test_the_gap_bounds_the_distance_to_the_minimum() -> None:
    rows, classes = data(120, 30, 4)
    x, y = torch.from_numpy(rows), torch.from_numpy(classes)
    problem = Problem(torch.arange(120), STRENGTHS)

    def losses(tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
        (model,) = fit(x, y, [problem], n_classes=4, balanced=False, tolerance=tolerance)
        entropy = torch.nn.functional.cross_entropy(
            model.logits(x).flatten(0, 1), y.repeat(len(STRENGTHS)), reduction="none"
        ).unflatten(0, (len(STRENGTHS), 120))
        penalty = model.weights.square().sum(dim=(1, 2)) / (2 * 120 * torch.tensor(STRENGTHS))
        return entropy.mean(dim=1) + penalty, model.gap

    best, _ = losses(1e-13)
    for tolerance in (1e-2, 1e-4, 1e-6):
        reached, gap = losses(tolerance)
        assert (gap <= tolerance).all()
        assert (reached - best <= gap + 1e-12).all()


def test_problems_solved_together_equal_problems_solved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, classes = data(90, 50, 4)
    x, y = torch.from_numpy(rows), torch.from_numpy(classes)
    parts = [torch.arange(0, 60), torch.arange(20, 90), torch.arange(30)]  # more and fewer rows than dimensions
    problems = [Problem(part, STRENGTHS) for part in parts]
    together = list(fit(x, y, problems, n_classes=4, balanced=False, tolerance=1e-10))
    monkeypatch.setattr(logistic, "BUDGET", 1)
    alone = list(fit(x, y, problems, n_classes=4, balanced=False, tolerance=1e-10))
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.weights, b.weights, atol=1e-4)


def test_a_class_without_training_examples_is_never_predicted() -> None:
    rows, classes = data(80, 6, 4)
    train = np.flatnonzero(classes != 1)
    model = solve(rows, classes, train)
    assert not (model.logits(torch.from_numpy(rows)).argmax(dim=2) == 1).any()
    other = LogisticRegression(C=STRENGTHS[1], tol=1e-9, max_iter=20_000)
    scaler = StandardScaler().fit(rows[train])
    other.fit(scaler.transform(rows[train]), classes[train])
    expected = other.predict(scaler.transform(rows))
    assert np.array_equal(model.logits(torch.from_numpy(rows))[1].argmax(dim=1).numpy(), expected)


def test_balanced_weights_equal_scikit_learn() -> None:
    classes = np.array([0, 0, 0, 2, 2, 3])
    weights = example_weights(torch.from_numpy(classes), 5, balanced=True).numpy()
    assert weights == pytest.approx(compute_sample_weight("balanced", classes))


def test_strength_is_chosen_on_the_training_part_only() -> None:
    rows, classes = data(100, 20, 3)
    groups = np.arange(100) // 2
    part = (np.arange(70), np.arange(70, 100))
    (before,) = predict_folds(rows, classes, groups, [part], LinearProbe(), seed=0)
    spoilt = rows.copy()
    spoilt[71:] = 1e6 * np.random.default_rng(1).normal(size=(29, 20))
    shuffled = classes.copy()
    shuffled[70:] = np.random.default_rng(2).permutation(classes[70:])
    (after,) = predict_folds(spoilt, shuffled, groups, [part], LinearProbe(), seed=0)
    assert after.strength == before.strength
    assert after.predicted[0] == before.predicted[0]


def test_noisy_data_get_a_strong_penalty_and_clear_data_need_none() -> None:
    generator = np.random.default_rng(0)
    classes, groups = np.arange(120) % 2, np.arange(120)
    noisy = generator.normal(size=(120, 100))
    noisy[:, :4] += (classes * 2 - 1)[:, None]
    part = (np.arange(80), np.arange(80, 120))
    (chosen,) = predict_folds(noisy, classes, groups, [part], LinearProbe(strengths=(1e-3, 100.0)), seed=0)
    assert chosen.strength == 1e-3
    # XOR with a product term of small scale is separable, but only once its weight may grow large.
    curved = generator.normal(size=(120, 40))
    clear = (curved[:, 0] + 0.2 * curved[:, 1] > 0).astype(np.int64)
    (chosen,) = predict_folds(curved, clear, groups, [part], LinearProbe(strengths=(1e-5, 1.0)), seed=0)
    assert chosen.strength == 1.0


def test_one_strength_is_used_as_it_is_and_one_group_cannot_choose() -> None:
    rows, classes = data(40, 5, 2)
    groups, part = np.zeros(40, dtype=np.int64), (np.arange(30), np.arange(30, 40))
    (fixed,) = predict_folds(rows, classes, groups, [part], LinearProbe(strengths=(0.5,)), seed=0)
    assert fixed.strength == 0.5
    assert fixed.converged
    with pytest.raises(UsageError, match="fix C"):
        predict_folds(rows, classes, groups, [part], LinearProbe(), seed=0)


@pytest.mark.parametrize("settings", [{"strengths": ()}, {"strengths": (1.0, 0.1)}, {"n_inner_folds": 1}])
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="got"):
        LinearProbe(**settings)
