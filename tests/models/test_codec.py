import dataclasses

import pytest
import torch
from tiny_codec import CODEC, ENCODER, batch, build

from birdjepa.core import config as configs
from birdjepa.core.errors import UsageError
from birdjepa.models.codec import CodecConfig, load_codec
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.nn.fsq import FsqConfig


@pytest.mark.parametrize("n_samples", [1, 319, 320, 321, 3200, 3201])
def test_a_hop_is_a_frame_and_a_frame_a_hop(n_samples: int) -> None:
    codec = build().eval()
    coded = codec.encode(batch((n_samples,)).clips)
    n_frames = -(-n_samples // 320)
    assert coded.indices.shape == (1, n_frames, 16)
    assert codec.decode(coded.values).shape == (1, n_frames * 320)


def test_codes_are_the_same_alone_and_in_a_padded_batch_and_in_any_mode_and_precision() -> None:
    codec, clips = build(), batch()
    together = codec.train().encode(clips.clips, clips.lengths)
    for i, n_samples in enumerate(clips.lengths.tolist()):
        alone = codec.encode(clips.clips[i : i + 1, :n_samples])
        n_frames = alone.indices.shape[1]
        assert torch.equal(together.indices[i, :n_frames], alone.indices[0])
        assert not together.values[i, n_frames:].any()
        assert together.kept[i].sum() == n_frames
    assert torch.equal(codec.eval().encode(clips.clips, clips.lengths).indices, together.indices)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(clips.clips, clips.lengths).indices, together.indices)
    kept = together.kept
    assert torch.equal(codec.quantiser.fsq.values_of(together.indices)[kept], together.values[kept])


@pytest.mark.parametrize("dims", [0, 8])
def test_the_encoder_is_fixed_and_the_rest_learns(dims: int) -> None:
    codec = build(dataclasses.replace(CODEC, quantiser=QuantiserConfig(dims=dims))).train()
    assert codec.training
    assert codec.vocoder.training
    assert not any(module.training for module in codec.encoder.modules())
    clips = batch().clips.requires_grad_()
    coded = codec.encode(clips)
    assert coded.values.requires_grad == bool(codec.config.quantiser.dims)
    codec.decode(coded.values).square().sum().backward()
    assert all(parameter.grad is None for parameter in codec.encoder.parameters())
    assert clips.grad is None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in codec.learnt.parameters())
    learnt = {name for name, _ in codec.learnt.named_parameters()}
    assert learnt == {name for name, parameter in codec.named_parameters() if parameter.requires_grad}


def test_a_saved_codec_comes_back_as_it_was(tmp_path) -> None:
    codec, clips = build(), batch()
    codec.save(tmp_path / "codec", card="a card", provenance={"of": "a test"})
    back = load_codec(tmp_path / "codec")
    assert back.config == codec.config
    assert not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    coded = back.encode(clips.clips, clips.lengths)
    assert torch.equal(coded.indices, codec.encode(clips.clips, clips.lengths).indices)
    assert torch.equal(back.decode(coded.values), codec.decode(coded.values))


def test_folders_that_hold_no_codec_are_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(UsageError, match="give a codec folder"):
        load_codec(tmp_path)
    build().encoder.save(tmp_path / "encoder", card="", provenance={})
    with pytest.raises(UsageError, match="not a birdjepa codec"):
        load_codec(tmp_path / "encoder")
    folder = build().save(tmp_path / "codec", card="", provenance={})
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UsageError, match="does not match the hash"):
        load_codec(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model\.safetensors: missing"):
        load_codec(folder)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocoder makes 9600 samples of a frame .* a frame of 320"):
        CodecConfig(encoder=ENCODER, vocoder=VocoderConfig(preset="reference"))
    with pytest.raises(ValueError, match="3 equal blocks, which do not divide 16"):
        dataclasses.replace(CODEC, quantiser=QuantiserConfig(fsq=FsqConfig(levels=(4, 4, 4))))
    with pytest.raises(ValueError, match="lower group_size=32"):
        dataclasses.replace(CODEC, quantiser=QuantiserConfig(dims=32), group_size=32)
    legacy = dataclasses.replace(ENCODER, network=dataclasses.replace(ENCODER.network, reach=0, legacy_padding=True))
    with pytest.raises(ValueError, match="fewer frames than hops"):
        dataclasses.replace(CODEC, encoder=legacy)


def test_configurations_go_through_json() -> None:
    assert CODEC.packing().radices == (4,) * 16
    assert (CODEC.hop, CODEC.sampling_rate) == (320, 8_000)
    assert configs.from_json(CodecConfig, configs.to_json(CODEC)) == CODEC
