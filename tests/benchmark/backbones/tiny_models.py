"""Tiny models of every kind with fixed weights, in the files that their adapters read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark.backbones.hf import HfSpec
from birdjepa.benchmark.backbones.named import EncoderSpec, ForeignSpec, LogmelSpec, RandomSpec, Spec
from birdjepa.benchmark.backbones.onnx import OnnxSpec
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig

RATE = 16_000
FRONT_END = LogMelConfig(sampling_rate=RATE, window=400, hop=160, n_mels=32, f_max=8_000.0)
ENCODER = EncoderConfig(
    front_end=FRONT_END,
    patch=PatchConfig(frames=16, mels=16),
    vit=VitConfig(size="nano"),
    clips=ClipConfig(clip_s=1.0, hop_s=1.0),
    pooling="mean+std",
)
N_FRAMES, FRAME = 20, 800
"""The ONNX model's: 1 s in frames of 50 ms."""
WIDTH, N_ROWS, N_CLASSES = 6, 2, 5


def waves(n_clips: int = 3, n_samples: int = RATE, seed: int = 0) -> list[np.ndarray]:
    """Noise that swells, each clip its own way."""
    rng = np.random.default_rng(seed)
    swell = [0.2 + np.abs(np.sin(np.arange(n_samples) / RATE * (2 + i))) for i in range(n_clips)]
    return [(0.1 * each * rng.standard_normal(n_samples)).astype(np.float32) for each in swell]


def encoder_folder(folder: Path) -> Path:
    encoder = ENCODER.build().initialise(3)
    return encoder.save(folder / "encoder", card="---\nlicense: cc-by-4.0\n---\n# made\n", provenance={})


def onnx_weights() -> tuple[np.ndarray, np.ndarray]:
    """Of frames to a map of tokens, and of embeddings to logits."""
    rng = np.random.default_rng(5)
    of_frames = rng.standard_normal((FRAME, N_ROWS * WIDTH)).astype(np.float32)
    return of_frames, rng.standard_normal((WIDTH, N_CLASSES)).astype(np.float32)


def onnx_map(clip: np.ndarray) -> np.ndarray:
    """What the ONNX model's map is by NumPy: (time, rows, width)."""
    product = np.maximum(clip.reshape(N_FRAMES, FRAME) @ onnx_weights()[0], 0)
    return product.reshape(N_FRAMES, N_ROWS, WIDTH)


def onnx_file(folder: Path, *, batch: str | int = "batch", axes: str = "b s", divide: bool = False) -> Path:
    """A model that exports its logits and its map, and computes its embedding, "net/POOL/Mean:0", without exporting it.

    axes are those of its input; divide makes it divide each clip by its standard deviation, which silence has not.
    """
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed: pip install 'birdjepa[dev]'")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    of_frames, of_classes = onnx_weights()
    shape = {"b s": [batch, RATE], "b 1 s": [batch, 1, RATE], "s": [RATE]}[axes]
    constants = {
        "to_frames": np.array([-1, N_FRAMES, FRAME]),
        "to_map": np.array([-1, N_FRAMES, N_ROWS, WIDTH]),
        "of_frames": of_frames,
        "of_classes": of_classes,
    }
    first = [make.make_node("Reshape", ["wave", "to_frames"], ["frames"])]
    if divide:
        first = [
            make.make_node("Reshape", ["wave", "to_frames"], ["raw"]),
            make.make_node("ReduceL2", ["raw"], ["norm"], axes=[1, 2], keepdims=1),
            make.make_node("Div", ["raw", "norm"], ["frames"]),
        ]
    nodes = [
        *first,
        make.make_node("MatMul", ["frames", "of_frames"], ["product"]),
        make.make_node("Relu", ["product"], ["positive"]),
        make.make_node("Reshape", ["positive", "to_map"], ["map"]),
        make.make_node("ReduceMean", ["map"], ["net/POOL/Mean:0"], axes=[1, 2], keepdims=0),
        make.make_node("MatMul", ["net/POOL/Mean:0", "of_classes"], ["scores"]),
    ]
    graph = make.make_graph(
        nodes,
        "tiny",
        [make.make_tensor_value_info("wave", kind, shape)],
        [
            make.make_tensor_value_info("scores", kind, [None, N_CLASSES]),
            make.make_tensor_value_info("map", kind, [None, N_FRAMES, N_ROWS, WIDTH]),
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.onnx"
    onnx.save(model, str(path))
    (folder / "labels.txt").write_text("\n".join(f"species {i}" for i in range(N_CLASSES)))
    return path


def onnx_spec(path: Path) -> OnnxSpec:
    return OnnxSpec(
        model=str(path),
        sampling_rate=RATE,
        clip_s=1.0,
        embedding="net/POOL/Mean:0",
        width=WIDTH,
        tokens="map",
        token_width=WIDTH,
        logits="#0",
        labels=str(path.with_name("labels.txt")),
        licence="made by this test",
    )


def hf_folder(folder: Path, kind: str) -> Path:
    """A model of transformers with its feature extractor, as save_pretrained writes them."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'birdjepa[transformers]'"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    if kind == "hubert":
        config = transformers.HubertConfig(
            **sizes, conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
        )
        model = transformers.HubertModel(config)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    elif kind == "ast":
        model = transformers.ASTModel(transformers.ASTConfig(**sizes, max_length=104, num_mel_bins=32))
        extractor = transformers.ASTFeatureExtractor(max_length=104, num_mel_bins=32)
    else:
        config = transformers.WhisperConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=16,
            max_source_positions=50,
            vocab_size=20,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        model = transformers.WhisperModel(config)
        extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder / kind)
    extractor.save_pretrained(folder / kind)
    return folder / kind


def foreign_folder(folder: Path, form: str) -> Path:
    """A checkpoint in the layout of the Hub, for ours to be made of."""
    reference = pytest.importorskip("tests.checkpoint.reference_mae", reason="nothing here converts foreign encoders")
    norms = ("norm", "fc_norm") if form == "bird-mae" else ("norm",)
    return reference.write(folder, form, reference.checkpoint(form, 32, 2, norms), 2)


SPECS: dict[str, Callable[[Path], Spec]] = {
    "export": lambda folder: EncoderSpec(folder=str(encoder_folder(folder))),
    "random": lambda folder: RandomSpec(like=str(encoder_folder(folder)), seed=1, pooling="mean"),
    "logmel": lambda folder: LogmelSpec(front_end=FRONT_END),
    "onnx": lambda folder: onnx_spec(onnx_file(folder)),
    "onnx-one-by-one": lambda folder: dataclasses.replace(
        onnx_spec(onnx_file(folder, axes="s")), input_shape="s", peak=0.25
    ),
    "bird-mae": lambda folder: ForeignSpec(form="bird-mae", model=str(foreign_folder(folder, "bird-mae"))),
    "audio-mae": lambda folder: ForeignSpec(form="audio-mae", model=str(foreign_folder(folder, "audio-mae"))),
    "hubert": lambda folder: HfSpec(model=str(hf_folder(folder, "hubert")), clip_s=1.0),
    "ast": lambda folder: HfSpec(model=str(hf_folder(folder, "ast"))),
    "ast-cls": lambda folder: HfSpec(model=str(hf_folder(folder, "ast")), pooling="cls"),
    "whisper": lambda folder: HfSpec(model=str(hf_folder(folder, "whisper"))),
}
"""Each adapter's configuration, by making its files in a folder."""
