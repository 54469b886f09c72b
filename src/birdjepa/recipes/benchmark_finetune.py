"""Full fine-tuning as a classifier of the benchmark: the encoder learns too, so nothing of it can be kept as features.

Each part is a fine-tuning run of its own in the cache, which `birdjepa finetune` could resume; the test examples are
then heard by the best model. Only encoders of ours (foreign weights that were converted included) can learn.

Axes: m test examples | c classes
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from birdjepa.benchmark.classifiers.base import Rows
from birdjepa.benchmark.features import ExtractConfig, read_ahead
from birdjepa.benchmark.tasks import Examples, Task
from birdjepa.core import files
from birdjepa.core.failures import Failure
from birdjepa.core.provenance import provenance
from birdjepa.models.classifier import Classifier, load_classifier
from birdjepa.models.encoder import Encoder
from birdjepa.models.heads import HeadConfig
from birdjepa.recipes import finetune
from birdjepa.recipes.finetune_config import FinetuneConfig, for_encoder

Say = Callable[[str], None]
LOWEST = -1e4
"""Logit of a class that no training example has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetunedConfig:
    """The fine-tuning recipe (`birdjepa finetune`), as far as the benchmark varies it."""

    steps: int = 200
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    loss: Literal["auto", "binary", "asymmetric"] = "auto"
    """auto: cross-entropy for single labels, binary cross-entropy for several."""
    head: HeadConfig = HeadConfig()

    needs_tokens = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError(f"need steps, batch_size and lr > 0, got {self.steps}, {self.batch_size}, {self.lr}")


class Said(NamedTuple):
    """What a fine-tuned classifier says of test examples."""

    logits: Float[np.ndarray, "m c"]
    heard: Bool[np.ndarray, " m"]
    """False for those that could not be read."""
    refused: tuple[Failure, ...]


def finetuned(
    config: FinetunedConfig,
    encoder: Encoder,
    examples: Examples,
    task: Task,
    rows: Rows,
    folder: Path,
    *,
    seed: int,
    device: str,
    extract: ExtractConfig,
    say: Say,
) -> Said:
    """What the encoder says of the test rows once it has learnt from the others.

    Raises:
      Interrupted, UserError: as `birdjepa finetune`.
    """
    run = folder / "run"
    if (run / "config.json").is_file():
        finetune.resume(run, say)
    else:
        _write(examples, rows, folder / "train.csv")
        encoder.save(folder / "encoder", card="", provenance=provenance())
        finetune.start(_config(config, task, examples, folder, bool(len(rows.validation)), seed, device), say)
    model = load_classifier(run / "model", device=device)
    return _logits(model, examples, rows.test, extract)


def _config(
    config: FinetunedConfig, task: Task, examples: Examples, folder: Path, validated: bool, seed: int, device: str
) -> FinetuneConfig:
    usual = for_encoder(folder / "encoder")
    loss = {"single-label": "softmax", "multi-label": "binary"}[task.kind] if config.loss == "auto" else config.loss
    longest = np.nanmax(np.append(examples.length_s, 0.0))
    clip_s = min(usual.loader.clip_s, float(longest)) if longest > 0 else usual.loader.clip_s
    return dataclasses.replace(
        usual,
        data=str(folder / "train.csv"),
        out=folder / "run",
        seed=seed,
        folds="split" if validated else "",
        validation=usual.validation if validated else 0.0,
        loader=dataclasses.replace(usual.loader, clip_s=clip_s),
        objective=dataclasses.replace(usual.objective, loss=loss, head=config.head),
        optim=dataclasses.replace(
            usual.optim, lr=config.lr, weight_decay=config.weight_decay, layer_decay=config.layer_decay
        ),
        train=dataclasses.replace(usual.train, steps=config.steps, batch_size=config.batch_size, device=device),
    )


def _write(examples: Examples, learnt: Rows, path: Path) -> None:
    """A manifest of what is learnt from."""
    rows = []
    for split, indices in (("train", learnt.train), ("val", learnt.validation)):
        for index in indices.tolist():
            onset, length = float(examples.onset_s[index]), float(examples.length_s[index])
            recording = examples.manifest.path(int(examples.row[index])).resolve()
            names = [examples.classes[column] for column in np.flatnonzero(examples.truth[index])]
            rows.append(
                {
                    "path": str(recording),
                    "onset_s": f"{onset:.6f}",
                    "offset_s": "" if np.isnan(length) else f"{onset + length:.6f}",
                    "label": names[0] if len(names) == 1 else "",
                    "labels": ";".join(names),
                    "split": split,
                    "group": examples.groups[index],
                }
            )
    files.write_csv(path, tuple(rows[0]), rows)


@torch.inference_mode()
def _logits(model: Classifier, examples: Examples, test: Int[np.ndarray, " m"], extract: ExtractConfig) -> Said:
    """Mean logits over the clips of each test example, in the task's classes."""
    columns = [examples.classes.index(name) for name in model.classes]
    logits = np.full((len(test), len(examples.classes)), LOWEST, dtype=np.float32)
    heard = np.zeros(len(test), dtype=bool)
    refused: list[Failure] = []
    for places, waves, errors in read_ahead(model.encoder.sampling_rate, examples, extract, test):
        for place, wave in zip(places, waves, strict=True):
            clips = model.encoder.cut(wave, sampling_rate=model.encoder.sampling_rate).samples
            found: list[Tensor] = [model(torch.from_numpy(clip)[None].to(model.encoder.device)) for clip in clips]
            logits[place, columns] = torch.cat(found).mean(0).cpu().numpy()
            heard[place] = True
        refused += [Failure(error.path, "decode", error.offset_s, error.reason) for _, error in errors]
    return Said(logits, heard, tuple(refused))
