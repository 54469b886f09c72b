"""Fine-tuning: what learns, how it begins, when it stops, what it leaves, and that a resumed run is the same."""

import csv
import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from test_resume import StopAfter
from tiny_run import final_state, metrics, tiny_finetune, write_encoder, write_folds

import birdjepa
from birdjepa.benchmark import logistic
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.checkpoint import store
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.data.manifest import ColumnConfig
from birdjepa.embed.embedders import Logits, Pooled
from birdjepa.embed.rows import embed_rows
from birdjepa.models.heads import HeadConfig
from birdjepa.models.loading import load
from birdjepa.objectives.base import DataSize
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.optim.groups import AdamWConfig, parameter_table
from birdjepa.recipes import finetune, finetune_score
from birdjepa.recipes.finetune_data import carve, labelled_data, split_parts
from birdjepa.recipes.finetune_start import start_as_probe, unfreeze
from birdjepa.recipes.probe import ProbeConfig, probe
from birdjepa.train.best import Best, Judged
from birdjepa.train.config import TrainConfig

BINARY = SupervisedConfig(loss="binary")


def silent(_):
    pass


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_folds(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "encoder")


@pytest.fixture(scope="module")
def make(encoder, songs):
    return functools.partial(tiny_finetune, encoder, songs)


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """A finished run with fold a held out."""
    config = make(tmp_path_factory.mktemp("whole") / "run", folds="fold", test="a")
    return finetune.start(config, silent)


def test_a_run_leaves_models_scores_and_predictions(whole):
    run = whole.folder
    names = {path.name for path in run.iterdir()} - {".lock"}
    written = {"model", "last", "predictions.csv", "test.safetensors", "score.json"}
    assert names == {"config.json", "provenance.json", "metrics.jsonl", "checkpoints", *written}
    rows = metrics(run)
    assert [row["step"] for row in rows if "val_accuracy" in row] == [0, 2, 4, 6]
    assert all("val_loss" in row for row in rows if "val_accuracy" in row)
    described = json.loads((run / "score.json").read_text())
    assert described["accuracy"]["value"] == whole.score.accuracy.value
    assert (described["n_test"], described["n_train"] + described["n_validation"]) == (6, 6)
    assert described["last_step"] == 6
    with (run / "predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    assert [row["path"] for row in predictions] == ["000.wav", "001.wav", "004.wav", "005.wav", "008.wav", "009.wav"]
    hits = np.mean([row["labels"] == row["predicted"] for row in predictions])
    assert hits == pytest.approx(whole.score.accuracy.value)


def test_models_load_as_classifiers_and_encoders(whole):
    classifier = birdjepa.load_classifier(whole.folder / "model")
    assert classifier.classes == ("high", "low")
    assert classifier.encoder.config.clips.clip_s == 0.9  # as it was trained, not as the encoder was
    described = json.loads((whole.folder / "model" / "head.json").read_text())
    assert described["provenance"]["steps"] == whole.described["best_step"]
    found = store.latest(whole.folder / "checkpoints", warn=print)
    assert found is not None
    last = birdjepa.load_classifier(whole.folder / "last").state_dict()
    assert all(torch.equal(last[name], found.tensors[f"objective.{name}"]) for name in last)
    best = classifier.state_dict()
    assert all(torch.equal(best[name], found.tensors[f"best.{name}"]) for name in best)
    assert max(map(len, (whole.folder / "model" / "README.md").read_text().splitlines())) <= 130


def trained(config):
    """Names of the parameters that six steps changed, without the prefix of the objective."""
    before = load(config.encoder).state_dict()
    finetune.start(config, silent)
    after = birdjepa.load_classifier(config.out / "last").encoder.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(("blocks", "learns"), [(0, ()), (1, ("vit.blocks.1.", "vit.norm.")), (-1, ("vit.",))])
def test_what_learns_is_what_was_asked_for(make, encoder, tmp_path, blocks, learns):
    every = set(load(encoder).state_dict())
    wanted = {name for name in every if name.startswith(learns)} if learns else set()
    assert trained(make(tmp_path / "run", blocks=blocks, start="random")) == wanted


def test_too_many_blocks_are_refused(make, tmp_path):
    with pytest.raises(UsageError, match=r"--blocks 3: the encoder has 2; -1 lets all of it learn"):
        finetune.start(make(tmp_path / "run", blocks=3), silent)


def test_rates_fall_from_block_to_block(make, encoder, tmp_path):
    config = make(tmp_path / "run")
    held = unfreeze(load(encoder), -1)
    objective = config.objective.build(held, 0, DataSize(6, 2))
    rates = {row.name: row.rate for row in parameter_table(objective, config.optim.layer_decay, 2.0)}
    assert config.optim.layer_decay == 0.75
    assert rates["head.linear.weight"] == 2.0
    assert rates["encoder.vit.norm.weight"] == 1.0
    assert rates["encoder.vit.blocks.1.norm1.weight"] == 0.75
    assert rates["encoder.vit.blocks.0.norm1.weight"] == pytest.approx(0.75**2)
    assert rates["encoder.vit.embed.weight"] == pytest.approx(0.75**3)


def test_the_head_starts_as_the_probe(make, encoder, songs, tmp_path):
    config = make(tmp_path / "run", folds="fold", test="a")
    parts = split_parts(labelled_data(config), config)
    train, test = (parts.labelled.select(rows) for rows in (parts.train, parts.test))
    frozen = load(encoder)
    objective = config.objective.build(frozen, 0, DataSize(len(train), 2))
    assert start_as_probe(objective.head, frozen, train, ["high", "low"], config.seed, silent) == []
    logits = embed_rows([Logits(frozen, objective.head)], test).tables[0]
    both = parts.labelled.select(np.concatenate((parts.train, parts.test)))
    embeddings = embed_rows([Pooled(frozen, frozen.config.pooling)], both).tables[0]
    y = np.array([["high", "low"].index(name) for name in both.columns["label"]])
    n = len(train)
    _, group = np.unique(both.columns["group"], return_inverse=True)
    part = (np.arange(n), np.arange(n, len(both)))
    [fit] = logistic.predict_folds(embeddings, y, group, [part], LinearProbe(), seed=config.seed)
    assert logits.argmax(1).tolist() == fit.predicted.tolist()
    assert np.abs(logits).max() > 0.01


@pytest.mark.parametrize("form", ["pooled", "attentive"])
def test_step_0_is_judged_where_the_head_begins_as_a_probe(make, tmp_path, form):
    head = HeadConfig(form=form)
    config = make(tmp_path / "run", folds="fold", test="a", objective=SupervisedConfig(head=head), steps=2)
    said = []
    finetune.start(config, said.append)
    judged = [row["step"] for row in metrics(config.out) if "val_loss" in row]
    assert judged == ([0, 2] if form == "pooled" else [2])
    assert any("starts as a probe" in line for line in said) == (form == "pooled")


def test_masking_is_off_when_judged(whole, songs):
    """Logits of a clip do not depend on chance: neither on masks, nor on stochastic depth, nor on augmentation."""
    classifier = birdjepa.load_classifier(whole.folder / "model").train()
    assert whole.config.objective.masking.share == 0.1
    clips = torch.randn(2, 7_200)
    assert torch.equal(classifier(clips), classifier(clips))


class Scripted:
    """Judges by a list instead of recordings."""

    def __init__(self, monkeypatch, scores):
        scores = iter(scores)
        monkeypatch.setattr(finetune_score.Validation, "look", lambda _: Judged(*next(scores)))


def test_the_best_is_kept_and_the_run_ends_when_nothing_gets_better(make, tmp_path, monkeypatch):
    Scripted(monkeypatch, [(0.5, 1.0), (0.7, 1.0), (0.7, 1.0), (0.6, 0.1), (0.9, 0.0)])
    said = []
    config = make(tmp_path / "run", folds="fold", test="a", patience=2, steps=20)
    result = finetune.start(config, said.append)
    assert (result.described["best_step"], result.described["last_step"]) == (2, 6)
    assert any("stopped at step 6: nothing was better than step 2 in 2 looks" in line for line in said)
    found = store.latest(config.out / "checkpoints", warn=print)
    assert found is not None
    assert found.meta["best"] == {"step": 2, "judged": [0.7, 1.0], "n_worse": 2}
    best, last = (birdjepa.load_classifier(config.out / name).state_dict() for name in ("model", "last"))
    assert any(not torch.equal(best[name], last[name]) for name in best)
    monkeypatch.undo()
    again = finetune.resume(config.out, silent)  # over is over
    assert again.described["last_step"] == 6


def test_of_equal_scores_the_lower_loss_is_better():
    weights = {"w": torch.zeros(2)}
    best = Best(weights)
    offers = [(0.5, 1.0, True), (0.5, 1.0, False), (0.5, 0.9, True), (0.4, 0.1, False), (0.6, 5.0, True)]
    for step, (score, loss, taken) in enumerate(offers):
        assert best.offer({"w": torch.full((2,), float(step))}, step, Judged(score, loss)) == taken
    assert best.weights["w"].tolist() == [4.0, 4.0]
    assert weights["w"].tolist() == [0.0, 0.0]
    other = Best(weights)
    other.restore(json.loads(json.dumps(best.meta())))
    assert other.meta() == best.meta()


def train_in_pieces(config, monkeypatch, stops):
    for number, n_steps in enumerate((*stops, 10**9)):
        monkeypatch.setattr(finetune, "StopSignal", functools.partial(StopAfter, n_steps))
        going = functools.partial(finetune.resume, config.out) if number else functools.partial(finetune.start, config)
        if n_steps == 10**9:
            return going(silent)
        with pytest.raises(Interrupted, match="go on with: birdjepa finetune --resume"):
            going(silent)
    return None


def differences(one, other):
    """What differs between two finished runs."""
    found = [] if final_state(one) == final_state(other) else ["state"]
    found += [] if metrics(one) == metrics(other) else ["metrics"]
    for name in ("model/model.safetensors", "model/head.safetensors", "last/head.safetensors", "test.safetensors"):
        found += [] if (one / name).read_bytes() == (other / name).read_bytes() else [name]
    return found + ([] if (one / "predictions.csv").read_text() == (other / "predictions.csv").read_text() else ["csv"])


@pytest.mark.parametrize("stops", [(0,), (3,), (1, 1, 2)])
def test_a_stopped_run_ends_like_the_uninterrupted_one(make, whole, tmp_path, monkeypatch, stops):
    config = make(tmp_path / "run", folds="fold", test="a")
    train_in_pieces(config, monkeypatch, stops)
    assert differences(whole.folder, config.out) == []


def test_a_stop_does_not_reset_patience(make, tmp_path, monkeypatch):
    scores = [(0.9, 1.0), (0.8, 1.0), (0.7, 1.0), (0.6, 1.0), (0.5, 1.0)]
    one, other = (make(tmp_path / name, folds="fold", test="a", patience=3, steps=20) for name in ("one", "other"))
    Scripted(monkeypatch, scores)
    finetune.start(one, silent)
    Scripted(monkeypatch, scores)
    train_in_pieces(other, monkeypatch, (3, 2))
    assert differences(one.out, other.out) == []
    assert store.latest(other.out / "checkpoints", warn=print).step == 6


def test_forgetting_the_best_shows(make, tmp_path, monkeypatch):
    """A negative control: a restore that leaves out the best turns the comparison red."""
    scores = [(0.9, 1.0), (0.8, 1.0), (0.7, 1.0), (0.6, 1.0)]
    one, other = (make(tmp_path / name, folds="fold", test="a") for name in ("one", "other"))
    Scripted(monkeypatch, scores)
    finetune.start(one, silent)
    Scripted(monkeypatch, scores)
    monkeypatch.setattr(Best, "restore", lambda self, meta: None)
    train_in_pieces(other, monkeypatch, (3,))
    assert {"state", "model/head.safetensors"} <= set(differences(one.out, other.out))


def test_a_changed_encoder_or_fold_is_refused_on_resume(songs, tmp_path):
    encoder = write_encoder(tmp_path / "encoder")
    manifest = write_folds(tmp_path / "songs", 8)
    config = tiny_finetune(encoder, manifest, tmp_path / "run", folds="fold", test="a", steps=2)
    finetune.start(config, silent)
    text = manifest.read_text()
    manifest.write_text(text.replace("001.wav,high,a", "001.wav,high,b"))
    with pytest.raises(UsageError, match="data has changed since the run began: folds and groups"):
        finetune.resume(config.out, silent)
    manifest.write_text(text)
    weights = bytearray((encoder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (encoder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UsageError, match=r"data has changed since the run began: .*encoder: "):
        finetune.resume(config.out, silent)


def test_crossed_folds_pool_to_the_probes_examples(make, encoder, songs, tmp_path, monkeypatch):
    config = make(tmp_path / "run", folds="fold", steps=3)
    monkeypatch.setattr(finetune, "StopSignal", functools.partial(StopAfter, 4))
    with pytest.raises(Interrupted, match=r"stopped in fold b, saved; go on with: birdjepa finetune --resume .*/run$"):
        finetune.start(config, silent)
    made = (config.out / "a" / "score.json").stat().st_mtime_ns
    monkeypatch.setattr(finetune, "StopSignal", functools.partial(StopAfter, 10**9))
    said = []
    result = finetune.resume(config.out, said.append)
    assert (config.out / "a" / "score.json").stat().st_mtime_ns == made
    assert any("going on from step 1" in line for line in said)
    probed = probe(encoder, ProbeConfig(data=str(songs), folds="fold"), silent).score
    assert np.array_equal(result.score.rows, probed.rows)
    assert (result.score.groups, result.score.classes) == (probed.groups, probed.classes)
    assert np.array_equal(result.score.truth, probed.truth)
    assert [fold.name for fold in result.score.folds] == ["a", "b"]
    folds = [json.loads((config.out / name / "score.json").read_text())["accuracy"]["value"] for name in "ab"]
    assert result.score.accuracy.value == pytest.approx(np.mean(folds))
    assert json.loads((config.out / "score.json").read_text())["runs"].keys() == {"a", "b"}


def test_a_split_column_gives_its_own_validation(make, tmp_path):
    config = make(tmp_path / "run", folds="split")
    parts = split_parts(labelled_data(config), config)
    split = parts.labelled.columns["split"]
    named = {name: {split[row] for row in getattr(parts, name)} for name in ("train", "validation", "test")}
    assert named == {"train": {"train"}, "validation": {"val"}, "test": {"test"}}
    everything = dataclasses.replace(config, validation=0.0)
    assert len(split_parts(labelled_data(everything), everything).validation) == 0
    with pytest.raises(UsageError, match="'split' holds train and test: leave out --test val"):
        split_parts(parts.labelled, dataclasses.replace(config, test="val"))


def test_a_run_without_a_test_part_keeps_its_best(make, tmp_path):
    result = finetune.start(make(tmp_path / "run", steps=2), silent)
    assert result.score is None
    assert not (tmp_path / "run" / "score.json").exists()
    assert result.described["n_train"] + result.described["n_validation"] == 12
    assert birdjepa.load_classifier(tmp_path / "run" / "model").classes == ("high", "low")


def test_without_validation_the_last_step_is_the_model(make, tmp_path):
    result = finetune.start(make(tmp_path / "run", validation=0.0, steps=3), silent)
    assert result.described["best_step"] == 3
    one, other = ((tmp_path / "run" / name / "model.safetensors").read_bytes() for name in ("model", "last"))
    assert one == other
    assert not any("val_loss" in row for row in metrics(tmp_path / "run"))


def test_several_labels_a_recording(make, tmp_path):
    config = make(tmp_path / "run", folds="fold", steps=3, columns=ColumnConfig(), objective=BINARY)
    result = finetune.start(config, silent)
    assert result.described["task"] == "multi-label"
    assert 0 < result.score.cmap.value <= 1
    assert result.score.n_examples == 12
    assert any("val_cmap" in row for row in metrics(config.out / "a"))
    assert birdjepa.load_classifier(config.out / "a" / "model").is_multi_label


def test_carved_groups_are_whole_and_no_class_is_lost():
    labels = [[name] for name in "aaaabbbbc"]
    groups = list("112233445")
    for seed in range(5):
        held = carve(labels, groups, 0.3, seed)
        assert 0 < held.sum() < 6
        assert not {groups[i] for i in np.flatnonzero(held)} & {groups[i] for i in np.flatnonzero(~held)}
        assert {"a", "b", "c"} == {labels[i][0] for i in np.flatnonzero(~held)}
    assert np.array_equal(carve(labels, groups, 0.3, 1), carve(labels, groups, 0.3, 1))
    with pytest.raises(UsageError, match="set --validation 0"):
        carve([["a"], ["b"]], ["1", "2"], 0.3, 0)


def test_damaged_recordings_are_listed_wherever_they_are(encoder, tmp_path):
    manifest = write_folds(tmp_path / "songs", 12, damaged=4)
    config = tiny_finetune(encoder, manifest, tmp_path / "run", folds="fold", validation=0.5)
    config = dataclasses.replace(config, loader=dataclasses.replace(config.loader, max_refused=0.5))
    result = finetune.start(config, silent)
    assert len(result.refused) == 4
    assert result.score.n_examples == 12
    with (tmp_path / "run" / "failures.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": ""}, "--data is missing"),
        ({"test": "a"}, "--test a needs --folds COLUMN"),
        ({"folds": "fold", "test": "z"}, "--test z: no such fold in column 'fold'; it has a, b"),
        ({"folds": "absent"}, "no column 'absent'"),
        ({"train": TrainConfig(ema_decay=0.9)}, "train.ema_decay averages the encoder and not its head"),
        ({"start": "probe", "objective": SupervisedConfig(head=HeadConfig(form="attentive"))}, "set --start auto"),
        ({"start": "probe", "objective": BINARY}, "start=probe is for single labels"),
        ({"columns": ColumnConfig()}, "001.wav has 2 labels: set --objective.loss binary"),
    ],
)
def test_what_does_not_fit_is_refused(make, tmp_path, changes, told):
    with pytest.raises(UserError, match=told) as error:
        finetune.start(dataclasses.replace(make(tmp_path / "run"), **changes), silent)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_limits_are_checked():
    for changes in ({"blocks": -2}, {"evaluate_every": 0}, {"patience": -1}, {"validation": 0.6}):
        with pytest.raises(ValueError, match=next(iter(changes))):
            finetune.FinetuneConfig(**changes)
    assert AdamWConfig().layer_decay == 1.0
