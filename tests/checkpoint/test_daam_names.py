"""A checkpoint of the public density-adaptive JEPA gives the same frames as a plain network under its names; what is
not exactly such a checkpoint is refused in one line.
"""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import reference_daam as reference
import torch
import zero_files
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from tiny_run import write_songs

from birdjepa.checkpoint.deepspeed import names
from birdjepa.checkpoint.foreign import convert_daam, daam
from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.models.codec import CodecConfig
from birdjepa.models.loading import load, read_provenance
from birdjepa.models.waveform import WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig

RATE = 8_000
LENGTHS = (3, 4, 38, 301)
"""Hops."""
made = functools.partial(convert_daam, sampling_rate=RATE, heads=reference.HEADS)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 1, whole."""
    path = tmp_path_factory.mktemp("stage1") / "whole.safetensors"
    save_file(reference.stage_1(0), path)
    return path


def clips(n_hops: int, n_clips: int = 2) -> torch.Tensor:
    return 0.3 * torch.randn(n_clips, n_hops * reference.HOP, generator=torch.Generator().manual_seed(n_hops))


def apart(ours: torch.nn.Module, theirs: reference.Encoder) -> float:
    """The largest difference between frames, in float64, over clips of several lengths."""
    ours, theirs = ours.double(), theirs.double()
    return max(float((ours(clips(n).double()).patches - theirs(clips(n).double())).abs().max()) for n in LENGTHS)


def test_the_reference_has_the_names_that_we_know() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in reference.encoder(0).state_dict().items()}
    assert names.require_whole(shapes).shapes() == shapes
    assert names.describe(shapes).n_residual == reference.N_RESIDUAL


@pytest.mark.parametrize("n_hops", LENGTHS)
def test_frames_equal_the_references(file: Path, n_hops: int) -> None:
    ours, theirs = made(str(file)).encoder, reference.encoder(0)
    frames, expected = ours(clips(n_hops)).patches, theirs(clips(n_hops))
    assert frames.shape == expected.shape == (2, n_hops - 1, reference.CODE_DIM)
    assert expected.std() > 0.2
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-4)


def test_frames_equal_in_float64_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the steps that ours takes in float32 whatever comes in."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    assert apart(made(str(file)).encoder, reference.encoder(0)) < 1e-9


def test_a_clip_is_filled_to_whole_hops_as_the_reference_does(file: Path) -> None:
    ours, theirs = made(str(file)).encoder, reference.encoder(0)
    clip = clips(38)[:, : -reference.HOP // 2]
    filled = torch.nn.functional.pad(clip, (0, reference.HOP // 2))
    torch.testing.assert_close(ours(clip).patches, theirs(filled), rtol=0, atol=1e-4)
    assert ours(clips(1)).patches.shape[1] == 1  # the reference has no frame for it


def test_an_encoder_without_gates(tmp_path: Path) -> None:
    theirs = reference.encoder(3, gates=False)
    save_file(theirs.state_dict(), tmp_path / "bare.safetensors")
    ours = made(str(tmp_path / "bare.safetensors")).encoder
    assert ours.config.network.components == 0
    torch.testing.assert_close(ours(clips(38)).patches, theirs(clips(38)), rtol=0, atol=1e-4)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in reference.encoder(0).state_dict().items()}
    save_file(halves, tmp_path / "halves.safetensors")
    theirs = reference.Encoder().eval()
    theirs.load_state_dict({name: tensor.float() for name, tensor in halves.items()})
    ours = made(str(tmp_path / "halves.safetensors")).encoder
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    torch.testing.assert_close(ours(clips(38)).patches, theirs(clips(38)), rtol=0, atol=1e-4)


def swapped(part: int, other: int):
    """qkv with two of its thirds in each other's place."""

    def weights(theirs, shapes):
        found = our_weights(theirs, shapes)
        for name in found:
            if ".qkv." in name:
                thirds = list(found[name].chunk(3))
                thirds[part], thirds[other] = thirds[other], thirds[part]
                found[name] = torch.cat(thirds)
        return found

    return weights


def interleaved(theirs, shapes):
    """qkv with its rows by head first."""
    found = our_weights(theirs, shapes)
    for name in found:
        if ".qkv." in name:
            rows = found[name].unflatten(0, (3, reference.HEADS, -1))
            found[name] = rows.transpose(0, 1).reshape(found[name].shape).contiguous()
    return found


def unturned(theirs, shapes):
    found = our_weights(theirs, shapes)
    return {
        name: value.flatten().reshape(value.shape[::-1]).permute(2, 1, 0).contiguous()
        if value.ndim == 3 and "depthwise" not in name
        else value
        for name, value in found.items()
    }


def backwards(theirs, shapes):
    found = our_weights(theirs, shapes)
    return {name: value.flip(0) if "dilated" in name and value.ndim == 3 else value for name, value in found.items()}


def renamed(at: int, one: str, other: str):
    """Two names of layers in each other's place, that part of the name which is number `at`."""

    def name(theirs):
        parts = [*our_name(theirs).split("."), *[""] * at]
        parts[at] = {one: other, other: one}.get(parts[at], parts[at])
        return ".".join(parts).rstrip(".")

    return name


def setting(**changes):
    def config(found, **given):
        whole = config_of(found, **given)
        network = {field.name: getattr(whole.network, field.name) for field in dataclasses.fields(whole.network)}
        return dataclasses.replace(whole, network=WaveformConfig(**{**network, **changes}))

    return config


our_weights, our_name, config_of = daam.our_weights, daam.our_name, daam.config_of
MUTANTS = {
    "queries for keys": ("our_weights", swapped(0, 1)),
    "keys for values": ("our_weights", swapped(1, 2)),
    "heads before queries": ("our_weights", interleaved),
    "kernels not turned": ("our_weights", unturned),
    "kernels backwards": ("our_weights", backwards),
    "plain for dilated": ("our_name", renamed(5, "dilated", "plain")),
    "feed-forward parts": ("our_name", renamed(3, "feed1", "feed2")),
    "norms of the convolution": ("our_name", renamed(4, "norm1", "norm2")),
    "first norm for last": ("our_name", renamed(3, "norm", "last")),
    "dilations begin anew": ("config_of", setting(dilation_cycle=3)),
    "rotary positions": ("config_of", setting(rope=True)),
    "offsets in spreads": ("config_of", setting(offsets="spread")),
    "a product of Gaussians": ("config_of", setting(combine="product")),
    "norms over frames": ("config_of", setting(conv_norm="frame")),
    "heads": ("config_of", setting(heads=2)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mistake_in_the_mapping_shows(mutant: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is off by more than ten times the tolerance would be seen above."""
    name, replacement = MUTANTS[mutant]
    monkeypatch.setattr(daam, name, replacement)
    assert apart(made(str(file)).encoder, reference.encoder(0)) > 1e-3


def test_padding_that_keeps_all_rows_gives_another_number_of_frames(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daam, "config_of", setting(legacy_padding=False))
    assert made(str(file)).encoder(clips(38)).patches.shape[1] == 38


@pytest.mark.parametrize("source", ["online", "teacher"])
@pytest.mark.parametrize("stage", [reference.stage_1, reference.stage_2])
@pytest.mark.parametrize("form", ["whole", "alone", "folder"])
def test_both_stages_and_encoders_in_every_form(stage, source, form, tmp_path: Path, capsys) -> None:
    whole = stage(0)
    zero_files.write(tmp_path / "ds", 2, 2, [whole])
    given, extra = str(tmp_path / "ds"), ["--encoder-source", source]
    if form != "folder":
        given = str(tmp_path / "merged.safetensors")
        alone = ["--encoder-only", *extra] if form == "alone" else []
        assert main(["convert", "deepspeed", "--ds-dir", str(tmp_path / "ds"), "--out", given, *alone]) == 0
        extra = extra if form == "whole" else []
    command = ["convert", "daam", given, "--out", str(tmp_path / "out"), "--heads", "4", "--sampling-rate", str(RATE)]
    assert main([*command, *extra]) == 0
    ours, theirs = load(tmp_path / "out"), reference.encoder(0 if source == "online" else 1)
    torch.testing.assert_close(ours(clips(38)).patches, theirs(clips(38)), rtol=0, atol=1e-4)
    origin = read_provenance(tmp_path / "out")["converted"]
    assert origin["kind"] == "daam"
    assert origin["encoder"] == source
    assert origin["source"] == (f"ds/{zero_files.TAG}" if form == "folder" else "merged.safetensors")
    assert bool(origin["left_out"]) == (form == "whole")
    assert "not stated here" in (tmp_path / "out" / "README.md").read_text()
    assert f"{source} encoder: waveform at {RATE} Hz; strides 4x5x3" in capsys.readouterr().err


def test_a_file_of_one_encoder_is_not_taken_for_the_other(tmp_path: Path) -> None:
    zero_files.write(tmp_path / "ds", 2, 2, [reference.stage_1(0)])
    out = tmp_path / "teacher.safetensors"
    main(["convert", "deepspeed", "--ds-dir", str(tmp_path / "ds"), "--out", str(out), "--encoder-only"])
    with pytest.raises(UsageError, match="holds the online encoder alone: leave out --encoder-source=teacher"):
        made(str(out), encoder="teacher")
    save_file(load_file(out), out, metadata={"birdjepa": "]"})
    with pytest.raises(UsageError, match="header says of birdjepa is not readable"):
        made(str(out))


def without(name: str):
    return lambda whole: whole.pop(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("encoder.1.snake.raw"), r"encoder\.1\.snake\.raw is missing"),
        (without("conformer_blocks.1.qkv.bias"), r"conformer_blocks\.1\.qkv\.bias is missing"),
        (without("input_conv.weight"), "neither input_conv.weight nor"),
        (lambda whole: whole.update({"encoder.0.more": torch.ones(1)}), r"encoder\.0\.more is no part"),
        (lambda whole: whole.update({"bottleneck_proj.bias": torch.ones(3)}), r"bottleneck_proj\.bias has shape"),
        (lambda whole: whole["encoder.0.conv.bias"].fill_(torch.nan), r"encoder\.0\.conv\.bias holds NaN"),
        (
            lambda whole: (
                whole.update({"norm": torch.ones(1), "norm_final": torch.ones(1)})
                or whole.update({"conformer_blocks.0.norm_final.bias": torch.ones(32, dtype=torch.int32)})
            ),
            r"conformer_blocks\.0\.norm_final\.bias is of torch\.int32",
        ),
    ],
)
def test_what_is_not_exactly_such_an_encoder_is_refused_in_one_line(change, reason, tmp_path, capsys) -> None:
    whole = {name: tensor.clone() for name, tensor in reference.encoder(0).state_dict().items()}
    change(whole)
    save_file(whole, tmp_path / "odd.safetensors")
    with pytest.raises(UsageError, match=rf"^odd\.safetensors: .*{reason}"):
        made(str(tmp_path / "odd.safetensors"))
    command = ["convert", "daam", str(tmp_path / "odd.safetensors"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["odd.safetensors"]


def test_settings_that_cannot_be_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"whole\.safetensors: code_dim=32 must be a multiple of heads=5"):
        made(str(file), heads=5)
    with pytest.raises(UsageError, match="only those have tags: leave out --tag=step7"):
        made(str(file), tag="step7")
    with pytest.raises(UsageError, match="latest is missing"):
        made(str(tmp_path))
    with pytest.raises(UsageError, match="no such file or folder"):
        made(str(tmp_path / "none.safetensors"))
    bare = {name: each for name, each in reference.encoder(0).state_dict().items() if not name.startswith("encoder.")}
    bare["bottleneck_proj.weight"] = torch.ones(reference.CODE_DIM, reference.CHANNELS[0], 1)
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(UsageError, match=r"no encoder\.0\.conv\.weight"):
        made(str(tmp_path / "bare.safetensors"))


def test_embed_and_probe_take_it_and_a_codec_does_not(file: Path, tmp_path: Path, capsys) -> None:
    encoder, songs = tmp_path / "encoder", write_songs(tmp_path / "songs", 12)
    command = ["convert", "daam", str(file), "--out", str(encoder), "--heads", "4", "--sampling-rate", str(RATE)]
    assert main(command) == 0
    out = tmp_path / "rows.parquet"
    assert main(["embed", str(encoder), str(songs), "--out", str(out)]) == 0
    rows = parquet.read_table(out).to_pylist()
    assert np.array([row["embedding"] for row in rows]).shape == (12, 2 * reference.CODE_DIM)
    capsys.readouterr()
    assert main(["probe", str(encoder), "--data", str(songs), "--json", "--classifier", "knn"]) == 0
    assert set(json.loads(capsys.readouterr().out)["floors"]) == {"logmel", "random"}
    config = load(encoder).config
    assert isinstance(config, WaveformEncoderConfig)
    with pytest.raises(ValueError, match="legacy_padding gives fewer frames than hops"):
        CodecConfig(encoder=config)
