"""ONNX models: settings that do not fit are told before anything is embedded; hidden tensors; labels; silence."""

import builtins
import dataclasses

import numpy as np
import pytest
import torch

from birdjepa.benchmark.backbones import onnx_graph
from birdjepa.benchmark.backbones.base import Want
from birdjepa.benchmark.backbones.onnx import OnnxBackbone
from birdjepa.core.errors import MissingExtraError, UsageError, UserError
from birdjepa.data import hub_http
from tests.benchmark.backbones.tiny_models import (
    N_CLASSES,
    N_FRAMES,
    N_ROWS,
    RATE,
    WIDTH,
    onnx_file,
    onnx_map,
    onnx_spec,
    onnx_weights,
    waves,
)
from tests.hub_server import environment, serving


@pytest.fixture
def spec(tmp_path):
    return onnx_spec(onnx_file(tmp_path))


def opened(spec):
    return OnnxBackbone(spec, name="tiny")


def embed(spec, clips, want=Want()):  # noqa: B008
    return opened(spec).embed(clips, want, sampling_rate=RATE)


def test_everything_equals_numpy(spec):
    heard = embed(spec, waves(), Want(tokens=True, logits=True))
    for row, clip in enumerate(waves()):
        tokens = onnx_map(clip)
        embedding = tokens.mean((0, 1))
        np.testing.assert_allclose(heard.tokens[row], tokens.reshape(-1, WIDTH), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(heard.pooled[0, row], embedding, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(heard.logits[row], embedding @ onnx_weights()[1], rtol=1e-4, atol=1e-5)


def test_the_card_is_read_off_the_file_and_the_settings(spec):
    card = opened(spec).card
    assert card.classes == tuple(f"species {i}" for i in range(N_CLASSES))
    assert (card.token_rows, card.token_hop_s, card.fixed_length) == (N_ROWS, 1 / N_FRAMES, True)
    assert "trained" in card.no_finetuning
    assert card.preprocessing == "waveform"
    assert "peak of 0.25" in opened(dataclasses.replace(spec, peak=0.25)).card.preprocessing


@pytest.mark.parametrize("axes", ["b s", "b 1 s", "s"])
@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_inputs_of_every_shape_and_batch(tmp_path, spec, axes, batch):
    """A batch that the file fixes is filled up, and what fills it left out."""
    other = onnx_spec(onnx_file(tmp_path / "other", axes=axes, batch=batch))
    clips = waves(6)
    got = embed(dataclasses.replace(other, input_shape=axes), clips, Want(tokens=True)).tokens
    np.testing.assert_allclose(got, embed(spec, clips, Want(tokens=True)).tokens, rtol=1e-5)


def test_tensors_that_are_not_exported_are_found_in_the_file(spec):
    model = onnx_file_bytes(spec)
    assert onnx_graph.tensors(model) == ["frames", "product", "positive", "map", "net/POOL/Mean:0", "scores"]
    for part in (model[:-40], b"\xff" * 50, b"\x0f"):
        with pytest.raises(ValueError, match="is no ONNX model"):
            onnx_graph.tensors(part)


def test_a_file_with_more_outputs_is_what_onnx_would_write(spec):
    onnx = pytest.importorskip("onnx")
    names = ["net/POOL/Mean:0", "x" * 200]
    expected = onnx.load_model_from_string(onnx_file_bytes(spec))
    expected.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    got = onnx.load_model_from_string(onnx_graph.with_outputs(onnx_file_bytes(spec), names))
    assert got == expected


def onnx_file_bytes(spec):
    with open(spec.model, "rb") as file:
        return file.read()


def test_a_tensor_by_its_place(spec):
    first = embed(dataclasses.replace(spec, embedding="#0", width=N_CLASSES), waves()).pooled[0]
    np.testing.assert_array_equal(first, embed(spec, waves(), Want(logits=True)).logits)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 0}, r"net/POOL/Mean:0 has the shape \[1, 6\] for one clip, and width says 0: set width"),
        ({"embedding": "frames"}, r"frames has the shape \[1, 20, 800\] for one clip, and width says 6"),
        ({"embedding": "net/POOL/Mean"}, r"has no tensor 'net/POOL/Mean'; it exports scores, map, and computes net/PO"),
        ({"embedding": "#2"}, r"has no tensor '#2'; it exports scores, map"),
        ({"embedding": ""}, "tiny: set model .* and embedding"),
        ({"model": ""}, "tiny: set model"),
        ({"model": "nowhere.onnx"}, r"nowhere.onnx: no such file"),
        ({"token_width": 3}, r"map has the shape \[1, 20, 2, 6\] for one clip, and token_width says 3"),
        ({"clip_s": 2.0}, r"wave takes 16000 samples; clip_s x sampling_rate gives 32000"),
        ({"sampling_rate": 32_000}, r"wave takes 16000 samples; clip_s x sampling_rate gives 32000"),
        ({"input_shape": "b 1 s"}, r"wave has the shape \['batch', 16000\], but input_shape is"),
        ({"input": "sound"}, "set input to the waveform's tensor, one of wave"),
        ({"labels": ""}, "tiny: logits need labels"),
    ],
)
def test_settings_that_do_not_fit_are_told_when_it_is_opened(spec, changes, told):
    with pytest.raises(UsageError, match=told):
        opened(dataclasses.replace(spec, **changes))


def test_labels_must_be_as_many_as_the_logits(spec, tmp_path):
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match=r"few.txt names 2 classes, and the model has 5 logits"):
        opened(dataclasses.replace(spec, labels=str(tmp_path / "few.txt")))


def test_a_file_that_is_no_model_is_told(spec, tmp_path):
    (tmp_path / "page.onnx").write_text("<html>please log in</html>")
    with pytest.raises(UsageError, match=r"page.onnx: cannot be opened: "):
        opened(dataclasses.replace(spec, model=str(tmp_path / "page.onnx")))


def test_loudness_is_gone_where_the_peak_is_set(spec):
    loud, quiet = waves(1)[0], waves(1)[0] * np.float32(0.01)
    got = embed(dataclasses.replace(spec, peak=0.25), [loud, quiet, np.zeros(RATE, np.float32)]).pooled[0]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-3)
    np.testing.assert_allclose(got[0], onnx_map(loud * (0.25 / np.abs(loud).max())).mean((0, 1)), rtol=1e-3)
    assert not got[2].any()


def test_noise_helps_a_model_that_cannot_bear_silence(tmp_path):
    """BirdNET+'s preview answers digital silence with NaN."""
    spec = onnx_spec(onnx_file(tmp_path, divide=True))
    silence = [np.zeros(RATE, np.float32)]
    with pytest.raises(UserError, match="tiny: NaN or infinite numbers in the embedding of example 0"):
        embed(spec, silence)
    noisy = dataclasses.replace(spec, noise=1e-5)
    assert embed(noisy, silence).pooled.isfinite().all()
    np.testing.assert_allclose(embed(noisy, waves()).pooled, embed(spec, waves()).pooled, rtol=0.02, atol=1e-4)
    np.testing.assert_array_equal(embed(noisy, silence).pooled, embed(noisy, silence).pooled)


def test_identity_knows_the_weights_and_what_is_done_to_the_sound(spec, tmp_path):
    held = opened(spec).identity
    assert opened(dataclasses.replace(spec, peak=0.25)).identity != held
    assert opened(dataclasses.replace(spec, licence="another")).identity == held
    other = onnx_spec(onnx_file(tmp_path / "other", divide=True))
    assert opened(other).identity["weights_sha256"] != held["weights_sha256"]
    moved = onnx_spec(onnx_file(tmp_path / "copy"))
    assert opened(moved).identity == held


def test_threads_are_those_of_torch(spec):
    """onnxruntime would take all cores of the machine for each model."""
    options = opened(spec)._session.get_session_options()
    assert options.intra_op_num_threads == torch.get_num_threads()
    assert options.inter_op_num_threads == 1


def test_without_onnxruntime_the_extra_is_named(spec, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'birdjepa\[onnx\]'"):
        opened(spec)


def test_a_model_of_the_hub_with_its_labels(spec, tmp_path, monkeypatch):
    with serving() as server:
        labels = (tmp_path / "labels.txt").read_bytes()
        server.files["me/birds"] = {"tiny.onnx": onnx_file_bytes(spec), "a/labels.csv": b"inat\n" + labels}
        for name, value in environment(server, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=2, base_s=0.01, stall_s=1.0))
        sha = server.sha("me/birds")
        there = opened(
            dataclasses.replace(spec, model="hub:me/birds/tiny.onnx", labels=f"hub:me/birds/a/labels.csv#{sha}")
        )
        assert there.identity["commit"] == sha
        assert there.card.classes == opened(spec).card.classes
