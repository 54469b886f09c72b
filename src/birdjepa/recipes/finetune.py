"""The fine-tuning job: one run, or a run for each fold and one score over all of them; resumable as pretraining is.

A fold's run is a run like any other, in a folder of its own: it can be resumed and used by itself. A finished one is
not repeated.
"""

import dataclasses
import re
from pathlib import Path

from birdjepa.core import files
from birdjepa.core.errors import Interrupted, UsageError
from birdjepa.core.provenance import provenance
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import pinned
from birdjepa.recipes import finetune_score, run_folder
from birdjepa.recipes.finetune_config import FinetuneConfig
from birdjepa.recipes.finetune_data import folds_to_cross, labelled_data, split_parts
from birdjepa.recipes.finetune_run import SCORE, FinetuneResult, Refused, origin, run
from birdjepa.recipes.run_folder import Say
from birdjepa.train.signals import StopSignal
from birdjepa.train.sinks import require_extras


def start(config: FinetuneConfig, say: Say) -> FinetuneResult:
    """A new run in config.out, or one run for each fold in folders below it.

    Raises:
      UsageError: if the folder holds something already, or the parts of the configuration do not fit.
      Interrupted, UserError: as `Trainer.run`.
    """
    config.check()
    require_extras(config.train.sinks)
    run_folder.require_free(config.out, config)
    config = dataclasses.replace(config, data=pinned(config.data))
    labelled = labelled_data(config)
    names = folds_to_cross(labelled, config)
    fold_folders(names)
    for name in names or (config.test,):
        split_parts(labelled, dataclasses.replace(config, test=name))  # refused before anything is made
    with run_folder.only_one(config.out), StopSignal() as signal:
        run_folder.require_free(config.out, config)
        run_folder.begin(config.out, config, origin(config, labelled))
        return _go_on(config, labelled, config.out, signal, say)


def resume(folder: Path, say: Say) -> FinetuneResult:
    """Goes on with a run, or with the folds of one that are not finished.

    Raises:
      UsageError: if there is no run, or the data or the encoder has changed since it began.
      Interrupted, UserError: as `Trainer.run`.
    """
    config = run_folder.read_config(FinetuneConfig, folder)
    with run_folder.only_one(folder), StopSignal() as signal:
        labelled = labelled_data(config)
        run_folder.compare_origin(folder, origin(config, labelled), say)
        return _go_on(config, labelled, folder, signal, say)


def _go_on(config: FinetuneConfig, labelled: Manifest, folder: Path, signal: StopSignal, say: Say) -> FinetuneResult:
    names = folds_to_cross(labelled, config)
    if names:
        return cross_validate(config, labelled, names, folder, signal, say)
    return run(config, labelled, folder, signal, say)


def cross_validate(
    config: FinetuneConfig, labelled: Manifest, names: tuple[str, ...], folder: Path, signal: StopSignal, say: Say
) -> FinetuneResult:
    """Runs the folds that are not finished, and pools what all of them were tested on.

    Raises:
      Interrupted: a stop was asked for; the fold in hand is saved.
    """
    folders = fold_folders(names)
    refused: Refused = {}
    tested = []
    for name in names:
        own = folder / folders[name]
        if not (own / SCORE).is_file():
            say(f"fold {name}: {len(tested) + 1} of {len(names)}")
            _run_fold(config, labelled, name, own, folder, signal, say)
        refused |= run_folder.read_refused(own)
        tested.append(finetune_score.read_tested(own))
    run_folder.write_refused(folder, refused)
    multi = config.objective.is_multi_label
    score = finetune_score.score_crossed(tested, labelled, config.folds, is_multi_label=multi, seed=config.seed)
    described = {
        **score.to_json(),
        "task": "multi-label" if multi else "single-label",
        "data": config.data,
        "data_fingerprint": labelled.fingerprint(),
        "encoder": str(config.encoder),
        "fold_column": config.folds,
        "runs": {name: str(folder / folders[name]) for name in names},
        "provenance": provenance(),
    }
    files.write_json(folder / SCORE, described)
    return FinetuneResult(folder, config, score, described, refused)


def fold_folders(names: tuple[str, ...]) -> dict[str, str]:
    """A folder's name for each fold.

    Raises:
      UsageError: if two folds would share one.
    """
    folders = {name: re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "_" for name in names}
    if len(set(folders.values())) < len(names):
        raise UsageError(f"the folds {', '.join(names)} differ in characters that a folder's name cannot have")
    return folders


def _run_fold(
    config: FinetuneConfig, labelled: Manifest, name: str, own: Path, folder: Path, signal: StopSignal, say: Say
) -> None:
    fold_config = dataclasses.replace(config, test=name, out=own)
    with run_folder.only_one(own):
        found = origin(config, labelled)
        if (own / "config.json").is_file():
            fold_config = run_folder.read_config(FinetuneConfig, own)
            run_folder.compare_origin(own, found, say)
        else:
            run_folder.begin(own, fold_config, found)
        try:
            run(fold_config, labelled, own, signal, say)
        except Interrupted:
            raise Interrupted(
                f"stopped in fold {name}, saved; go on with: birdjepa finetune --resume {folder}"
            ) from None
