"""Small tasks that a classifier can learn, and classifiers that learn them in a moment."""

import dataclasses

import numpy as np

from birdjepa.benchmark.classifiers import (
    AnyClassifier,
    AttentiveConfig,
    CentroidConfig,
    DeepAttentiveConfig,
    Features,
    KnnConfig,
    LinearConfig,
    MlpConfig,
    PrototypicalConfig,
    Rows,
)
from birdjepa.benchmark.classifiers.training import GradientClassifier, GridConfig
from birdjepa.benchmark.tasks.base import Kind

N_CLASSES = 3


def grid(*rates: float, decays: tuple[float, ...] = (0.01,), steps: int = 24) -> GridConfig:
    """Heads that train for a moment."""
    return GridConfig(rates=rates, decays=decays, n_epochs=6, min_steps=steps, batch_size=32, n_checks=6)


SMALL: dict[str, AnyClassifier] = {
    "linear": LinearConfig(grid=grid(1e-4, 0.03, decays=(0.01, 0.1))),
    "mlp": MlpConfig(hidden=16, grid=grid(1e-4, 0.03)),
    "prototypical": PrototypicalConfig(
        scaling="layernorm", n_prototypes=2, last_rate=1.0, grid=grid(1e-3, 0.1, steps=45)
    ),
    "attentive": AttentiveConfig(grid=grid(1e-4, 0.03)),
    "attentive-deep": DeepAttentiveConfig(depth=2, n_heads=2, grid=grid(1e-4, 0.03, steps=45)),
    "centroid": CentroidConfig(),
    "knn": KnnConfig(k=5),
}


def brief(name: str) -> AnyClassifier:
    """The same classifier, trained for a few steps only."""
    config = SMALL[name]
    if not isinstance(config, GradientClassifier):
        return config
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, n_epochs=2, min_steps=0))


def toy(kind: Kind, n: int = 120, seed: int = 0) -> tuple[Features, np.ndarray, Rows, list[str]]:
    """Each class is a direction, which one token of six has and the pooled embedding in part; all tokens share another
    one, and the last two tokens of every third example are padding.
    """
    generator = np.random.default_rng(seed)
    if kind == "single-label":
        truth = np.eye(N_CLASSES, dtype=np.int64)[generator.integers(N_CLASSES, size=n)]
    else:
        truth = (generator.random((n, N_CLASSES)) < 0.3).astype(np.int64)
    directions = 3.0 * np.linalg.qr(generator.normal(size=(16, 16)))[0]
    tokens = directions[-1] + 0.3 * generator.normal(size=(n, 6, 16))
    for column in range(N_CLASSES):
        tokens[:, column] += truth[:, [column]] * directions[column]
    real = np.ones((n, 6), dtype=bool)
    real[::3, 4:] = False
    pooled = (tokens * real[..., None]).sum(1) / real.sum(1, keepdims=True)
    tokens[~real] = 100.0
    order = generator.permutation(n)
    rows = Rows(order[: n // 2], order[n // 2 : 3 * n // 4], order[3 * n // 4 :])
    features = Features(pooled=pooled.astype(np.float32), tokens=tokens.astype(np.float32), real=real)
    return features, truth, rows, [f"recording {row // 2}" for row in range(n)]
