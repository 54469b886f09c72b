"""Models by name, and the tables of TOML that change them or add to them."""

import sys
import tomllib
import types

import pytest

from birdjepa.benchmark.backbones.named import (
    MODELS,
    EncoderSpec,
    ForeignSpec,
    HfSpec,
    LogmelSpec,
    OnnxSpec,
    RandomSpec,
    open_backbone,
    with_tables,
)
from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.models.loading import load
from tests.benchmark.backbones.tiny_models import ENCODER, encoder_folder, onnx_file

TOML = """
[models.birdjepa]
folder = "runs/first/encoder"
pooling = "rows"

[models.logmel]
front_end = { n_mels = 64 }

[models.perch-v2]
peak = 0.0
model = "perch.onnx"

[models.hubert]
kind = "HfSpec"
model = "hub:facebook/hubert-base-ls960"
clip_s = 5
overlaps = [["speech-commands-v2", "heard it"]]

[models.random]
kind = "LogmelSpec"
"""


def test_tables_change_models_and_add_to_them():
    merged = with_tables(tomllib.loads(TOML)["models"])
    assert merged["birdjepa"] == EncoderSpec(folder="runs/first/encoder", pooling="rows")
    assert merged["logmel"].front_end.n_mels == 64
    assert merged["perch-v2"].width == 1536
    assert (merged["perch-v2"].peak, merged["perch-v2"].model) == (0.0, "perch.onnx")
    heard = (("speech-commands-v2", "heard it"),)
    assert merged["hubert"] == HfSpec(model="hub:facebook/hubert-base-ls960", clip_s=5.0, overlaps=heard)
    assert merged["random"] == LogmelSpec()
    assert MODELS["random"] == RandomSpec()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"mine": {"model": "x.onnx"}}, r"models\.mine is new and needs a kind: one of EncoderSpec, RandomSpec"),
        ({"mine": {"kind": "OnnxSpek"}}, r"models\.mine has kind 'OnnxSpek': one of"),
        ({"mine": {"kind": "OnnxSpec", "widht": 3}}, r"models\.mine has no setting 'widht'; did you mean 'width'"),
        ({"perch-v2": {"input_shape": "b t"}}, r"models\.perch-v2\.input_shape must be one of"),
        ({"perch-v2": 3}, r"models\.perch-v2 must be a table"),
    ],
)
def test_tables_that_do_not_fit_are_told(table, told):
    with pytest.raises(UsageError, match=told):
        with_tables(table)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_s_settings_are_json(name):
    spec = MODELS[name]
    assert configs.from_json(type(spec), configs.to_json(spec)) == spec


@pytest.mark.parametrize("name", ["perch-v2", "birdnet", "birdnet-v3", "bird-mae-base", "audio-mae"])
def test_models_by_others_are_of_the_hub_and_say_what_they_have_heard(name, tmp_path):
    spec = MODELS[name]
    if isinstance(spec, OnnxSpec):
        assert spec.model.startswith("hub:")
        assert spec.overlaps
        assert spec.licence != "not stated"
    else:
        assert "/" in spec.model


def test_what_is_offline_and_not_cached_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"hub:justinchuby/Perch-onnx.*HF_HUB_OFFLINE forbids to fetch it"):
        open_backbone("perch-v2", MODELS["perch-v2"])


def test_birdjepa_needs_a_folder():
    with pytest.raises(UsageError, match="birdjepa: say which encoder, by its folder"):
        open_backbone("birdjepa", MODELS["birdjepa"])


def test_the_default_random_model_opens():
    backbone = open_backbone("random", MODELS["random"])
    assert (backbone.card.sampling_rate, backbone.card.width) == (32_000, 384)
    assert backbone.card.no_finetuning == ""


def test_seeds_make_other_twins(tmp_path):
    folder = encoder_folder(tmp_path)
    a, b = (open_backbone("r", RandomSpec(like=str(folder), seed=seed)).identity for seed in (0, 1))
    assert a["weights_sha256"] != b["weights_sha256"]
    assert a["config"] == b["config"] == open_backbone("e", EncoderSpec(folder=str(folder))).identity["config"]


def test_an_export_s_card_and_pooling(tmp_path):
    folder = str(encoder_folder(tmp_path))
    backbone = open_backbone("mine", EncoderSpec(folder=folder, overlaps=(("esc50", "heard it"),)))
    assert backbone.card.licence == "cc-by-4.0"
    assert backbone.card.width == ENCODER.embedding_width
    assert backbone.card.warnings("esc50", "general") == ("heard it",)
    rows = open_backbone("mine", EncoderSpec(folder=folder, pooling="rows"))
    assert rows.card.width == 2 * 64
    assert rows.identity != backbone.identity


def test_a_converted_encoder_warns_wherever_its_folder_is(tmp_path):
    encoder = ENCODER.build().initialise(0)
    folder = encoder.save(tmp_path / "made", card="x", provenance={"converted": {"kind": "bird-mae"}})
    card = open_backbone("folder", EncoderSpec(folder=str(folder))).card
    assert "Xeno-Canto" in card.warnings("ssw", "birdset")[0]


def test_foreign_encoders_are_converted_when_opened(tmp_path, monkeypatch):
    """What converts them has tests of its own; here it is a stand-in."""
    asked = []

    def convert(kind, source):
        asked.append((kind, source))
        made = load(encoder_folder(tmp_path))
        origin = {"terms": "not for sale", "revision": "abc"}
        return types.SimpleNamespace(encoder=made, provenance={"converted": origin})

    monkeypatch.setitem(sys.modules, "birdjepa.checkpoint.foreign", types.SimpleNamespace(convert=convert))
    backbone = open_backbone("audio-mae", MODELS["audio-mae"])
    assert asked == [("audio-mae", "gaunernst/vit_base_patch16_1024_128.audiomae_as2m")]
    assert backbone.card.licence == "not for sale"
    assert backbone.card.warnings("audioset-20k", "general")
    assert backbone.identity["revision"] == "abc"
    with pytest.raises(UsageError, match="set model to a folder"):
        open_backbone("bird-mae-base", ForeignSpec())


def test_a_model_of_one_s_own_in_toml(tmp_path):
    path = onnx_file(tmp_path)
    text = """
        kind = "OnnxSpec"
        sampling_rate = 16000
        clip_s = 1.0
        embedding = "net/POOL/Mean:0"
        width = 6
    """
    spec = with_tables({"mine": {**tomllib.loads(text), "model": str(path)}})["mine"]
    card = open_backbone("mine", spec).card
    assert (card.name, card.width, card.token_width, card.classes) == ("mine", 6, None, ())
    assert card.licence == "not stated"
