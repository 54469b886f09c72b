"""Made-up benchmark results, as `birdjepa benchmark` stores them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.result import Result

KINDS = {"finetune": "FinetunedConfig", "restricted": "RestrictedConfig"}


def result(
    task: str = "pow",
    value: float = 0.4,
    *,
    suite: str = "birdset",
    model: str = "ours",
    classifier: str = "linear",
    n_train: int | None = None,
    seed: int = 0,
    layer: int | None = None,
    metric: str = "cmap",
    more: Mapping[str, float] | None = None,
    experiment: Mapping[str, Any] | None = None,
    width: float = 0.03,
    **fields: Any,
) -> Result:
    """A result with intervals of a width; `more` are further metrics."""
    values = {metric: value, **(more or {})}
    return Result(
        experiment={
            "task": task,
            "model": model,
            "classifier": classifier,
            "n_train": n_train,
            "seed": seed,
            "layer": 12 if layer is None else layer,
            "suite": suite,
            "metric": metric,
            "task_type": "single-label" if metric == "accuracy" else "multi-label",
            "data": f"data of {task}",
            "model_identity": {"weights": f"hash of {model}", "pooling": "mean"},
            "classifier_config": {"kind": KINDS.get(classifier, "LinearConfig"), "n_steps": 100},
            "versions": {"benchmark": 1},
            **(experiment or {}),
        },
        task=task, suite=suite, model=model, classifier=classifier, n_train=n_train, seed=seed, layer=layer,
        metric=metric, metrics={name: Estimate(each, each - width, each + width) for name, each in values.items()},
        **{
            "per_class": {}, "counts": {"n_examples": 100, "n_classes_scored": 20}, "notes": (), "scores": None,
            "seconds": 12.0, "provenance": {"birdjepa": "0.1.0", "packages": {"torch": "2.13.0"}, "cpu": "a CPU"},
            **fields,
        },
    )  # fmt: skip


def undefined(**fields: Any) -> Result:
    """A result whose number is not defined."""
    return result(value=math.nan, **fields)


def multi_label_scores(n: int, n_classes: int, *, seed: int = 0, skill: float = 1.0) -> dict[str, np.ndarray]:
    """Arrays as a store keeps them, of one truth: some rows without a label, the last class never heard."""
    truth = (np.random.default_rng(0).random((n, n_classes)) < 0.15).astype(np.int8)
    truth[:, -1] = 0
    scores = (skill * truth + np.random.default_rng(seed).normal(size=truth.shape)).astype(np.float32)
    return _arrays(scores, truth)


def single_label_scores(n: int, n_classes: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = np.eye(n_classes, dtype=np.int8)[generator.integers(n_classes, size=n)]
    scores = (2 * truth + generator.normal(size=truth.shape)).astype(np.float16)
    return _arrays(scores, truth)


def _arrays(scores: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    n, n_classes = truth.shape
    return {
        "scores": scores,
        "truth": truth,
        "classes": np.array([f"class{i:03d}" for i in range(n_classes)]),
        "groups": np.array([f"recording {i // 10}" for i in range(n)]),
        "ids": np.array([f"{i}.ogg" for i in range(n)]),
    }
