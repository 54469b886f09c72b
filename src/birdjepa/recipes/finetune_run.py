"""One fine-tuning run: an exported encoder and labelled rows in, a classifier and its score out.

The run folder holds what every run's does, `model/` (the best by the validation part), `last/` (the last step's), and,
where something is held out for a test, predictions.csv and score.json, which is written last.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from birdjepa.benchmark.evaluate import Score
from birdjepa.benchmark.multilabel import MultiLabelScore
from birdjepa.core import config as configs
from birdjepa.core import failures, files
from birdjepa.core.errors import InputError
from birdjepa.core.failures import Failure
from birdjepa.core.provenance import provenance
from birdjepa.core.telling import tenths
from birdjepa.data.loader import Clips
from birdjepa.data.manifest import Manifest
from birdjepa.models.classifier import Classifier, load_classifier
from birdjepa.models.encoder import Encoder
from birdjepa.models.heads import LinearHead
from birdjepa.models.loading import load, read_provenance, require_spectrogram
from birdjepa.objectives.base import DataSize
from birdjepa.objectives.supervised import Supervised
from birdjepa.optim.groups import describe
from birdjepa.recipes import finetune_score, run_folder
from birdjepa.recipes.card import classifier_card
from birdjepa.recipes.finetune_config import FinetuneConfig
from birdjepa.recipes.finetune_data import Parts, split_parts
from birdjepa.recipes.finetune_score import Validation
from birdjepa.recipes.finetune_start import start_as_probe, unfreeze
from birdjepa.recipes.run_folder import Say
from birdjepa.train.engine import SingleEngine
from birdjepa.train.loop import Trainer, autocast_dtype, pick_device
from birdjepa.train.signals import StopSignal
from birdjepa.train.state import TrainState

SCORE = "score.json"
Refused = dict[str, Failure]


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a finished run left behind."""

    folder: Path
    config: FinetuneConfig
    score: Score | MultiLabelScore | None
    """Of the test part, or of all folds; None where nothing was held out."""
    described: dict[str, Any]
    """What score.json holds."""
    refused: Refused


def origin(config: FinetuneConfig, labelled: Manifest) -> dict[str, Any]:
    """What the run's numbers depend on besides its configuration; sets the threads that it is to have."""
    found = run_folder.origin(config.train.threads, [labelled])
    folds = labelled.columns[config.folds] if config.folds else []
    found["data"]["folds and groups"] = configs.fingerprint([folds, labelled.columns["group"]])
    found["data"][str(config.encoder)] = files.sha256(config.encoder / "model.safetensors")
    return found


def open_run(config: FinetuneConfig, parts: Parts) -> tuple[Clips, Supervised]:
    """What a run learns from and by, with the weights that it starts from."""
    encoder = _encoder(config)
    clips = _clips(config, parts, encoder.sampling_rate)
    size = DataSize(clips.n_recordings, len(clips.classes))
    return clips, config.objective.build(encoder, config.seed, size)


def run(config: FinetuneConfig, labelled: Manifest, folder: Path, signal: StopSignal, say: Say) -> FinetuneResult:
    """One run from wherever it stands to its score."""
    run_folder.stop_early(signal, folder, "finetune")
    parts = split_parts(labelled, config)
    device = pick_device(config.train.device)
    clips, objective = open_run(config, parts)
    encoder = unfreeze(objective.encoder, config.blocks)
    state = TrainState(
        objective,
        config.learning,
        config.train,
        n_classes=len(clips.classes),
        seed=config.seed,
        engine=SingleEngine(device),
        keeps_best=True,
    )
    refused: Refused = {each.path: each for each in failures.left_out(labelled.refused)}
    found = run_folder.newest(folder, say)
    if found:
        state.restore(found)
        say(f"going on from step {state.step} of {config.train.steps}")
    else:
        _introduce(config, clips, parts, state, device, say)
        if config.starts_as_probe:
            assert isinstance(objective.head, LinearHead)
            train = labelled.select(parts.train)
            refused |= _refusals(start_as_probe(objective.head, encoder, train, clips.classes, config.seed, say))
    validation = _validation(config, state, labelled.select(parts.validation), clips, say)
    with run_folder.listing_refused(folder, refused):
        try:
            _train(config, clips, state, validation, folder, signal, say)
        finally:
            refused |= state.refused
            refused |= _refusals(validation.refused.values() if validation else ())
    return _finish(config, parts, state, clips, folder, refused, say)


def _clips(config: FinetuneConfig, parts: Parts, sampling_rate: int) -> Clips:
    """Batches of the training part."""
    return Clips(
        [parts.labelled.select(parts.train)],
        [1.0],
        config.loader,
        sampling_rate=sampling_rate,
        batch_size=config.train.micro_batch,
        seed=config.seed,
    )


def _encoder(config: FinetuneConfig) -> Encoder:
    """The encoder to start from, which cuts recordings into clips as long as those that it will learn from."""
    given = require_spectrogram(load(config.encoder), "fine-tuning")
    encoder = config.heard(given.config).build()
    encoder.load_state_dict(given.state_dict())
    return encoder


def _validation(config: FinetuneConfig, state: TrainState, part: Manifest, clips: Clips, say: Say) -> Validation | None:
    if not len(part):
        return None
    return Validation(
        state,
        part,
        clips.classes,
        config.objective,
        every=config.evaluate_every,
        n_steps=config.train.steps,
        patience=config.patience,
        from_start=config.starts_as_probe,
        say=say,
    )


def _train(
    config: FinetuneConfig,
    clips: Clips,
    state: TrainState,
    validation: Validation | None,
    folder: Path,
    signal: StopSignal,
    say: Say,
) -> None:
    trainer = Trainer(
        state,
        config.train,
        config.schedule,
        folder,
        seed=config.seed,
        max_refused=config.loader.max_refused,
        verb="finetune",
    )
    run_folder.train(trainer, clips, config, signal, say, validation)
    if state.step < config.train.steps:
        best = validation.best.step if validation else state.step
        say(f"stopped at step {state.step}: nothing was better than step {best} in {config.patience} looks")


def _finish(
    config: FinetuneConfig, parts: Parts, state: TrainState, clips: Clips, folder: Path, refused: Refused, say: Say
) -> FinetuneResult:
    """Exports the best model and the last, and scores the best on the test part."""
    assert state.best is not None
    judged = state.best.judged
    weights = {name: tensor.detach().clone() for name, tensor in state.objective.state_dict().items()}
    last = _export(config, state, weights, state.step, clips, parts, folder / "last")
    best = folder / "model"
    if judged is None:
        _export(config, state, weights, state.step, clips, parts, best)
    else:
        _export(config, state, state.best.weights, state.best.step, clips, parts, best)
    metric = "cmap" if config.objective.is_multi_label else "accuracy"
    described: dict[str, Any] = {
        "task": "multi-label" if config.objective.is_multi_label else "single-label",
        "data": config.data,
        "data_fingerprint": parts.labelled.fingerprint(),
        "encoder": str(config.encoder),
        "model": str(best),
        "last": str(last),
        "fold_column": config.folds,
        "test": parts.test_name,
        "best_step": state.best.step if judged else state.step,
        "last_step": state.step,
        "validation": {metric: judged.score, "loss": judged.loss} if judged else None,
        "n_train": len(parts.train),
        "n_validation": len(parts.validation),
        "n_test": len(parts.test),
        "provenance": provenance(),
    }
    score = None
    if len(parts.test):
        say(f"testing the model of step {described['best_step']} on {len(parts.test)} rows held out")
        classifier = load_classifier(best, device=pick_device(config.train.device))
        tested, unread = finetune_score.hear_test(classifier, parts, tenths(say, "rows tested"))
        refused |= _refusals(unread)
        run_folder.write_refused(folder, refused)
        multi = config.objective.is_multi_label
        score = finetune_score.score_fold(tested, parts, is_multi_label=multi, seed=config.seed)
        finetune_score.write_tested(tested, parts.labelled, folder, is_multi_label=multi)
        described = {**score.to_json(), **described}
        files.write_json(folder / SCORE, described)
    return FinetuneResult(folder, config, score, described, refused)


def _export(
    config: FinetuneConfig,
    state: TrainState,
    weights: dict[str, torch.Tensor],
    step: int,
    clips: Clips,
    parts: Parts,
    folder: Path,
) -> Path:
    encoder = require_spectrogram(state.objective.encoder, "fine-tuning").config.build()
    multi = config.objective.is_multi_label
    classifier = Classifier(encoder, config.objective.head, clips.classes, is_multi_label=multi)
    classifier.load_state_dict(weights)
    described = {**provenance(), "run_hash": configs.fingerprint(config), "seed": config.seed, "steps": step}
    if converted := read_provenance(config.encoder).get("converted"):
        described["converted"] = converted
    card = classifier_card(config, classifier, len(parts.train), converted)
    return classifier.save(folder, card=card, provenance=described)


def _refusals(unread: Iterable[InputError]) -> Refused:
    return {error.path: Failure(error.path, "decode", error.offset_s, error.reason) for error in unread}


def _introduce(
    config: FinetuneConfig, clips: Clips, parts: Parts, state: TrainState, device: torch.device, say: Say
) -> None:
    """What is about to happen, in a few lines: data, model, groups, fingerprint."""
    test = f", {len(parts.test)} held out for the test ({parts.test_name})" if len(parts.test) else ""
    groups = np.array(parts.labelled.columns["group"])
    say(
        f"data: {len(parts.train)} rows of {len(set(groups[parts.train]))} groups to learn {len(clips.classes)} "
        f"classes from, {len(parts.validation)} to tell when to stop{test}"
    )
    depth = state.objective.encoder.config.n_layers
    learns = "all of it" if config.blocks == -1 else f"{config.blocks} of {depth} blocks"
    say(f"encoder: {config.encoder}, {learns} learns; head: {config.objective.head.form}, loss {config.objective.loss}")
    for line in describe(state.optimiser, config.train.clip_norm, config.train.clip_by):
        say(line)
    epochs = config.train.steps * config.train.batch_size / clips.clips_per_epoch
    bf16 = autocast_dtype(config.train.precision, device)
    say(
        f"run {configs.fingerprint(config)}: {config.train.steps} steps of {config.train.batch_size} clips of "
        f"{config.loader.clip_s:g} s are {epochs:.1f} passes, seed {config.seed}, {device}, "
        f"{'bf16' if bf16 else 'fp32'}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
