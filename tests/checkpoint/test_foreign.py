"""Bird-MAE and Audio-MAE in our transformer say what an independent implementation of their descriptions says, from the
waveform on; what is not exactly such a checkpoint is refused in one line.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import birdjepa
from birdjepa.audio.decode import AUDIO_SUFFIXES, read_clip
from birdjepa.checkpoint.foreign import KINDS, convert, timm_vit
from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.data import hub_http
from birdjepa.embed.embedders import AllLayers, random_twin
from tests.checkpoint import reference_mae as reference
from tests.hub_server import environment, serving

KIND_NAMES = tuple(KINDS)
WIDTH, DEPTH, HEADS = 48, 3, 4
CLOSE = {"rtol": 0.0, "atol": 1e-4}
CLOSE_TOKENS = {"rtol": 0.0, "atol": 5e-4}
"""Of one token alone, in which the rounding of its 16 x 16 levels shows."""


def bird_like(n_samples: int, rate: int, seed: int = 0) -> np.ndarray:
    """Sweeps over noise with an offset: levels vary in time and frequency, and the mean matters."""
    rng, time = np.random.default_rng(seed), np.arange(n_samples) / rate
    sweep = 0.3 * np.sin(2 * np.pi * (1500 * time + 800 * np.sin(2 * np.pi * (1 + seed) * time)))
    level = 0.02 * (1.3 + np.sin(2 * np.pi * 0.7 * time))
    return (sweep * (np.sin(2 * np.pi * 3 * time) > 0) + level * rng.standard_normal(n_samples) + 0.05).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind as on the Hub."""
    found = {}
    for kind in KIND_NAMES:
        norms = ("norm", "fc_norm") if kind == "bird-mae" else ("norm",)
        weights = reference.checkpoint(kind, WIDTH, DEPTH, norms)
        found[kind] = reference.write(tmp_path_factory.mktemp(kind), kind, weights, HEADS)
    return found


def waves_of(kind: str, seconds: float, n: int = 2) -> list[np.ndarray]:
    rate = reference.OF[kind]["rate"]
    return [bird_like(round(seconds * rate), rate, seed) for seed in range(n)]


def whole_s(kind: str) -> float:
    return reference.OF[kind]["clip"] / reference.OF[kind]["rate"]


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_reference_filter_bank_is_kaldis(kind: str) -> None:
    rate, [wave] = reference.OF[kind]["rate"], waves_of(kind, 1.0, n=1)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.window_type, options.frame_opts.dither = rate, "hanning", 0.0
    options.mel_opts.num_bins, options.htk_compat, options.use_energy = 128, True, False
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(rate, wave.tolist())
    fbank.input_finished()
    theirs = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    np.testing.assert_allclose(reference.fbank(wave.astype(np.float64), rate), theirs, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_frames_are_those_of_the_description(kind: str) -> None:
    for seconds in (whole_s(kind), 2.0, 0.4):
        [wave] = waves_of(kind, seconds, n=1)
        ours = KINDS[kind].front_end.build()(torch.from_numpy(wave)[None])[0]
        expected = reference.frames(kind, wave)
        assert ours.shape == expected.shape
        error = np.abs(ours.numpy() - expected)
        assert error.max() < 2e-3, seconds
        assert error.mean() < 1e-5, seconds


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_clips_mean_is_taken_away_first(kind: str) -> None:
    """Kaldi takes away each frame's own mean in any case, so that only rounding tells: of a huge offset."""
    wave = waves_of(kind, whole_s(kind), n=1)[0] * np.float32(1e-3) + np.float32(1000.0)
    ours = KINDS[kind].front_end.build()(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(ours, reference.frames(kind, wave), rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.321, 0.05])
def test_embeddings_equal_an_independent_implementation(kind: str, share: float, folders: dict[str, Path]) -> None:
    encoder, waves = convert(kind, str(folders[kind])).encoder, waves_of(kind, share * whole_s(kind))
    clips = torch.from_numpy(np.stack(waves))
    expected = reference.forward(load_file(folders[kind] / "model.safetensors"), kind, waves, HEADS)
    output = encoder(clips)
    torch.testing.assert_close(output.patches.double(), expected["patches"], **CLOSE_TOKENS)
    poolings = ("cls", "mean", "fc_norm") if kind == "bird-mae" else ("cls", "mean")
    for pooling in poolings:
        torch.testing.assert_close(encoder.pooled(clips, pooling).double(), expected[pooling], **CLOSE)
    assert encoder.config.pooling == poolings[-1]
    assert expected["mean"].std() > 0.1
    assert (expected["mean"][0] - expected["mean"][1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_recording_gives_the_same(kind: str, folders: dict[str, Path], shared_data: Path) -> None:
    paths = sorted(path for path in (shared_data / "esc10").rglob("*") if path.suffix in AUDIO_SUFFIXES)[:40:20]
    rate = reference.OF[kind]["rate"]
    waves = [read_clip(path, rate, duration_s=5.0) for path in paths]
    expected = reference.forward(load_file(folders[kind] / "model.safetensors"), kind, waves, HEADS)
    encoder = convert(kind, str(folders[kind])).encoder
    pooled = encoder.pooled(torch.from_numpy(np.stack(waves)))
    torch.testing.assert_close(pooled.double(), expected[encoder.config.pooling], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_base_of_real_size_equals_it_too(kind: str, tmp_path: Path) -> None:
    weights = reference.checkpoint(kind, 768, 12)
    folder = reference.write(tmp_path / "hub", kind, weights, 12)
    (folder / "config.json").unlink()  # the size is told from the shapes
    encoder, waves = convert(kind, str(folder)).encoder, waves_of(kind, whole_s(kind), n=1)
    assert encoder.config.vit.size == "base"
    expected = reference.forward(weights, kind, waves, 12)
    for pooling in ("cls", "mean", "fc_norm"):
        pooled = encoder.pooled(torch.from_numpy(np.stack(waves)), pooling)
        torch.testing.assert_close(pooled.double(), expected[pooling], **CLOSE)


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_clip_is_the_same_alone_and_beside_a_quiet_one(kind: str, share: float, folders: dict[str, Path]) -> None:
    encoder = convert(kind, str(folders[kind])).encoder
    quiet, loud = waves_of(kind, share * whole_s(kind))
    quiet, loud = 0.01 * torch.from_numpy(quiet)[None], 30 * torch.from_numpy(loud)[None]
    alone, together = [encoder.pooled(each) for each in (quiet, loud)], encoder.pooled(torch.cat((quiet, loud)))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    assert (together[1] - together[0]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_silence_and_a_constant_are_finite(kind: str, folders: dict[str, Path]) -> None:
    encoder = convert(kind, str(folders[kind])).encoder
    clips = torch.stack((torch.zeros(160_000), torch.full((160_000,), 0.5)))
    assert encoder.pooled(clips).isfinite().all()
    assert encoder.pooled(clips[:, :100]).isfinite().all()


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_layer_is_pooled_as_the_last_is(kind: str, folders: dict[str, Path]) -> None:
    encoder, [wave] = convert(kind, str(folders[kind])).encoder, waves_of(kind, 2.0, n=1)
    clips, inside_s = torch.from_numpy(wave)[None], np.array([[0.0, np.inf]])
    with torch.inference_mode():
        layers = AllLayers(encoder, encoder.config.pooling).embed(clips, inside_s)
    torch.testing.assert_close(layers[:, -WIDTH:], encoder.pooled(clips), rtol=0, atol=1e-5)
    assert layers.shape == (1, DEPTH * WIDTH)


def test_a_copy_with_a_prefix_and_a_decoder_is_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(folders["audio-mae"] / "model.safetensors")
    other = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    other |= {"decoder.blocks.0.norm1.weight": torch.ones(4), "encoder.head.weight": torch.ones(2, WIDTH)}
    converted = convert("audio-mae", str(reference.write(tmp_path / "x", "audio-mae", weights, HEADS)))
    save_file(other, tmp_path / "x" / "model.safetensors")
    prefixed = convert("audio-mae", str(tmp_path / "x"))
    assert prefixed.provenance["converted"]["left_out"] == ["decoder.blocks.0.norm1.weight", "encoder.head.weight"]
    ours, theirs = (each.encoder.state_dict() for each in (converted, prefixed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_with_an_fc_norm_alone(tmp_path: Path) -> None:
    weights = reference.checkpoint("audio-mae", WIDTH, DEPTH, ("fc_norm",))
    weights |= {"head.weight": torch.zeros(527, WIDTH), "head.bias": torch.zeros(527)}
    converted = convert("audio-mae", str(reference.write(tmp_path / "x", "audio-mae", weights, HEADS)))
    waves = waves_of("audio-mae", 10.0, n=1)
    expected = reference.forward(weights, "audio-mae", waves, HEADS)
    assert converted.encoder.config.pooling == "fc_norm"
    pooled = converted.encoder.pooled(torch.from_numpy(waves[0])[None])
    torch.testing.assert_close(pooled.double(), expected["fc_norm"], **CLOSE)
    output = converted.encoder(torch.from_numpy(waves[0])[None])
    torch.testing.assert_close(output.bare.double(), expected["tokens"], **CLOSE_TOKENS)
    assert torch.equal(converted.encoder.vit.norm.weight, converted.encoder.vit.fc_norm.weight)


def test_half_precision_is_read_as_float32(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = {name: x.half() for name, x in load_file(folders["bird-mae"] / "model.safetensors").items()}
    encoder = convert("bird-mae", str(reference.write(tmp_path / "x", "bird-mae", weights, HEADS))).encoder
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}


def test_sizes_are_told_from_shapes() -> None:
    for width, depth, size in ((768, 12, "base"), (1024, 24, "large"), (1280, 32, "huge")):
        assert timm_vit._size(width, depth, {}, "x") == size
    assert timm_vit._size(48, 3, {"num_heads": 4}, "x") == "48x3x4"


def test_a_random_twin_has_the_positions_and_nothing_else(folders: dict[str, Path]) -> None:
    encoder = convert("bird-mae", str(folders["bird-mae"])).encoder
    twin = random_twin(encoder, seed=0)
    assert torch.equal(twin.vit.positions, encoder.vit.positions)
    assert not torch.equal(twin.vit.embed.weight, encoder.vit.embed.weight)
    assert twin.pooled(torch.randn(1, 160_000)).isfinite().all()


Spoil = Callable[[dict[str, Tensor]], object]


def overwritten(name: str, value: float) -> Spoil:
    return lambda weights: weights[name].view(-1)[:1].fill_(value)


def replaced(name: str, tensor: Tensor) -> Spoil:
    return lambda weights: weights.update({name: tensor})


def shortened(weights: dict[str, Tensor]) -> None:
    weights["pos_embed"] = weights["pos_embed"][:, :-8].clone()


def emptied(weights: dict[str, Tensor]) -> None:
    weights.clear()
    weights["a"] = torch.ones(1)


REFUSED: list[tuple[Spoil, str]] = [
    (lambda w: w.pop("blocks.1.attn.proj.bias"), r"lacks 1 of \d+ tensors, the first is blocks.1.attn.proj.bias"),
    (lambda w: w.pop("norm.bias"), r"lacks 1 of \d+ tensors, the first is norm.bias"),
    (lambda w: w.pop("pos_embed"), "the first is pos_embed"),
    (replaced("blocks.0.ls1.gamma", torch.ones(WIDTH)), "holds 1 tensors that no part of the encoder reads, .*ls1"),
    (replaced("blocks.9.norm1.weight", torch.ones(WIDTH)), r"lacks 12 of \d+ tensors, .*blocks.3.norm1.weight"),
    (shortened, r"pos_embed has shape \(1, \d+, 48\), and must have \(1, \d+, 48\)"),
    (replaced("patch_embed.proj.weight", torch.ones(WIDTH, 3, 16, 16)), r"\(48, 3, 16, 16\), and must have \(48, 1, "),
    (replaced("cls_token", torch.ones(WIDTH)), r"cls_token has shape \(48,\)"),
    (overwritten("blocks.2.mlp.fc2.weight", float("nan")), "blocks.2.mlp.fc2.weight holds NaN or infinite values"),
    (overwritten("cls_token", float("inf")), "cls_token holds NaN or infinite values"),
    (replaced("norm.weight", torch.ones(WIDTH, dtype=torch.int64)), "norm.weight is of torch.int64"),
    (emptied, "holds no vision transformer in timm's names"),
]


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize(("spoil", "told"), REFUSED)
def test_what_is_not_exactly_such_a_checkpoint_is_refused(
    kind: str, spoil: Spoil, told: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folders[kind] / "model.safetensors").items()}
    spoil(weights)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folders[kind] / "config.json").read_text())
    with pytest.raises(UsageError, match=f"model.safetensors: .*{told}") as caught:
        convert(kind, str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        ("config.json", "num_heads", "4", "none of base, large and huge, and no config.json beside it says num_heads"),
        ("config.json", "num_heads", 5, "width must be a multiple of heads"),
        ("config.json", "depth", 12, "its weights have depth=3, and config.json says 12"),
        ("config.json", "qk_norm", True, "config.json says qk_norm=True, and Bird-MAE has False"),
        ("config.json", "norm_layer_eps", 1e-5, "config.json says norm_layer_eps=1e-05"),
        ("preprocessor_config.json", "mean", -4.2, "preprocessor_config.json says mean=-4.2, and Bird-MAE has -7.2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    name: str, key: str, value: object, told: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["bird-mae"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_text(json.dumps({**json.loads((tmp_path / name).read_text()), key: value}))
    with pytest.raises(UsageError, match=told):
        convert("bird-mae", str(tmp_path))


def refused_line(capsys: pytest.CaptureFixture[str], source: Path | str, out: Path, code: int = 2) -> str:
    """What the command says of a source that it cannot convert; it leaves nothing behind."""
    assert main(["convert", "bird-mae", str(source), "--out", str(out)]) == code
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert not out.exists()
    assert list(out.parent.glob(".*tmp")) == []
    return told


def test_files_that_are_no_checkpoint_are_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, out = folders["bird-mae"] / "model.safetensors", tmp_path / "out"
    cut = tmp_path / "cut.safetensors"
    for kept in (100, 3, 0):
        cut.write_bytes(weights.read_bytes()[: kept and -kept])
        assert "cut.safetensors: not a safetensors file, or cut short" in refused_line(capsys, cut, out)
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    assert "x.pth is a pickle, which can run code" in refused_line(capsys, tmp_path / "x.pth", out)
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps({"a": 1}))
    assert "named.safetensors is a pickle" in refused_line(capsys, tmp_path / "named.safetensors", out)
    (tmp_path / "hub").mkdir()
    assert "hub: holds no model.safetensors" in refused_line(capsys, tmp_path / "hub", out)
    (tmp_path / "hub" / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert "hub: pytorch_model.bin is a pickle" in refused_line(capsys, tmp_path / "hub", out)
    assert "no such file or folder, nor OWNER/NAME" in refused_line(capsys, tmp_path / "absent", out)
    bird = str(folders["bird-mae"])
    assert main(["convert", "audio-mae", bird, "--out", str(out)]) == 2
    assert "must have (1, 513, 48)" in capsys.readouterr().err
    out.mkdir()
    (out / "mine.txt").write_text("x")
    assert main(["convert", "bird-mae", bird, "--out", str(out)]) == 2
    assert "holds files already" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"mine.txt"}


def test_the_command_makes_a_folder_that_loads_and_says_the_licence(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, terms in (("bird-mae", "no licence is declared"), ("audio-mae", "CC BY-NC 4.0")):
        out = tmp_path / kind
        assert main(["convert", kind, str(folders[kind]), "--out", str(out)]) == 0
        shown = capsys.readouterr()
        assert shown.out == f"{out}\n"
        assert f"licence: {terms}" in shown.err
        assert "note for benchmarks: it has heard" in shown.err
        encoder, [wave] = birdjepa.load(out), waves_of(kind, 4.0, n=1)
        fresh = convert(kind, str(folders[kind])).encoder
        assert encoder.config == fresh.config
        ours, theirs = (each.embed(wave, sampling_rate=encoder.sampling_rate) for each in (encoder, fresh))
        assert torch.equal(ours.embedding, theirs.embedding)
        card = (out / "README.md").read_text()
        assert terms in card
        origin = json.loads((out / "config.json").read_text())["provenance"]["converted"]
        assert origin["weights_sha256"] in card
        assert (origin["kind"], origin["revision"]) == (kind, "")
        assert str(tmp_path) not in card


def test_models_of_the_hub_are_fetched_once_at_one_commit(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub_http, "PATIENCE", hub_http.Patience(attempts=2, base_s=0.01, stall_s=1.0))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"PK")
    with serving() as server:
        server.add("me/bird", folders["bird-mae"])
        server.add("me/pickled", tmp_path / "pickled")
        for name, value in environment(server, tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        converted = convert("bird-mae", "me/bird")
        local = convert("bird-mae", str(folders["bird-mae"])).encoder.state_dict()
        assert all(torch.equal(tensor, local[name]) for name, tensor in converted.encoder.state_dict().items())
        origin = converted.provenance["converted"]
        assert (origin["source"], origin["revision"]) == ("me/bird", server.sha("me/bird"))
        assert origin["revision"] in converted.card
        assert convert("bird-mae", f"me/bird@{origin['revision']}").provenance["converted"] == origin
        assert len(server.downloads()) == 3
        out = tmp_path / "out"
        assert "me/pickled on the Hub: pytorch_model.bin is a pickle" in refused_line(capsys, "me/pickled", out)
        assert "the Hub has no such repository, revision or file (404)" in refused_line(capsys, "me/none", out)
        assert server.downloads() == server.downloads()[:3]
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        server.seen.clear()
        assert convert("bird-mae", "me/bird").provenance["converted"] == origin
        told = refused_line(capsys, "me/other", out)
        assert "me/other#main: is not in the cache, and HF_HUB_OFFLINE forbids to fetch it" in told
        assert not server.seen
