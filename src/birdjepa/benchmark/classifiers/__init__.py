"""What learns on frozen features, one file each kind, and the one function that calls it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from birdjepa.benchmark.classifiers.attentive import AttentiveConfig, DeepAttentiveConfig
from birdjepa.benchmark.classifiers.base import Features, Outcome, Problem, Rows
from birdjepa.benchmark.classifiers.pooled import LinearConfig, MlpConfig
from birdjepa.benchmark.classifiers.prototypical import PrototypicalConfig
from birdjepa.benchmark.classifiers.similarity import CentroidConfig, KnnConfig
from birdjepa.benchmark.tasks.base import Kind
from birdjepa.core.errors import UsageError

AnyClassifier = (
    LinearConfig | MlpConfig | PrototypicalConfig | AttentiveConfig | DeepAttentiveConfig | CentroidConfig | KnnConfig
)

CLASSIFIERS: dict[str, AnyClassifier] = {
    "linear": LinearConfig(),
    "mlp": MlpConfig(),
    "prototypical": PrototypicalConfig(),
    "attentive": AttentiveConfig(),
    "attentive-deep": DeepAttentiveConfig(),
    "centroid": CentroidConfig(),
    "knn": KnnConfig(),
}
"""By the names that the command line has for them."""


def fit_and_score(
    config: AnyClassifier,
    features: Features,
    truth: Int[np.ndarray, "n c"],
    rows: Rows,
    groups: Sequence[str],
    *,
    kind: Kind,
    seed: int,
    device: str = "cpu",
) -> Outcome:
    """Scores of the test rows, by a classifier that learnt from the training rows and chose on the validation rows.

    One group (recording) per example. The order within `rows` is irrelevant, but for that of the scores; the seed
    decides the order of the batches and how heads start. A class without a training example scores below all others,
    the same for every example.

    Raises:
      UsageError: no training example, features that are not finite, a loss that does not fit the task, heads that do
        not converge.
      ValueError: arrays of different lengths, features that the classifier does not read, rows that are in two parts,
        single-label training or validation rows without exactly one class.
    """
    _check(config, features, truth, rows, groups, kind)
    parts = Rows(np.sort(rows.train), np.sort(rows.validation), rows.test)
    outcome = config.solve(Problem(features, truth, parts, groups, kind, seed, device))
    absent = ~(truth[rows.train] > 0).any(axis=0)
    if not absent.any():
        return outcome
    scores = outcome.scores.copy()
    scores[:, absent] = scores[:, ~absent].min(initial=0.0) - 1.0
    note = f"{absent.sum()} of {truth.shape[1]} classes have no training example: they score below all others"
    return outcome._replace(scores=scores, notes=(*outcome.notes, note))


def _check(
    config: AnyClassifier,
    features: Features,
    truth: Int[np.ndarray, "n c"],
    rows: Rows,
    groups: Sequence[str],
    kind: Kind,
) -> None:
    if (features.tokens if config.needs_tokens else features.pooled) is None:
        raise ValueError(f"{type(config).__name__} reads {'tokens' if config.needs_tokens else 'pooled'}, got none")
    if not len(features) == len(truth) == len(groups):
        raise ValueError(
            f"need as many features as rows of truth and groups, got {len(features)}, {len(truth)} and {len(groups)}"
        )
    every = np.concatenate(rows)
    if len(np.unique(every)) != len(every) or (len(every) and not 0 <= every.min() <= every.max() < len(truth)):
        raise ValueError(f"rows must be in 0..{len(truth) - 1}, each in one part once")
    if not len(rows.train) or not truth[rows.train].any():
        raise UsageError("no training example has a class: there is nothing to learn from")
    if kind == "single-label" and not ((truth[np.concatenate(rows[:2])] > 0).sum(axis=1) == 1).all():
        raise ValueError("training and validation examples of a single-label task must have exactly one class")
