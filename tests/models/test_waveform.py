"""The waveform encoder: lengths, what may have no influence on what, and what its settings say of it."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from birdjepa.models.waveform import PRESETS, Waveform, WaveformConfig

TINY = {
    "preset": "nano",
    "channels": (4, 6, 8),
    "strides": (4, 5),
    "code_dim": 8,
    "heads": 2,
    "n_res_blocks": 2,
    "reach": 2,
    "kernel": 5,
}
HOP = 20
SETTINGS: list[dict[str, Any]] = [
    {},
    {"reach": 0},
    {"reach": 0, "combine": "product", "conv_norm": "clip"},
    {"rope": False, "dilation_cycle": 1},
    {"components": 0},
    {"n_conformers": 0},
    {"channels": (4, 48, 50), "n_res_blocks": 3},
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**settings: Any) -> Waveform:
    network = WaveformConfig(**{**TINY, **settings}).build().initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # biases begin at zero, and weights so small that only the shortcuts count
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.1 * random(*parameter.shape, seed=number)
    return network


def frames_of(network: Waveform, *inputs: Tensor | None) -> Tensor:
    with torch.no_grad():
        return network(*inputs).values


@pytest.mark.parametrize("n_samples", [1, 2, HOP - 1, HOP, HOP + 1, 7 * HOP, 7 * HOP + 1])
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_hop_begun_gives_one_frame(n_samples: int, settings: dict[str, Any]) -> None:
    network, n = make(**settings), -(-n_samples // HOP)
    frames = network(random(2, n_samples))
    assert frames.values.shape == (2, n, 8)
    assert frames.kept.all()
    assert frames.values.isfinite().all()
    assert network.config.n_frames(n_samples) == n
    filled = torch.nn.functional.pad(random(2, n_samples), (0, n * HOP - n_samples))
    torch.testing.assert_close(frames_of(network, filled), frames.values)


@pytest.mark.parametrize("strides", [(2,), (3,), (2, 3, 5, 4), (8, 8, 5, 5, 6), (7, 6)])
@pytest.mark.parametrize("n_hops", [1, 2, 3])
def test_strides_odd_and_even(strides: tuple[int, ...], n_hops: int) -> None:
    network = make(strides=strides, channels=(4,) * (len(strides) + 1), n_res_blocks=1)
    assert network(random(1, n_hops * network.config.hop)).values.shape[1] == n_hops


def test_legacy_padding_loses_a_frame_where_a_stride_is_odd() -> None:
    network = make(strides=(8, 5), reach=0, legacy_padding=True)
    config = network.config
    assert (config.least_frames, config.n_frames(40), config.n_frames(38 * 40)) == (2, 0, 37)
    assert network(random(2, 5 * 40)).values.shape[1] == config.n_frames(5 * 40) == 4
    public = WaveformConfig(preset="reference", legacy_padding=True)
    assert public.n_frames(15 * 24_000) == 37
    assert WaveformConfig(preset="reference").n_frames(15 * 24_000) == 38
    with pytest.raises(ValueError, match="rows that legacy_padding loses belong to no frame: set reach=0"):
        make(strides=(8, 5), legacy_padding=True)
    with pytest.raises(ValueError, match="hide no samples"):
        network(random(1, 200), None, torch.ones(1, 5, dtype=torch.bool))


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_clip_gives_the_same_frames_alone_and_in_a_padded_batch(settings: dict[str, Any]) -> None:
    network, lengths = make(**settings), torch.tensor([23 * HOP, 5 * HOP + 3, 1])
    clips = 3 * random(3, 23 * HOP)  # what is behind a clip's end is noise
    batch = network(clips, lengths)
    for clip, length, values, kept in zip(clips, lengths.tolist(), *batch, strict=True):
        n = -(-length // HOP)
        assert kept.tolist() == [True] * n + [False] * (23 - n)
        assert not values[n:].any()
        whole_hops = clip[None, : n * HOP]
        torch.testing.assert_close(values[:n], frames_of(network, whole_hops)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_is_hidden_has_no_influence_at_all(settings: dict[str, Any]) -> None:
    network, clips = make(**settings), random(2, 12 * HOP).requires_grad_()
    visible = torch.ones(2, 12, dtype=torch.bool)
    visible[0, 4:9] = visible[1, 0] = visible[1, 11] = False
    frames = network(clips, None, visible)
    assert torch.equal(frames.kept, visible)
    assert not frames.values[~visible].any()
    frames.values.square().sum().backward()
    by_hop = clips.grad.view(2, 12, HOP)
    assert not by_hop[~visible].any()
    assert by_hop[visible].any(-1).all()
    changed = clips.detach().clone()
    changed.view(2, 12, HOP)[~visible] = torch.inf
    assert torch.equal(frames_of(network, changed, None, visible), frames.values)


def test_clips_know_nothing_of_each_other() -> None:
    network, clips = make(reach=0), random(3, 9 * HOP).requires_grad_()
    network(clips).values[1].square().sum().backward()
    assert clips.grad[1].any()
    assert not clips.grad[::2].any()


@pytest.mark.parametrize("settings", [{}, {"n_res_blocks": 1, "n_conformers": 2}, {"components": 0, "strides": (3, 2)}])
def test_the_receptive_field_is_a_true_bound(settings: dict[str, Any]) -> None:
    network = make(**settings)
    config = network.config
    n = 2 * (config.receptive_field // config.hop + 2) + 1
    clips, middle = random(1, n * config.hop).requires_grad_(), n // 2
    network(clips).values[0, middle].square().sum().backward()
    begin, end = middle * config.hop - config.receptive_field, (middle + 1) * config.hop + config.receptive_field
    assert 0 < begin < end < clips.shape[1]
    assert not clips.grad[0, :begin].any()
    assert not clips.grad[0, end:].any()
    heard = clips.grad[0].nonzero()[:, 0]
    assert heard.max() - heard.min() > 0.75 * (end - begin)
    with torch.no_grad():
        before = network(clips).values[0, middle]
        clips[0, begin - 1] = clips[0, end] = 9.0
        torch.testing.assert_close(network(clips).values[0, middle], before, rtol=0, atol=1e-6)
    assert WaveformConfig(preset="reference").receptive_field == -1


def test_the_last_of_the_layers_is_the_output() -> None:
    network, clips = make(n_conformers=3), random(2, 7 * HOP)
    layers = network.layers(clips)
    assert len(layers) == 4
    torch.testing.assert_close(layers[-1], network(clips))
    assert (layers[0].values - layers[-1].values).abs().max() > 1e-2


def test_the_same_again_and_again() -> None:
    clips = random(2, 9 * HOP)
    gradients = []
    for recompute in (False, False, True):
        network = make(channels=(4, 48, 50), activation_checkpointing=recompute)
        network(clips).values.square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(
        torch.equal(first, other) for more in gradients[1:] for first, other in zip(gradients[0], more, strict=True)
    )
    network = make()
    with torch.no_grad():
        assert torch.equal(network(clips).values, network(clips).values)


def test_what_trains_is_every_parameter_and_there_are_no_buffers() -> None:
    network = make(channels=(4, 48, 50))
    network(random(2, 30 * HOP)).values.square().mean().backward()
    assert not [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert not list(network.buffers())


def test_initial_weights_come_from_the_generator_alone() -> None:
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = WaveformConfig(**TINY).build().initialise(torch.Generator().manual_seed(5))
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(tensor.isfinite().all() for tensor in states[0].values())


def test_autocast_output_is_close() -> None:
    network, clips = make(), random(2, 9 * HOP)
    with torch.autocast("cpu", torch.bfloat16):
        rough = frames_of(network, clips).float()
    exact = frames_of(network, clips)
    assert (rough - exact).square().mean() < 0.01 * exact.square().mean()


@pytest.mark.parametrize(("cycle", "n_parameters"), [(8, 118_512_562), (3, 118_512_562)])
def test_the_reference_preset_has_the_parameters_of_the_public_encoder(cycle: int, n_parameters: int) -> None:
    with torch.device("meta"):
        network = WaveformConfig(preset="reference", dilation_cycle=cycle).build()
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters
    assert network.stages[0].blocks[7].dilations == ((1, 2187, 78125) if cycle == 8 else (1, 3, 5))


@pytest.mark.parametrize(
    ("preset", "hz"), [("nano", 50.0), ("small", 50.0), ("25hz", 25.0), ("12.5hz", 12.5), ("reference", 2.5)]
)
def test_presets(preset: Any, hz: float) -> None:
    config = WaveformConfig(preset=preset)
    assert config.frame_rate == hz
    assert config.shape == PRESETS[preset]
    with pytest.MonkeyPatch.context() as patch:  # what was exported is read when presets have changed
        spelt_out = config.spelt_out
        patch.setitem(PRESETS, preset, PRESETS["nano"]._replace(code_dim=4, reach=7))
        assert spelt_out.shape != PRESETS[preset]
        assert spelt_out.frame_rate == hz
    higher = dataclasses.replace(config, sampling_rate=2 * config.shape.sampling_rate)
    assert higher.frame_rate == 2 * hz


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling_rate": 0}, "need sampling_rate"),
        ({"dilation_cycle": 0}, "dilation_cycle >= 1"),
        ({"components": -2}, "components >= 0"),
        ({"channels": (4, 4)}, "one entry for the first"),
        ({"strides": (4, 1)}, "at least 2"),
        ({"code_dim": 9}, "multiple of heads"),
        ({"heads": 4}, "of 4 with rope"),
        ({"conv_norm": "clip"}, "set reach=0"),
        ({"combine": "product"}, "set reach=0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WaveformConfig(**{**TINY, **settings})
