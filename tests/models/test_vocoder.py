import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.core import config as configs
from birdjepa.models import waveform
from birdjepa.models.vocoder import PRESETS, Vocoder, VocoderConfig

TINY = VocoderConfig(channels=(8, 8, 6, 4), strides=(5, 4, 3), kernels=(3, 7))
each_config = pytest.mark.parametrize(
    "config", [TINY, VocoderConfig(channels=(6, 4), strides=(2,), kernels=(3, 11), dilations=(1,), activation="snake")]
)


def build(config: VocoderConfig = TINY, n_in: int = 5, seed: int = 0) -> Vocoder:
    return config.build(n_in).initialise(torch.Generator().manual_seed(seed))


def frames(n_frames: int, n_clips: int = 2) -> Tensor:
    return torch.randn(n_clips, n_frames, 5, generator=torch.Generator().manual_seed(1))


def n_parameters(config: VocoderConfig, n_in: int = 128) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build(n_in).parameters())


def test_the_reference_has_the_published_number_of_parameters() -> None:
    config = VocoderConfig(preset="reference")
    assert config.hop == 9600
    assert n_parameters(config) == 69_291_649
    with torch.device("meta"):
        assert config.build(128).receptive_field == 14


def test_presets_fit_the_encoders_of_their_names() -> None:
    assert PRESETS.keys() == waveform.PRESETS.keys()
    for name, (channels, strides, _) in PRESETS.items():
        theirs = waveform.PRESETS[name]
        assert math.prod(strides) == math.prod(theirs.strides), name
        if theirs.sampling_rate == 24_000:
            assert (channels[::-1], strides[::-1]) == (theirs.channels, theirs.strides), name


def test_every_named_kernel_exists_with_every_dilation() -> None:
    kernels, dilations = (3, 7, 11, 15, 23, 31), (1, 3, 5, 7)
    config = VocoderConfig(preset="reference", kernels=kernels, dilations=dilations)
    made = VocoderConfig(preset="reference", kernels=(3,), dilations=(1,))
    per_block = [
        2 * sum(width * width * kernel + width for kernel in kernels for _ in dilations)
        for width in config.shape.channels[1:]
    ]
    base = n_parameters(made) - sum(2 * (width * width * 3 + width) for width in config.shape.channels[1:])
    assert n_parameters(config) == base + sum(per_block)
    vocoder = build(VocoderConfig(channels=(4, 2), strides=(2,), kernels=kernels, dilations=dilations))
    found = {
        (module.kernel_size[0], module.dilation[0])
        for module in vocoder.blocks[0].modules()
        if type(module) is nn.Conv1d
    }
    assert {(kernel, dilation) for kernel in kernels for dilation in dilations} == found
    vocoder(frames(3)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in vocoder.parameters())


@each_config
@pytest.mark.parametrize("n_frames", [1, 2, 3, 38])
def test_frames_become_exactly_as_many_hops(config: VocoderConfig, n_frames: int) -> None:
    assert config.hop == math.prod(config.strides)
    wave = build(config)(frames(n_frames))
    assert wave.shape == (2, n_frames * config.hop)
    assert (wave.abs() < 1).all()


def test_the_forward_pass_equals_one_written_plainly() -> None:
    vocoder, z = build(), frames(4)
    weights = vocoder.state_dict()

    def conv(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        return F.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding="same", dilation=dilation)

    x = conv("enter", z.mT)
    for i, stride in enumerate(TINY.strides):
        a = F.softplus(weights[f"blocks.{i}.snake.raw"])[:, None] + 0.01
        x = x + torch.sin(a * x) ** 2 / a
        up = f"blocks.{i}.up"
        whole = F.conv_transpose1d(x, weights[f"{up}.weight"], weights[f"{up}.bias"], stride=stride)
        start = -(-stride // 2)
        x = whole[..., start : start + stride * z.shape[1] * math.prod(TINY.strides[:i])]
        fields = []
        for k in range(len(TINY.kernels)):
            field = x
            for j, dilation in enumerate(TINY.dilations):
                name = f"blocks.{i}.fields.{k}"
                inner = conv(f"{name}.dilated.{j}", F.leaky_relu(field, 0.1), dilation)
                field = field + conv(f"{name}.plain.{j}", F.leaky_relu(inner, 0.1))
            fields.append(field)
        x = torch.stack(fields).mean(0)
    torch.testing.assert_close(vocoder(z), torch.tanh(conv("leave", x))[:, 0])


@each_config
def test_a_part_with_its_context_decodes_to_what_it_is_in_the_whole(config: VocoderConfig) -> None:
    vocoder = build(config).eval()
    context, hop, n_frames = vocoder.receptive_field, config.hop, 50
    assert 0 < context < 20
    z = frames(n_frames)
    with torch.inference_mode():
        whole = vocoder(z)
        parts = []
        for start in range(0, n_frames, 7):
            first, last = max(0, start - context), min(n_frames, start + 7 + context)
            part = vocoder(z[:, first:last])
            parts.append(part[:, (start - first) * hop :][:, : 7 * hop])
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


@each_config
def test_the_receptive_field_is_where_the_gradient_ends(config: VocoderConfig) -> None:
    vocoder = build(config)
    z, middle = frames(50, 1).double().requires_grad_(), 25
    vocoder.double()(z)[:, middle * config.hop : (middle + 1) * config.hop].sum().backward()
    assert z.grad is not None
    touched = z.grad[0].abs().sum(-1).nonzero()
    reached = max(middle - touched.min().item(), touched.max().item() - middle)
    assert reached == vocoder.receptive_field


def test_the_vocoder_is_a_function_of_its_generator_and_starts_as_loud_as_recordings_are() -> None:
    first, again, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    for activation in ("leaky_relu", "snake"):
        config = VocoderConfig(channels=(64, 48, 32, 16), strides=(4, 4, 2), activation=activation)
        assert 0.05 < build(config)(frames(40)).std() < 0.5


def test_everything_trains_and_clips_do_not_see_each_other() -> None:
    vocoder, z = build(), frames(4, 3)
    vocoder(z).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in vocoder.parameters())
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(vocoder(z[order]), vocoder(z)[order])


def test_the_waveform_is_float32_under_autocast() -> None:
    vocoder, z = build(), frames(4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = vocoder(z)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, vocoder(z), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"channels": (4, 4)}, "one entry more than strides"),
        ({"channels": (4, 0), "strides": (2,)}, "channels >= 1"),
        ({"channels": (4, 4), "strides": (1,)}, "strides >= 2"),
        ({"dilations": ()}, "dilations must be one or more"),
        ({"dilations": (1, 0)}, "dilations must be one or more"),
        ({"kernels": (3, 7, 32)}, "odd and positive to leave the length as it is, got 32"),
    ],
)
def test_bad_settings_are_refused(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VocoderConfig(**settings)


@each_config
def test_configurations_go_through_json(config: VocoderConfig) -> None:
    assert configs.from_json(VocoderConfig, configs.to_json(config)) == config
