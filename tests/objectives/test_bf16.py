"""Training under bfloat16 autocast: whoever learns gets the gradient that float32 gives, but for rounding.

Not a matter of course: for strided convolutions of few channels, torch has computed noise on some processors and said
nothing, and what a processor without bfloat16 does tells nothing of those that have it.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import tiny_codec
import torch
from objective_examples import CHANCE, SIZE, make_clips, make_encoder
from torch import Tensor, nn

from birdjepa.models.discriminators import DiscriminatorsConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform import WaveformConfig
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.base import Chance
from birdjepa.objectives.daam import DaamConfig


def random(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def gradients(network: nn.Module, loss_of: Callable[[], Tensor], *, bf16: bool) -> dict[str, Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = loss_of()
    loss.backward()
    return {name: each.grad.flatten() for name, each in network.named_parameters() if each.grad is not None}


def check(network: nn.Module, loss_of: Callable[[], Tensor], *, least_cosine: float = 0.98) -> None:
    """The whole gradient has its direction and size, and no parameter's a size of its own."""
    exact, rough = (gradients(network, loss_of, bf16=bf16) for bf16 in (False, True))
    assert exact.keys() == rough.keys()
    whole, found = torch.cat(list(exact.values())), torch.cat(list(rough.values()))
    assert torch.cosine_similarity(whole, found, dim=0) > least_cosine
    assert abs(math.log(found.norm() / whole.norm())) < 0.1
    least = 1e-3 * whole.norm()
    odd = [name for name, each in exact.items() if not 0.5 < (rough[name].norm() + least) / (each.norm() + least) < 2]
    assert not odd


def towards(outputs: list[Tensor]) -> Tensor:
    """A loss whose gradient differs everywhere."""
    drawn = torch.Generator().manual_seed(2)
    return torch.stack([(each.float() * torch.randn(each.shape, generator=drawn)).mean() for each in outputs]).sum()


@pytest.mark.parametrize("preset", ["nano", "small"])
def test_of_waveform_encoders(preset: Any) -> None:
    network = WaveformConfig(preset=preset).build().initialise(torch.Generator().manual_seed(0))
    clips = random(2, 20 * network.config.hop)
    check(network, lambda: towards([network(clips).values]))


@pytest.mark.parametrize(
    "config",
    [
        VocoderConfig(preset="nano"),
        VocoderConfig(preset="small"),
        VocoderConfig(preset="small", strides=(16, 10, 8)),
        VocoderConfig(preset="25hz", channels=(32, 24, 16, 8, 4)),
        VocoderConfig(preset="reference", channels=(32, 32, 24, 16, 8, 4)),
    ],
)
def test_of_vocoders(config: VocoderConfig) -> None:
    network = config.build(16).initialise(torch.Generator().manual_seed(0))
    frames = 10 * random(2, 3, 16)
    check(network, lambda: towards([network(frames)]))


@pytest.mark.parametrize("divisor", [32, 16, 4])
@pytest.mark.parametrize("longer", [0, 7, 3000])
def test_of_discriminators(divisor: int, longer: int) -> None:
    config = DiscriminatorsConfig(divisor=divisor)
    network = config.build().initialise(torch.Generator().manual_seed(0))
    wave = random(3, config.least_samples + longer)
    check(network, lambda: towards([each for judged in network(wave) for each in judged.maps]))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_of_objectives_of_spectrograms(name: str) -> None:
    objective, clips = OBJECTIVES[name]().build(make_encoder(), 0, SIZE), make_clips(n_columns=40)
    least_cosine = 0.95 if name == "lejepa" else 0.98  # BatchNorm of six clips makes rounding larger
    check(objective, lambda: objective(clips, CHANCE).loss, least_cosine=least_cosine)


def test_of_density_adaptive_jepa() -> None:
    clips = tiny_codec.batch()
    objective = DaamConfig().build(tiny_codec.ENCODER.build().initialise(0), 0, SIZE)
    check(objective, lambda: objective(clips, CHANCE).loss)


@pytest.mark.parametrize("step", [0, tiny_codec.OBJECTIVE.disc_start_step])
def test_of_a_codec(step: int) -> None:
    objective, clips = tiny_codec.build_objective(), tiny_codec.batch()
    check(objective, lambda: objective(clips, Chance(seed=0, step=step, n_steps=10)).loss)
