"""Scores of a fine-tuned model: on the validation part while it learns, on the test part when it has learnt.

A recording's logits are the mean over its clips, a segment's come from inside its bounds: what `embed_rows` does for
embeddings.

Axes: n rows | c classes
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from birdjepa.benchmark import multilabel
from birdjepa.benchmark.evaluate import Score, score_predictions
from birdjepa.benchmark.folds import Folds
from birdjepa.benchmark.multilabel import MultiLabelScore, evaluate_scores
from birdjepa.benchmark.tasks import common
from birdjepa.core import files
from birdjepa.core.errors import InputError, UsageError, UserError
from birdjepa.data.loader import labels_of
from birdjepa.data.manifest import Manifest
from birdjepa.embed.embedders import Logits
from birdjepa.embed.rows import embed_rows
from birdjepa.models.classifier import Classifier
from birdjepa.objectives.supervised import Supervised, SupervisedConfig, classification_loss
from birdjepa.recipes.finetune_data import Parts
from birdjepa.recipes.probe import folds_of_column
from birdjepa.recipes.run_folder import Say
from birdjepa.train.best import Best, Judged
from birdjepa.train.loop import Judge
from birdjepa.train.state import TrainState

N_RESAMPLES = 2000
LOGITS = "test.safetensors"


class Tested(NamedTuple):
    """What a model said of its test part, blind to it."""

    rows: Int[np.ndarray, " n"]
    """Rows of the labelled manifest, ascending; those that could not be read are missing."""
    logits: Float[np.ndarray, "n c"]
    classes: tuple[str, ...]
    """Of the columns."""


class Validation(Judge):
    """Looks at the state every so many steps, keeps the best in it, and ends the run when nothing gets better."""

    def __init__(
        self,
        state: TrainState,
        part: Manifest,
        classes: Sequence[str],
        config: SupervisedConfig,
        *,
        every: int,
        n_steps: int,
        patience: int,
        from_start: bool,
        say: Say,
    ) -> None:
        self._state, self._part, self._config, self._say = state, part, config, say
        self._every, self._n_steps, self._patience = every, n_steps, patience
        self._from_start = from_start
        """Whether the state before the first step may be the best: a random head's should not be."""
        self._truth = truth_of(part, classes)
        if not self._truth.any():
            raise UsageError(f"{part.name}: no row of the validation part has a class that is learnt")
        self.refused: dict[int, InputError] = {}
        """Rows of the part that could not be read."""

    @property
    def best(self) -> Best:
        assert self._state.best is not None
        return self._state.best

    def judge(self) -> dict[str, float]:
        step = self._state.step
        if (step % self._every and step != self._n_steps) or (step == 0 and not self._from_start):
            return {}
        if step == 0:
            self.best.judged = None  # a run that was stopped before its first step is judged again
        judged = self.look()
        is_best = self.best.offer(self._state.objective.state_dict(), step, judged)
        name = "val_cmap" if self._config.is_multi_label else "val_accuracy"
        self._say(f"step {step}: {name} {judged.score:.3f}, val_loss {judged.loss:.3f}{', the best' * is_best}")
        return {name: judged.score, "val_loss": judged.loss}

    def is_over(self) -> bool:
        return bool(self._patience) and self.best.n_worse >= self._patience

    def look(self) -> Judged:
        """Score and loss of the state in hand."""
        objective = self._state.objective
        assert isinstance(objective, Supervised)
        seen = embed_rows([Logits(objective.encoder, objective.head)], self._part)
        self.refused.update(dict(seen.refused))
        logits, truth = seen.tables[0], self._truth[seen.rows]
        known = truth.any(axis=1)
        if not known.any():
            raise UserError(f"{self._part.name}: no row of the validation part can be read")
        wanted = torch.from_numpy(truth[known]).float()
        loss = float(classification_loss(torch.from_numpy(logits[known]), wanted, self._config))
        if self._config.is_multi_label:
            return Judged(float(multilabel.mean_average_precision(truth, logits)), loss)
        hit = truth[np.arange(len(truth)), logits.argmax(1)] > 0
        return Judged(float(hit.mean()), loss)


def truth_of(part: Manifest, classes: Sequence[str]) -> Int[np.ndarray, "n c"]:
    """1 for each class of each row; a class that is not among them is nowhere."""
    return common.truth_of(labels_of(part), classes).astype(np.int64)


def hear_test(
    classifier: Classifier, parts: Parts, progress: Callable[[int, int], None]
) -> tuple[Tested, list[InputError]]:
    """What the classifier says of the test part, and why some of its rows could not be read."""
    embedder = Logits(classifier.encoder, classifier.head)
    seen = embed_rows([embedder], parts.labelled.select(parts.test), progress=progress)
    return Tested(parts.test[seen.rows], seen.tables[0], classifier.classes), [error for _, error in seen.refused]


def score_fold(tested: Tested, parts: Parts, *, is_multi_label: bool, seed: int) -> Score | MultiLabelScore:
    """The score of one test part.

    Raises:
      UsageError: if none of its rows could be read.
    """
    learnt = np.union1d(parts.train, parts.validation)
    fold = np.full(len(parts.labelled), -1)
    fold[learnt], fold[tested.rows] = 0, 1
    folds = Folds(fold, ("train", parts.test_name), (1,), given=True)
    return _score(tested, parts.labelled, folds, is_multi_label=is_multi_label, seed=seed)


def score_crossed(
    tested: Sequence[Tested], labelled: Manifest, column: str, *, is_multi_label: bool, seed: int
) -> Score | MultiLabelScore:
    """The pooled score of all folds of a column, as `birdjepa probe` makes it of a probe's predictions."""
    pooled = pool_tested(tested)
    values = labelled.column(column)
    kept = set(pooled.rows.tolist())
    folds = folds_of_column([value if row in kept else "" for row, value in enumerate(values)])
    return _score(pooled, labelled, folds, is_multi_label=is_multi_label, seed=seed)


def pool_tested(tested: Sequence[Tested]) -> Tested:
    """All folds' rows in one table; a class that a fold has not learnt gets a logit below all others there."""
    classes = tuple(sorted({name for each in tested for name in each.classes}))
    lowest = min(float(each.logits.min()) for each in tested if each.logits.size) - 1.0
    rows = np.concatenate([each.rows for each in tested])
    logits = np.full((len(rows), len(classes)), lowest, dtype=np.float32)
    first = 0
    for each in tested:
        columns = [classes.index(name) for name in each.classes]
        logits[first : first + len(each.rows), columns] = each.logits
        first += len(each.rows)
    order = np.argsort(rows, kind="stable")
    return Tested(rows[order], logits[order], classes)


def write_tested(tested: Tested, labelled: Manifest, folder: Path, *, is_multi_label: bool) -> None:
    """predictions.csv for people, and the logits themselves for pooling folds."""
    logits = torch.from_numpy(tested.logits).double()
    score = (logits.sigmoid() if is_multi_label else logits.softmax(1)).numpy()
    best = tested.logits.argmax(1) if len(tested.rows) else []
    labels = labels_of(labelled)
    rows = (
        {
            "path": labelled.keys[row],
            "onset_s": f"{labelled.onset_s[row]:.9g}",
            "offset_s": "" if np.isnan(labelled.offset_s[row]) else f"{labelled.offset_s[row]:.9g}",
            "group": labelled.columns["group"][row],
            "labels": ";".join(labels[row]),
            "predicted": tested.classes[column],
            "score": f"{score[index, column]:.6f}",
        }
        for index, (row, column) in enumerate(zip(tested.rows.tolist(), best, strict=True))
    )
    header = ("path", "onset_s", "offset_s", "group", "labels", "predicted", "score")
    files.write_csv(folder / "predictions.csv", header, rows)
    arrays = {"rows": tested.rows, "logits": tested.logits}
    files.write_bytes(folder / LOGITS, save(arrays, metadata={"classes": json.dumps(tested.classes)}))


def read_tested(folder: Path) -> Tested:
    """What `write_tested` wrote.

    Raises:
      UserError: if the file is missing or damaged.
    """
    path = folder / LOGITS
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in ("rows", "logits")}
            classes = json.loads(file.metadata()["classes"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete {folder / 'score.json'} and resume") from None
    return Tested(arrays["rows"], arrays["logits"], tuple(classes))


def _score(
    tested: Tested, labelled: Manifest, folds: Folds, *, is_multi_label: bool, seed: int
) -> Score | MultiLabelScore:
    if not len(tested.rows):
        raise UsageError(f"{labelled.name}: no row of the test part can be read")
    groups = labelled.columns["group"]
    if is_multi_label:
        part = labelled.select(tested.rows)
        return evaluate_scores(
            tested.logits,
            truth_of(part, tested.classes),
            [groups[row] for row in tested.rows.tolist()],
            classes=tested.classes,
            seed=seed,
            n_resamples=N_RESAMPLES,
        )
    labels = [";".join(names) for names in labels_of(labelled)]
    predicted = list(labels)
    for row, column in zip(tested.rows.tolist(), tested.logits.argmax(1).tolist(), strict=True):
        predicted[row] = tested.classes[column]
    return score_predictions(predicted, labels, groups, folds, seed=seed, n_resamples=N_RESAMPLES)
