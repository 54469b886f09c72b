"""Our encoder against the public system's architecture written plainly, with the same weights: the same frames."""

from pathlib import Path

import pytest
import torch

from birdjepa.models.waveform import WaveformConfig


@pytest.mark.parametrize("legacy_padding", [False, True])
def test_frames_and_gradients_equal_those_of_the_plain_encoder(
    legacy_padding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import waveform  # pyright: ignore[reportMissingImports]

    config = WaveformConfig(
        preset="nano",
        channels=(8, 48, 50, 52),
        strides=(4, 5, 3),
        code_dim=16,
        heads=4,
        n_res_blocks=8,
        n_conformers=2,
        reach=0,
        conv_norm="clip",
        offsets="score",
        rope=False,
        dilation_cycle=8,
        legacy_padding=legacy_padding,
    )
    ours = config.build().initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # biases begin at zero, and weights so small that only the shortcuts count
        for number, parameter in enumerate(ours.parameters()):
            parameter += 0.04 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    plain = waveform.PlainEncoder(config).take(ours)
    clips = torch.randn(2, 60 * config.hop, generator=torch.Generator().manual_seed(1))
    frames, expected = ours(clips).values, plain(clips)
    assert frames.shape == expected.shape
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips).values, expected, rtol=0, atol=1e-4)
    frames.square().mean().backward()
    expected.square().mean().backward()
    for name, parameter in plain.named_parameters():
        got = ours.get_parameter(name).grad
        if any(part in name for part in waveform.LAYERS) and got.ndim == 3:
            got = got.permute(2, 1, 0)
        scale = parameter.grad.abs().max()
        torch.testing.assert_close(
            got.reshape(parameter.shape), parameter.grad, rtol=0, atol=2e-2 * float(scale) + 1e-6
        )
