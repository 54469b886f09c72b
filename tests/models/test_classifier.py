"""A classifier's folder: what is written comes back, and what was tampered with is told in one line."""

import json
import shutil

import numpy as np
import pytest
import torch

import birdjepa
from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.errors import UsageError
from birdjepa.models.classifier import Classifier, load_classifier
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.heads import HeadConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig

ENCODER = EncoderConfig(
    front_end=LogMelConfig(sampling_rate=8_000, window=256, hop=80, n_mels=32, f_min=0.0, f_max=4_000.0),
    patch=PatchConfig(frames=8, mels=16),
    vit=VitConfig(size="16x1x2"),
    clips=ClipConfig(clip_s=1.0, hop_s=1.0),
    pooling="rows+std",
)
CLASSES = ("wren", 'a "b", c', "=1+1")


POOLED = HeadConfig()


def make(head=POOLED, *, is_multi_label=False):
    classifier = Classifier(ENCODER.build().initialise(0), head, CLASSES, is_multi_label=is_multi_label)
    classifier.head.initialise(torch.Generator().manual_seed(1))
    return classifier.requires_grad_(False)


def noise(seconds=2.4, rate=8_000):
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("form", ["pooled", "mean", "attentive", "prototypical"])
def test_a_classifier_comes_back_as_it_was(tmp_path, form, multi):
    classifier = make(HeadConfig(form=form), is_multi_label=multi)
    folder = classifier.save(tmp_path / "model", card="# card", provenance={"steps": 3})
    found = birdjepa.load_classifier(folder)
    assert (found.classes, found.is_multi_label, found.head_config) == (CLASSES, multi, HeadConfig(form=form))
    assert not any(parameter.requires_grad for parameter in found.parameters())
    before, after = (each.predict(noise(), sampling_rate=8_000) for each in (classifier, found))
    assert torch.equal(before.probability, after.probability)
    assert birdjepa.load(folder).config == ENCODER
    assert json.loads((folder / "head.json").read_text())["provenance"] == {"steps": 3}


def test_a_prediction_has_a_row_per_clip_and_a_column_per_class():
    out = make().predict(noise(2.4, 16_000), sampling_rate=16_000)
    assert out.probability.shape == (3, 3)
    assert out.classes == CLASSES
    assert out.end_s.tolist() == [1.0, 2.0, 2.4]
    torch.testing.assert_close(out.probability.sum(1), torch.ones(3))
    both = make(is_multi_label=True).predict(noise(), sampling_rate=8_000).probability
    assert bool(((both > 0) & (both < 1)).all())
    assert not torch.allclose(both.sum(1), torch.ones(3))


def test_probabilities_are_the_softmax_or_the_sigmoid_of_the_logits():
    clip = noise(1.0)
    single, multi = make(), make(is_multi_label=True)
    logits = single(torch.from_numpy(clip)[None])
    torch.testing.assert_close(single.predict(clip, sampling_rate=8_000).probability, logits.softmax(1))
    torch.testing.assert_close(multi.predict(clip, sampling_rate=8_000).probability, logits.sigmoid())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="2 classes have 1 names"):
        Classifier(ENCODER.build(), HeadConfig(), ("a", "a"), is_multi_label=False)
    with pytest.raises(ValueError, match="at least 1 class"):
        Classifier(ENCODER.build(), HeadConfig(), (), is_multi_label=False)
    with pytest.raises(ValueError, match="batch_size must be positive"):
        make().predict(noise(), sampling_rate=8_000, batch_size=0)
    with pytest.raises(ValueError, match="sampling_rate must be positive"):
        make().predict(noise(), sampling_rate=0)


def edit(**changes):
    def change(folder):
        path = folder / "head.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


FAULTS = {
    "no head": (lambda folder: (folder / "head.json").unlink(), r"head.json: missing; give the folder of a fine-tuned"),
    "no JSON": (lambda folder: (folder / "head.json").write_text("{"), "head.json: not valid JSON"),
    "another format": (edit(format=9), "not a birdjepa head of format 1"),
    "another model": (edit(model_type="x"), "not a birdjepa head"),
    "no classes": (edit(classes=[]), "classes must be a list of names"),
    "too few classes": (edit(classes=["a", "b"]), "head.safetensors: .*size mismatch"),
    "class twice": (edit(classes=["a", "a", "b"]), "3 classes have 2 names"),
    "no activation": (edit(activation="relu"), "activation must be softmax or sigmoid, got 'relu'"),
    "no weights": (
        lambda folder: (folder / "head.safetensors").unlink(),
        "head.safetensors: missing, or does not match",
    ),
    "other weights": (lambda folder: (folder / "head.safetensors").write_bytes(b"x"), "does not match the hash"),
    "unknown setting": (edit(config={"kind": "HeadConfig", "fom": "mean"}), "has no setting 'fom'; did you mean"),
    "no encoder": (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, fault):
    damage, told = FAULTS[fault]
    folder = make().save(tmp_path / "model", card="", provenance={})
    damage(folder)
    with pytest.raises(UsageError, match=told) as error:
        load_classifier(folder)
    assert "\n" not in str(error.value)


def test_a_head_beside_another_encoder_is_refused(tmp_path):
    folder = make().save(tmp_path / "model", card="", provenance={})
    other = ENCODER.build().initialise(7).save(tmp_path / "other", card="", provenance={})
    for name in ("config.json", "model.safetensors"):
        shutil.copy(other / name, folder / name)
    with pytest.raises(UsageError, match="its head was trained with another encoder"):
        load_classifier(folder)
