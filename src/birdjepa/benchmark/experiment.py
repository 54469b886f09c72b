"""One experiment: a model, a task, a classifier, so many shots, a seed, a layer; its key, and its result.

The key is a hash of everything that decides the numbers, so that no setting can change without a new row, and nothing
runs twice. The version of the code counts by VERSION, which is raised when numbers change, and not by commit.

Axes: n examples | c classes | m tested examples
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

import birdjepa
from birdjepa.benchmark import retrieval, scoring, shots
from birdjepa.benchmark.backbones import vocabulary
from birdjepa.benchmark.backbones.base import Backbone
from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.classifiers import AnyClassifier, fit_and_score
from birdjepa.benchmark.classifiers.base import Outcome, Rows
from birdjepa.benchmark.features import Extracted
from birdjepa.benchmark.multilabel import METRIC_VERSION
from birdjepa.benchmark.tasks import Examples, Part, Task
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError

VERSION = 1
"""Of how experiments are run: raised when the same configuration gives other numbers than before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Where an experiment lies in the grid."""

    task: str
    model: str
    classifier: str
    n_train: int | None
    """Training examples per class (retrieval: exemplars; syllables: songs); None for all."""
    seed: int
    layer: int | None
    """None for the model's last."""

    def __str__(self) -> str:
        shots = "all" if self.n_train is None else str(self.n_train)
        layer = "" if self.layer is None else f", layer {self.layer}"
        return f"{self.task}, {self.model}, {self.classifier}, n_train {shots}, seed {self.seed}{layer}"


def described(
    at: Coordinates, task: Task, data: str, backbone: Backbone, classifier: Any, n_resamples: int
) -> dict[str, Any]:
    """Everything that decides an experiment's numbers, as JSON."""
    return {
        **dataclasses.asdict(at),
        "layer": at.layer if at.layer is not None else backbone.card.n_layers,
        "suite": task.suite,
        "task_type": task.kind,
        "metric": task.metric,
        "protocol": task.protocol,
        "data": data,
        "model_identity": backbone.identity,
        "classifier_config": configs.to_json(classifier),
        "n_resamples": n_resamples,
        "versions": {"birdjepa": birdjepa.__version__, "benchmark": VERSION, "metrics": METRIC_VERSION},
    }


class Tested(NamedTuple):
    """What an experiment found, before it is a row."""

    metrics: dict[str, Estimate]
    per_class: dict[str, dict[str, float]]
    """Metric, then class."""
    rows: Int[np.ndarray, " m"]
    """The tested examples, ascending."""
    scores: Float[np.ndarray, "m c"] | None
    """None where examples have no scores (syllables)."""
    counts: dict[str, int]
    notes: tuple[str, ...]
    chosen: tuple[dict[str, Any], ...]
    """Hyper-parameters, one entry for each part."""
    seconds: float


def classify(
    at: Coordinates,
    task: Task,
    examples: Examples,
    extracted: Extracted,
    classifier: AnyClassifier,
    *,
    layer: int,
    n_resamples: int,
    device: str,
) -> Tested:
    """Learns on every part and scores what all of them tested, pooled.

    Raises:
      UsageError: if a part has nothing to learn from or to test.
    """
    began = time.monotonic()
    features = extracted.features(layer, tokens=classifier.needs_tokens)
    outcomes: list[tuple[Int[np.ndarray, " _"], Outcome]] = []
    counts: Counter[str] = Counter()
    for part in examples.parts:
        rows = drawn(at, examples, Part(part.name, *(_heard(each, extracted) for each in part[1:])))
        counts.update(counted(rows))
        outcome = fit_and_score(
            classifier,
            features,
            examples.truth,
            rows,
            examples.groups,
            kind=task.kind,
            seed=at.seed,
            device=device,
        )
        outcomes.append((rows.test, outcome))
    notes = tuple(dict.fromkeys(note for _, outcome in outcomes for note in outcome.notes))
    return pooled(
        task,
        examples,
        [(tested, outcome.scores) for tested, outcome in outcomes],
        counts=counts,
        notes=notes,
        chosen=tuple(outcome.chosen for _, outcome in outcomes),
        n_resamples=n_resamples,
        began=began,
    )


def drawn(at: Coordinates, examples: Examples, part: Part) -> Rows:
    """The rows of a part, of which so many a class learn, and as many choose."""
    train, validation = (
        shots.sample(examples.truth, examples.groups, examples.ids, rows, at.n_train, at.seed).rows
        for rows in (part.train, part.validation)
    )
    return Rows(train, validation, part.test)


def counted(rows: Rows) -> dict[str, int]:
    """What a result says of the examples that were learnt from."""
    return {"n_train": len(rows.train), "n_validation": len(rows.validation)}


def pooled(
    task: Task,
    examples: Examples,
    tested: list[tuple[Int[np.ndarray, " _"], Float[np.ndarray, "_ c"]]],
    *,
    counts: Mapping[str, int],
    notes: tuple[str, ...],
    chosen: tuple[dict[str, Any], ...],
    n_resamples: int,
    began: float,
) -> Tested:
    """The score of all parts' test rows together, in the order of the examples."""
    rows = np.concatenate([each for each, _ in tested])
    scores = np.concatenate([each for _, each in tested]).astype(np.float32)
    order = np.argsort(rows, kind="stable")
    rows, scores = rows[order], scores[order]
    scored = scoring.score(
        scores,
        examples.truth[rows].astype(np.int64),
        [examples.groups[row] for row in rows],
        task.kind,
        classes=examples.classes,
        seed=0,
        n_resamples=n_resamples,
    )
    seconds = time.monotonic() - began
    return Tested(scored.metrics, scored.per_class, rows, scores, {**counts, **scored.counts}, notes, chosen, seconds)


def _heard(rows: Int[np.ndarray, " _"], extracted: Extracted) -> Int[np.ndarray, " _"]:
    """The rows whose recording could be read."""
    return rows[extracted.heard[rows]]


def retrieve(
    at: Coordinates, task: Task, examples: Examples, extracted: Extracted, *, layer: int, n_resamples: int
) -> Tested:
    """k exemplars of each class, one of a recording at most, rank the test part by cosine to their mean.

    Classes with fewer recordings than that, or none in the test part, are left out of all means.
    """
    began = time.monotonic()
    assert at.n_train is not None
    (part,) = examples.parts
    rows, pool = _heard(part.test, extracted), _heard(np.sort(np.concatenate(part[1:3])), extracted)
    groups = np.array(examples.groups)
    pool = pool[np.sort(np.unique(groups[pool], return_index=True)[1])]
    members, species = np.nonzero(examples.truth[pool])
    exemplars = retrieval.Exemplars(np.asarray(extracted.pooled[layer][pool[members]]), species)
    n_classes = len(examples.classes)
    chosen = retrieval.draw_exemplars(species, n_classes, k=at.n_train, seed=at.seed)
    asked = np.flatnonzero((chosen >= 0).all(axis=1))
    if not len(asked):
        raise UsageError(f"{task.name}: no class has {at.n_train} training recordings to search with")
    scores = retrieval.search(exemplars, np.asarray(extracted.pooled[layer][rows]), chosen)
    scored = scoring.score(
        scores[:, asked],
        examples.truth[rows][:, asked].astype(np.int64),
        groups[rows].tolist(),
        "multi-label",
        classes=[examples.classes[column] for column in asked],
        seed=0,
        n_resamples=n_resamples,
    )
    found = np.array(list(scored.per_class["auroc"].values()))
    geometric = retrieval.geometric_mean(found)
    named = {
        "species_auroc": scored.metrics["auroc"],
        "species_ap": scored.metrics["cmap"],
        "species_auroc_geometric": Estimate(geometric, np.nan, np.nan),
    }
    counts = {"n_train": len(asked) * at.n_train, "n_species_scored": int((~np.isnan(found)).sum()), **scored.counts}
    note = f"{n_classes - len(asked)} of {n_classes} classes have fewer than {at.n_train} training recordings"
    notes = (note,) if len(asked) < n_classes else ()
    return Tested(named, scored.per_class, rows, scores, counts, notes, (), time.monotonic() - began)


def restrict(
    at: Coordinates, task: Task, examples: Examples, extracted: Extracted, known: Sequence[str], *, n_resamples: int
) -> Tested:
    """The model's own logits of the task's classes; nothing is trained."""
    began = time.monotonic()
    assert extracted.logits is not None
    rows = np.sort(np.concatenate([_heard(part.test, extracted) for part in examples.parts]))
    found = vocabulary.restrict(torch.from_numpy(np.array(extracted.logits[rows])), known, examples.classes)
    if len(found.unknown) == len(examples.classes):
        raise UsageError(f"{at.model} knows none of the classes of {task.name}: are they named alike?")
    missing = f"{at.model} does not know {len(found.unknown)} of {len(examples.classes)} classes"
    return pooled(
        task,
        examples,
        [(rows, found.logits.numpy())],
        counts={"n_train": 0, "n_classes_known": len(examples.classes) - len(found.unknown)},
        notes=(f"{missing}: {', '.join(found.unknown[:5])}",) if found.unknown else (),
        chosen=(),
        n_resamples=n_resamples,
        began=began,
    )
