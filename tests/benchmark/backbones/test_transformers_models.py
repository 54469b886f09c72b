"""Models of transformers: order of tokens, what is never heard, what is refused."""

import builtins
import dataclasses
import json

import numpy as np
import pytest
import torch

from birdjepa.benchmark.backbones.base import Want
from birdjepa.benchmark.backbones.hf import HfBackbone, HfSpec
from birdjepa.core.errors import MissingExtraError, UsageError
from birdjepa.data import hub_http
from tests.benchmark.backbones.tiny_models import RATE, hf_folder, waves
from tests.hub_server import environment, serving

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'birdjepa[transformers]'"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    return {kind: hf_folder(folder, kind) for kind in ("hubert", "ast", "whisper")}


def opened(folder, **settings):
    return HfBackbone(HfSpec(model=str(folder), **settings), name="tiny")


def test_ast_tokens_are_in_the_order_of_time(folders):
    """They are frequency-major in the model: here index by index."""
    backbone = opened(folders["ast"])
    clip = waves(1)[0]
    inputs = transformers.ASTFeatureExtractor.from_pretrained(folders["ast"])(
        clip, sampling_rate=RATE, return_tensors="pt"
    )
    with torch.no_grad():
        state = transformers.ASTModel.from_pretrained(folders["ast"]).eval()(**inputs).last_hidden_state[0]
    got = backbone.embed([clip], Want(tokens=True), sampling_rate=RATE).tokens[0]
    n_times, n_rows = 9, 2
    assert backbone.card.token_rows == n_rows
    assert len(got) == n_times * n_rows == len(state) - 2
    for time in range(n_times):
        for row in range(n_rows):
            np.testing.assert_allclose(got[time * n_rows + row], state[2 + row * n_times + time], atol=1e-5)
    cls = opened(folders["ast"], pooling="cls").embed([clip], Want(), sampling_rate=RATE).pooled[0, 0]
    np.testing.assert_allclose(cls, state[:2].mean(0), atol=1e-5)


@pytest.mark.parametrize("kind", ["ast", "whisper"])
def test_tokens_of_the_extractor_s_padding_are_not_pooled(folders, kind):
    backbone = opened(folders[kind])
    heard = backbone.embed(waves(2, 4_000), Want(tokens=True), sampling_rate=RATE)
    assert 0 < heard.real[0].float().mean() < 0.5
    for row in range(2):
        np.testing.assert_allclose(
            heard.pooled[0, row], heard.tokens[row][heard.real[row]].mean(0), rtol=1e-4, atol=1e-5
        )


def test_layers_are_the_hidden_states(folders):
    clip = waves(1)[0]
    normal = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))[None]
    with torch.no_grad():
        said = transformers.HubertModel.from_pretrained(folders["hubert"]).eval()(normal, output_hidden_states=True)
    got = opened(folders["hubert"]).embed([clip], Want(layers=(1, 2)), sampling_rate=RATE).pooled[:, 0]
    for layer in (1, 2):
        np.testing.assert_allclose(got[layer - 1], said.hidden_states[layer][0].mean(0), atol=1e-4)


def test_the_licence_is_the_card_s_or_the_user_s(folders, tmp_path):
    assert opened(folders["hubert"]).card.licence == "not stated"
    folder = hf_folder(tmp_path, "hubert")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# HuBERT\nlicense: not this\n")
    assert opened(folder).card.licence == "mit"
    assert opened(folder, licence="ours").card.licence == "ours"


def test_weights_that_are_missing_are_no_random_weights(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = hf_folder(tmp_path, "hubert")
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layers.1.attention.k_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"weights are missing or do not fit: encoder\.layers\.1\.attention\.k_proj"):
        opened(folder)


def test_code_in_a_repository_is_not_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    with pytest.raises(UsageError, match="code of its own, which is not run here"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": ""}, "tiny: set model to a folder or to hub:"),
        ({"model": "nowhere"}, "nowhere: no config.json there"),
        ({"pooling": "cls"}, "pooling 'cls' is known for AST only, this is hubert"),
    ],
)
def test_settings_that_do_not_fit_are_told(folders, settings, told):
    with pytest.raises(UsageError, match=told):
        HfBackbone(dataclasses.replace(HfSpec(model=str(folders["hubert"])), **settings), name="tiny")


def test_a_model_that_wants_more_than_sound_is_refused(tmp_path):
    transformers.BertModel(
        transformers.BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=10
        )
    ).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="tiny: bert gives no hidden states of sound alone"):
        opened(tmp_path)


def test_a_folder_without_an_extractor_is_told(folders, tmp_path):
    folder = hf_folder(tmp_path, "hubert")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="hubert: "):
        opened(folder)


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("transformers"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'birdjepa\[transformers\]'"):
        opened(folders["hubert"])


def test_a_model_of_the_hub_is_the_one_in_the_folder(folders, tmp_path, monkeypatch):
    with serving() as server:
        server.add("me/hubert", folders["hubert"])
        server.files["me/hubert"]["pytorch_model.bin"] = b"a pickle that nobody needs" * 20
        for name, value in environment(server, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=2, base_s=0.01, stall_s=1.0))
        there, here = opened("hub:me/hubert"), opened(folders["hubert"])
        assert not any("pytorch_model" in path for path in server.downloads())
        assert there.identity == {**here.identity, "commit": server.sha("me/hubert")}
        a, b = (each.embed(waves(1), Want(), sampling_rate=RATE).pooled for each in (there, here))
        np.testing.assert_array_equal(a, b)
