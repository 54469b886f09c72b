"""Multinomial logistic regression on frozen embeddings: all folds and all strengths of a probe are solved at once.

We solve it ourselves, in torch, for two reasons: it runs where the embeddings are, and folds x strengths x inner folds
(hundreds of small problems) become a few large matrix products instead of one call each. The objective is
scikit-learn's at the same C (tests prove parity): the sum over the training examples of weight * cross-entropy, plus
|W|^2 / (2 C), the intercept free, divided here by the total weight.

Three things make it quick. Each training part is rotated onto its principal axes, which changes no prediction, leaves
at most as many coordinates as there are examples, and makes the Hessian nearly diagonal, so L-BFGS starts from a good
metric. Logits are linear along a search direction, so a trial step costs no matrix product. And it stops on a
certificate: |gradient|^2 / (2 penalty) bounds how far a strongly convex loss is above its minimum. Everything is
float64: the weak penalties need gradients below what float32 resolves. Nothing is random but the inner folds.

Axes: f folds | n examples, padded to the largest fold | q coordinates: the constant 1, then the principal axes | r
strengths | c classes | d width
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.benchmark.folds import spread_groups
from birdjepa.benchmark.standardise import Standardiser, fit_standardiser
from birdjepa.core.errors import UsageError

TOLERANCE = 1e-8
"""Certified distance to the minimum of the mean loss, in nats."""
INNER_TOLERANCE = 1e-4
"""The same while C is chosen, where only held-out hits are counted."""
HISTORY = 10
MAX_STEPS = 1000
ABSENT = -1e9
"""Logit of a class without training examples: its probability is exactly 0."""
BUDGET = 2**29
"""Bytes that a batch of problems may take, about; a single problem may exceed it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Standardisation and L2-penalised logistic regression, tuned by inner cross-validation on the training part."""

    strengths: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)
    """Candidates for C (large = weak penalty). A single one is used as it is, without inner cross-validation."""
    balanced: bool = False
    """Classes weigh the same whatever their number of examples, in the loss and in the choice of C."""
    n_inner_folds: int = 5
    """Inner folds, disjoint in groups; fewer where there are fewer groups."""

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0 or list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError(f"strengths must be positive, ascending and different, got {self.strengths}")
        if self.n_inner_folds < 2:
            raise ValueError(f"n_inner_folds must be at least 2, got {self.n_inner_folds}")


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A training part, by its rows, and the strengths to solve it for."""

    rows: Int[Tensor, " k"]
    strengths: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModels:
    """The solutions of one training part, one for each strength."""

    standardiser: Standardiser
    weights: Float[Tensor, "r d c"]
    """Coefficients of the standardised embedding."""
    bias: Float[Tensor, "r c"]
    gap: Float[Tensor, " r"]
    """How far the mean loss is above its minimum, in nats: a bound, but for the intercept, which has no penalty."""

    def logits(self, embeddings: Float[Tensor, "m d"]) -> Float[Tensor, "r m c"]:
        return self.standardiser(embeddings) @ self.weights + self.bias[:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class FoldFit:
    """What one fold's probe said of its test rows, the C it chose, and whether the solver reached its tolerance."""

    predicted: Int[np.ndarray, " k"]
    strength: float
    converged: bool


def predict_folds(
    embeddings: Float[np.ndarray, "n d"],
    classes: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    parts: Sequence[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]],
    probe: LinearProbe,
    *,
    seed: int,
    device: str = "cpu",
) -> list[FoldFit]:
    """Predictions for the test rows of each (train rows, test rows); no test part enters its probe or its choice of C.

    Raises:
      UsageError: if C must be chosen and a training part has a single group.
    """
    x = torch.tensor(embeddings, dtype=torch.float64, device=device)
    y = torch.as_tensor(classes, device=device)
    n_classes = int(classes.max()) + 1
    trains = [train for train, _ in parts]
    if len(probe.strengths) == 1:
        chosen = [probe.strengths[0]] * len(parts)
    else:
        chosen = _choose_strengths(x, y, groups, trains, probe, seed)
    problems = [Problem(torch.as_tensor(t, device=device), (c,)) for t, c in zip(trains, chosen, strict=True)]
    models = fit(x, y, problems, n_classes=n_classes, balanced=probe.balanced, tolerance=TOLERANCE)
    fits = []
    for model, (_, test), strength in zip(models, parts, chosen, strict=True):
        predicted = model.logits(x[torch.as_tensor(test, device=device)])[0].argmax(dim=1).cpu().numpy()
        fits.append(FoldFit(predicted, strength, bool(model.gap[0] <= TOLERANCE)))
    return fits


def fit(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    problems: Sequence[Problem],
    *,
    n_classes: int,
    balanced: bool,
    tolerance: float,
) -> Iterator[LinearModels]:
    """Solves problems with equally many strengths, in batches that fit in memory; yields their models in order.

    Source: equals sklearn.linear_model.LogisticRegression(C=strength) on standardised rows; classes without training
    examples are never predicted.
    """
    if not problems:
        return
    n, d, n_strengths = max(len(p.rows) for p in problems), x.shape[1], len(problems[0].strengths)
    bytes_per_problem = 8 * (n * d + n_strengths * n_classes * (8 * n + (2 * HISTORY + 6) * min(n, d)))
    step = max(1, BUDGET // bytes_per_problem)
    for start in range(0, len(problems), step):
        yield from _fit_batch(x, y, problems[start : start + step], n_classes, balanced, tolerance)


def example_weights(y: Int[Tensor, " n"], n_classes: int, *, balanced: bool) -> Float[Tensor, " n"]:
    """Ones, or weights that give each class present the same total and sum to the number of examples.

    Source: balanced equals sklearn.utils.class_weight.compute_sample_weight("balanced").
    """
    if not balanced:
        return torch.ones(len(y), dtype=torch.float64, device=y.device)
    counts = torch.bincount(y, minlength=n_classes).double()
    return len(y) / ((counts > 0).sum() * counts[y])


def _choose_strengths(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    groups: Int[np.ndarray, " n"],
    trains: Sequence[Int[np.ndarray, " train"]],
    probe: LinearProbe,
    seed: int,
) -> list[float]:
    """For each training part the C of the best inner held-out accuracy (balanced if asked); of equals, the smallest."""
    n_classes = int(y.max()) + 1
    problems, tests = [], []
    for outer, train in enumerate(trains):
        _, inner_groups = np.unique(groups[train], return_inverse=True)
        n_inner = min(probe.n_inner_folds, int(inner_groups.max()) + 1)
        if n_inner < 2:
            raise UsageError("choosing C needs a training part with 2 groups (recordings) or more; fix C instead")
        fold = spread_groups(y.cpu().numpy()[train], inner_groups, n_inner, seed)
        for index in range(n_inner):
            problems.append(Problem(torch.as_tensor(train[fold != index], device=x.device), probe.strengths))
            tests.append((outer, torch.as_tensor(train[fold == index], device=x.device)))
    importance = x.new_zeros(len(trains), len(x))
    for outer, train in enumerate(trains):
        rows = torch.as_tensor(train, device=x.device)
        importance[outer, rows] = example_weights(y[rows], n_classes, balanced=probe.balanced)
    score = x.new_zeros(len(trains), len(probe.strengths))
    models = fit(x, y, problems, n_classes=n_classes, balanced=probe.balanced, tolerance=INNER_TOLERANCE)
    for model, (outer, test) in zip(models, tests, strict=True):
        hits = model.logits(x[test]).argmax(dim=2) == y[test]
        score[outer] += hits.double() @ importance[outer, test]
    # Equally good sums of weights may differ by rounding; argmax takes the first of equals, the strongest penalty.
    best = (score / len(x)).round(decimals=9).argmax(dim=1)
    return [probe.strengths[index] for index in best.tolist()]


def _fit_batch(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    problems: Sequence[Problem],
    n_classes: int,
    balanced: bool,
    tolerance: float,
) -> Iterator[LinearModels]:
    standardisers = [fit_standardiser(x[p.rows]) for p in problems]
    standardised = [standardise(x[p.rows]) for standardise, p in zip(standardisers, problems, strict=True)]
    axes = [_principal_axes(rows) for rows in standardised]
    n, q = max(len(rows) for rows in standardised), 1 + max(basis.shape[1] for basis in axes)
    coordinates = x.new_zeros(len(problems), n, q)
    truth = x.new_zeros(len(problems), n, n_classes)
    weight = x.new_zeros(len(problems), n)
    for i, (problem, rows, basis) in enumerate(zip(problems, standardised, axes, strict=True)):
        coordinates[i, : len(rows), 0] = 1.0
        coordinates[i, : len(rows), 1 : 1 + basis.shape[1]] = rows @ basis
        truth[i, torch.arange(len(rows), device=x.device), y[problem.rows]] = 1.0
        weight[i, : len(rows)] = example_weights(y[problem.rows], n_classes, balanced=balanced)
    strengths = x.new_tensor([p.strengths for p in problems])
    objective = _objective(coordinates, truth, weight, strengths)
    solution, gap = _minimise(objective, tolerance)
    for i, (standardiser, basis) in enumerate(zip(standardisers, axes, strict=True)):
        weights = torch.einsum("dq,qrc->rdc", basis, solution[i, 1 : 1 + basis.shape[1]])
        yield LinearModels(standardiser, weights, solution[i, 0] + objective.offset[i, 0], gap[i, 0, :, 0])


def _principal_axes(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d q"]:
    """Orthonormal axes that span the rows, along which they are uncorrelated; q = min(n, d)."""
    if len(rows) >= rows.shape[1]:
        return torch.linalg.eigh(rows.T @ rows).eigenvectors
    span, coordinates = torch.linalg.qr(rows.T)
    return span @ torch.linalg.eigh(coordinates @ coordinates.T).eigenvectors


@dataclasses.dataclass(frozen=True, eq=False)
class _Objective:
    """Mean weighted cross-entropy plus penalty of f x r problems; axes are (f, n or q, r, c), some of size 1."""

    coordinates: Float[Tensor, "f n q"]
    truth: Float[Tensor, "f n 1 c"]
    """One-hot; all zero in padding."""
    weight: Float[Tensor, "f n 1 1"]
    """Sums to 1 over the examples; 0 in padding."""
    penalty: Float[Tensor, "f 1 r 1"]
    """Half of this times |W|^2 is added."""
    penalised: Float[Tensor, "1 q 1 1"]
    """0 for the intercept, else 1."""
    offset: Float[Tensor, "f 1 1 c"]
    """0, or ABSENT."""
    spread: Float[Tensor, "f q 1 1"]
    """Mean square of each coordinate."""

    def logits(self, weights: Float[Tensor, "f q r c"]) -> Float[Tensor, "f n r c"]:
        """Without the offset, hence linear in the weights."""
        return (self.coordinates @ weights.flatten(2)).unflatten(2, weights.shape[2:])

    def loss(self, logits: Float[Tensor, "f n r c"], weights: Float[Tensor, "f q r c"]) -> Float[Tensor, "f 1 r 1"]:
        normaliser = torch.logsumexp(logits + self.offset, dim=3, keepdim=True)
        entropy = normaliser - (logits * self.truth).sum(dim=3, keepdim=True)
        return (self.weight * entropy).sum(dim=1, keepdim=True) + 0.5 * self.penalty * _dot(
            weights * self.penalised, weights
        )

    def gradient(
        self, logits: Float[Tensor, "f n r c"], weights: Float[Tensor, "f q r c"]
    ) -> tuple[Float[Tensor, "f q r c"], Float[Tensor, "f q r c"]]:
        """The gradient, and the Hessian's diagonal as if the axes stayed uncorrelated under each class's p (1 - p)."""
        p = torch.softmax(logits + self.offset, dim=3)
        residual = self.weight * (p - self.truth)
        slope = (self.coordinates.mT @ residual.flatten(2)).unflatten(2, residual.shape[2:])
        sharpness = (self.weight * p * (1 - p)).sum(dim=1, keepdim=True).clamp_min(1e-6)
        penalty = self.penalty * self.penalised
        return slope + penalty * weights, self.spread * sharpness + penalty

    def gap(self, gradient: Float[Tensor, "f q r c"], curvature: Float[Tensor, "f q r c"]) -> Float[Tensor, "f 1 r 1"]:
        """|gradient|^2 / (2 penalty); the intercept has no penalty, so its own curvature stands in."""
        convexity = torch.where(self.penalised > 0, self.penalty, curvature)
        return 0.5 * _dot(gradient, gradient / convexity)


class _Move(NamedTuple):
    """One step of L-BFGS; inverse = 0 (no move, or no curvature along it) makes it drop out."""

    moved: Float[Tensor, "f q r c"]
    turned: Float[Tensor, "f q r c"]
    """How the gradient changed."""
    inverse: Float[Tensor, "f 1 r 1"]
    """1 / <moved, turned>."""


def _objective(
    coordinates: Float[Tensor, "f n q"],
    truth: Float[Tensor, "f n c"],
    weight: Float[Tensor, "f n"],
    strengths: Float[Tensor, "f r"],
) -> _Objective:
    total = weight.sum(dim=1, keepdim=True)
    present = truth.any(dim=1)
    # scikit-learn solves two classes with one vector w, where softmax has w / 2 and -w / 2: half the penalty at one C.
    factor = torch.where(present.sum(dim=1, keepdim=True) == 2, 2.0, 1.0)
    penalised = torch.ones_like(coordinates[0, 0])
    penalised[0] = 0.0
    return _Objective(
        coordinates=coordinates,
        truth=truth[:, :, None],
        weight=(weight / total)[:, :, None, None],
        penalty=(factor / total / strengths)[:, None, :, None],
        penalised=penalised[None, :, None, None],
        offset=torch.where(present, 0.0, ABSENT)[:, None, None].to(coordinates),
        spread=torch.einsum("fnq,fn->fq", coordinates.square(), weight / total)[:, :, None, None],
    )


def _minimise(objective: _Objective, tolerance: float) -> tuple[Float[Tensor, "f q r c"], Float[Tensor, "f 1 r 1"]]:
    """L-BFGS on all problems side by side; returns the weights and their certified gaps.

    A problem within the tolerance stands still, and a strength leaves when it is solved in every fold: weak penalties
    need many more steps than strong ones.
    """
    n_folds, _, q = objective.coordinates.shape
    n_strengths, n_classes = objective.penalty.shape[2], objective.truth.shape[3]
    weights = solution = objective.coordinates.new_zeros(n_folds, q, n_strengths, n_classes)
    gaps = torch.zeros_like(objective.penalty)
    working = torch.arange(n_strengths, device=weights.device)
    logits = objective.logits(weights)
    loss = objective.loss(logits, weights)
    gradient, curvature = objective.gradient(logits, weights)
    history: list[_Move] = []
    for step in range(MAX_STEPS + 1):
        gap = objective.gap(gradient, curvature)
        unsolved = (gap > tolerance).any(dim=0).flatten()
        if step == MAX_STEPS or not unsolved.all():
            solution, gaps = solution.index_copy(2, working, weights), gaps.index_copy(2, working, gap)
            if step == MAX_STEPS or not unsolved.any():
                break
            state = (weights, logits, loss, gradient, curvature, gap)
            weights, logits, loss, gradient, curvature, gap = (tensor[:, :, unsolved] for tensor in state)
            objective = dataclasses.replace(objective, penalty=objective.penalty[:, :, unsolved])
            history = [_Move(*(tensor[:, :, unsolved] for tensor in move)) for move in history]
            working = working[unsolved]
        direction = torch.where(gap <= tolerance, 0.0, -_precondition(gradient, curvature, history))
        change = objective.logits(direction)
        size, loss = _step_size(objective, logits, weights, change, direction, loss, _dot(gradient, direction))
        weights = weights + size * direction
        logits = logits + size * change
        before = gradient
        gradient, curvature = objective.gradient(logits, weights)
        moved, turned = size * direction, gradient - before
        product = _dot(moved, turned)
        history = [*history[-HISTORY + 1 :], _Move(moved, turned, torch.where(product > 0, 1 / product, 0.0))]
    return solution, gaps


def _precondition(
    gradient: Float[Tensor, "f q r c"],
    curvature: Float[Tensor, "f q r c"],
    history: Sequence[_Move],
) -> Float[Tensor, "f q r c"]:
    """L-BFGS's two loops: the inverse Hessian times the gradient, from the last moves and a diagonal first guess.

    Source: Nocedal & Wright, Numerical Optimization, algorithm 7.4. Moves with inverse = 0 (no move, or no curvature
    along it) drop out.
    """
    left = gradient
    shares = []
    for moved, turned, inverse in reversed(history):
        shares.append(inverse * _dot(moved, left))
        left = left - shares[-1] * turned
    result = left / curvature
    if history:
        _, turned, inverse = history[-1]
        observed = inverse * _dot(turned, turned / curvature)
        result = torch.where(observed > 0, result / observed, result)
    for (moved, turned, inverse), share in zip(history, reversed(shares), strict=True):
        result = result + (share - inverse * _dot(turned, result)) * moved
    return result


def _step_size(
    objective: _Objective,
    logits: Tensor,
    weights: Tensor,
    change: Tensor,
    direction: Tensor,
    loss: Float[Tensor, "f 1 r 1"],
    slope: Float[Tensor, "f 1 r 1"],
) -> tuple[Float[Tensor, "f 1 r 1"], Float[Tensor, "f 1 r 1"]]:
    """The first of 1, 1/2, 1/4... that lowers each loss enough (Armijo) and the losses there; 0 where none does."""
    size, reached, enough = torch.ones_like(loss), loss, torch.zeros_like(loss, dtype=torch.bool)
    rounding = 1e-14 * (1 + loss.abs())
    for _ in range(40):
        reached = objective.loss(logits + size * change, weights + size * direction)
        enough = reached <= loss + 1e-4 * size * slope + rounding
        if enough.all():
            return size, reached
        size = torch.where(enough, size, size / 2)
    return torch.where(enough, size, 0.0), torch.where(enough, reached, loss)


def _dot(a: Float[Tensor, "f q r c"], b: Float[Tensor, "f q r c"]) -> Float[Tensor, "f 1 r 1"]:
    return (a * b).sum(dim=(1, 3), keepdim=True)
