"""How a fine-tuning run begins: which parameters learn, and a head that starts as a fitted probe.

A head at random weights sends noise back into the encoder for its first steps and spoils what it knew; one that starts
as the probe on its frozen embeddings does not.

Source: Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022 (LP-FT).
Axes: n training rows | e embedding | c classes
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.benchmark import logistic
from birdjepa.benchmark.logistic import LinearProbe, Problem
from birdjepa.core.errors import InputError, UsageError
from birdjepa.core.telling import tenths
from birdjepa.data.loader import labels_of
from birdjepa.data.manifest import Manifest
from birdjepa.embed.embedders import Pooled
from birdjepa.embed.rows import embed_rows
from birdjepa.models.encoder import Encoder
from birdjepa.models.heads import LinearHead
from birdjepa.recipes.run_folder import Say

CONSTANT = 1e12
"""Stands for the infinite std of a dimension that was constant in training: a checkpoint holds finite numbers only."""


def unfreeze(encoder: Encoder, blocks: int) -> Encoder:
    """Lets the last blocks and the norm behind them learn; all of the encoder for -1, nothing for 0."""
    vit = encoder.vit
    encoder.requires_grad_(blocks == -1)
    if blocks > 0:
        norms = (vit.norm, vit.fc_norm) if vit.config.fc_norm else (vit.norm,)
        for part in (*vit.blocks[-blocks:], *norms):
            part.requires_grad_(True)
    return encoder


def start_as_probe(
    head: LinearHead, encoder: Encoder, train: Manifest, classes: Sequence[str], seed: int, say: Say
) -> list[InputError]:
    """Sets the head to the logistic regression on the frozen encoder's embeddings of single-label training rows, as
    strong as cross-validation over groups finds best. Returns why rows could not be read.

    Raises:
      UsageError: if no two classes can be read.
    """
    say(f"the head starts as a probe: embedding {len(train)} rows to learn from")
    embedded = embed_rows([Pooled(encoder, head.pooling)], train, progress=tenths(say, "rows embedded"))
    kept = train.select(embedded.rows)
    y = np.array([classes.index(names[0]) for names in labels_of(kept)], dtype=np.int64)
    if len(set(y.tolist())) < 2:
        raise UsageError(f"{train.name}: fewer than two classes of the training part can be read")
    mean, std, weights, bias = fit_probe(embedded.tables[0], y, kept.columns["group"], len(classes), seed)
    head.fit(mean, std).take_over(weights, bias)
    return [error for _, error in embedded.refused]


def fit_probe(
    embeddings: Float[np.ndarray, "n e"], y: np.ndarray, groups: Sequence[str], n_classes: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and std of the embeddings, and the probe's weights (e, c) and bias (c) on what they standardise."""
    _, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    every = np.arange(len(y))
    [chosen] = logistic.predict_folds(embeddings, y, group, [(every, every)], LinearProbe(), seed=seed)
    problem = Problem(torch.as_tensor(every), (chosen.strength,))
    x = torch.tensor(embeddings, dtype=torch.float64)
    [models] = logistic.fit(
        x, torch.as_tensor(y), [problem], n_classes=n_classes, balanced=False, tolerance=logistic.TOLERANCE
    )
    scale, bias = models.standardiser.scale, models.bias[0]
    std = torch.where(scale > 0, 1 / scale, CONSTANT)
    # No training would bring back a class whose recordings could not be read, and label smoothing would punish it.
    absent = bias <= logistic.ABSENT / 2
    bias = torch.where(absent, bias[~absent].min(), bias)
    return models.standardiser.mean.float(), std.float(), models.weights[0].float(), bias.float()
