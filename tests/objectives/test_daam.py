"""Density-adaptive JEPA: what the context may know, what is scored, who learns."""

import dataclasses

import pytest
import torch
from torch import Tensor

from birdjepa.audio.clips import ClipConfig
from birdjepa.core.batch import ClipBatch
from birdjepa.models.frame_predictor import FramePredictorConfig
from birdjepa.models.waveform import Frames, WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoder, WaveformEncoderConfig
from birdjepa.objectives.base import Chance, DataSize
from birdjepa.objectives.daam import (
    Daam,
    DaamConfig,
    FrameSigregConfig,
    MaskAt,
    Spectrum,
    masked_loss,
    standardised_frames,
)

CHANCE = Chance(seed=0, step=5, n_steps=10)
NETWORK = WaveformConfig(preset="nano", sampling_rate=8_000, strides=(4, 5, 4), reach=0)
HOP = NETWORK.hop


def make_encoder(network: WaveformConfig = NETWORK) -> WaveformEncoder:
    config = WaveformEncoderConfig(network=network, clips=ClipConfig(clip_s=1.0, hop_s=1.0), pooling="mean+std")
    return config.build().initialise(0)


def make(**config) -> Daam:
    small = FramePredictorConfig(expansion=1, depth=1)
    return DaamConfig(**{"gain_db": 0.0, "predictor": small, **config}).build(make_encoder(), 0, DataSize(4, 0))


def make_batch(lengths: tuple[int, ...] = (1600, 1600, 1283, 400), *, seed: int = 0) -> ClipBatch:
    longest = max(lengths)
    noise = 0.1 * torch.randn(len(lengths), longest, generator=torch.Generator().manual_seed(seed))
    n_samples = torch.tensor(lengths)
    numbers = torch.arange(len(lengths))
    return ClipBatch(
        clips=noise * (torch.arange(longest) < n_samples[:, None]),
        lengths=n_samples,
        label=torch.full((len(lengths),), -1),
        labels=torch.zeros(len(lengths), 0, dtype=torch.bool),
        recording=numbers,
        refused=(),
    )


def of_context(objective: Daam, batch: ClipBatch) -> tuple[Tensor, Tensor]:
    """Gradient of what the context says, by sample, summed over each frame; and which frames are hidden."""
    clips = batch.clips.clone().requires_grad_()
    look = objective.look(clips, batch, CHANCE)
    look.context.values.square().sum().backward()
    assert clips.grad is not None
    return clips.grad.unflatten(1, (-1, HOP)).abs().sum(2), look.hidden


def test_the_context_has_not_heard_what_it_must_predict() -> None:
    gradient, hidden = of_context(make(), make_batch((1600, 1600)))
    assert hidden.any()
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] > 0).all()


@pytest.mark.parametrize("mask_at", ["features", "output"])
def test_other_places_leak(mask_at: MaskAt) -> None:
    gradient, hidden = of_context(make(mask_at=mask_at), make_batch((1600, 1600)))
    assert (gradient[hidden] > 0).any()


def test_behind_the_whole_encoder_the_context_knows_everything() -> None:
    gradient, hidden = of_context(make(mask_at="output"), make_batch((1600, 1600)))
    assert (gradient[hidden] > 0).all()


def test_the_prediction_never_reads_what_stands_at_a_hidden_frame() -> None:
    objective, batch = make(mask_at="output"), make_batch()
    look = objective.look(batch.clips, batch, CHANCE)
    other = torch.where(look.hidden[:, :, None], torch.full_like(look.context.values, 7.0), look.context.values)
    again = objective.predictor(other, look.hidden, look.teacher.kept)
    assert torch.equal(again[look.teacher.kept], look.predicted[look.teacher.kept])


@pytest.mark.parametrize("spectrum_weight", [0.0, 1.0])
def test_padding_changes_nothing(spectrum_weight: float) -> None:
    batch, objective = make_batch(), make(spectrum_weight=spectrum_weight)
    wider = dataclasses.replace(batch, clips=torch.nn.functional.pad(batch.clips, (0, 5 * HOP)))
    torch.testing.assert_close(objective(wider, CHANCE).loss, objective(batch, CHANCE).loss)


def test_only_hidden_frames_are_scored() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(2, 7, 3, generator=generator) for _ in range(2))
    hidden = torch.rand(2, 7, generator=generator) < 0.5
    expected = (predicted - target)[hidden].square().mean()
    torch.testing.assert_close(masked_loss(predicted, target, hidden, "l2"), expected)
    expected = (predicted - target)[hidden].abs().mean()
    torch.testing.assert_close(masked_loss(predicted, target, hidden, "l1"), expected)


def test_the_loss_is_summed_in_float32() -> None:
    """32 clips of 15 s in half precision overflow in the public system."""
    ones = torch.full((32, 37, 128), 3.0, dtype=torch.float16)
    hidden = torch.ones(32, 37, dtype=torch.bool)
    assert masked_loss(ones, -ones, hidden, "l2") == 36.0


def test_nothing_hidden_is_no_error() -> None:
    output = make()(make_batch((HOP, HOP)), CHANCE)
    assert output.loss == 0


@pytest.mark.parametrize("spectrum_weight", [0.0, 1.0])
@pytest.mark.parametrize("mask_at", ["waveform", "features", "output"])
def test_who_learns(mask_at: MaskAt, spectrum_weight: float) -> None:
    objective = make(mask_at=mask_at, spectrum_weight=spectrum_weight)
    objective(make_batch(), CHANCE).loss.backward()
    learns = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    silent = {name for name, parameter in objective.named_parameters() if parameter.grad is None}
    assert silent == {name for name, _ in objective.named_parameters() if name.startswith("teacher.")}
    of_gates = [name for name in learns if "gate" in name and not name.endswith("score.bias")]  # which shifts nothing
    assert all(float(objective.get_parameter(name).grad.abs().sum()) > 0 for name in of_gates)  # pyright: ignore


def test_components_of_a_gate_learn_apart() -> None:
    objective = make()
    objective(make_batch(), CHANCE).loss.backward()
    for name, parameter in objective.named_parameters():
        if name.startswith("encoder.") and name.endswith((".offset", ".scale")):
            assert parameter.grad is not None
            assert len(set(parameter.grad.tolist())) == len(parameter)


def test_the_teacher_follows_by_the_momentum_of_the_step() -> None:
    objective = make(momentum=(0.9, 1.0))
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.add_(1.0)
    before = objective.teacher.network.project.weight.clone()
    objective.after_update(CHANCE)
    torch.testing.assert_close(objective.teacher.network.project.weight, before + 0.05)


def test_monitors_look_at_both_encoders() -> None:
    terms = make()(make_batch(), CHANCE).terms
    assert {"context_std", "context_rank", "teacher_std", "teacher_rank", "hidden_share"} <= set(terms)


def test_sigreg_is_added_by_its_weight() -> None:
    plain, with_it = make(), make(sigreg=FrameSigregConfig(weight=0.5, n_frames=64))
    batch = make_batch()
    output = with_it(batch, CHANCE)
    assert output.loss > plain(batch, CHANCE).loss
    assert "sigreg_excess" in output.terms


@pytest.mark.parametrize(("strides", "parts"), [((4, 5, 4), 1), ((4, 5, 8), 2), ((7, 11, 3), 3), ((2, 11, 2), 1)])
def test_the_spectrum_of_a_frame_is_of_its_own_samples(strides: tuple[int, ...], parts: int) -> None:
    """Parts of about 10 ms that divide it, each centred; a tone within one frame is loudest there."""
    network = dataclasses.replace(NETWORK, strides=strides)
    spectrum = Spectrum(make_encoder(network).config)
    assert spectrum.parts == parts
    clips = torch.zeros(1, 9 * network.hop + 1)
    clips[0, 4 * network.hop : 5 * network.hop] = torch.sin(torch.arange(network.hop) * 0.7)
    told, true = spectrum(torch.zeros(1, 10, 16), clips)
    assert told.shape == true.shape == (1, 10, parts * 40)
    levels = true.view(10, parts, 40).mean(2)
    assert int(levels.flatten().argmax()) // parts == 4
    assert (levels[:2] == levels[0, 0]).all()
    assert (levels[-2:] == levels[0, 0]).all()
    torch.testing.assert_close(levels[3].flip(0), levels[5], atol=0.3, rtol=0.0)


def test_only_what_the_context_heard_must_be_told() -> None:
    objective, batch = make(spectrum_weight=1.0), make_batch((1600, 1600))
    hidden = objective.hidden(batch, CHANCE)
    spectrum = objective.spectrum[0]
    assert isinstance(spectrum, Spectrum)
    told, true = spectrum(objective.encoder.network(batch.clips, batch.lengths, ~hidden).values, batch.clips)
    expected = (told - true)[~hidden].abs().mean()
    output = objective(batch, CHANCE)
    torch.testing.assert_close(output.terms["spectrum"], expected.detach())
    torch.testing.assert_close(output.loss, make()(batch, CHANCE).loss + expected)


def test_without_its_weight_nothing_tells_spectra() -> None:
    assert not any("spectrum" in name for name in (*make().state_dict(), *make()(make_batch(), CHANCE).terms))
    with pytest.raises(ValueError, match="spectrum_weight"):
        DaamConfig(spectrum_weight=-1.0)


def test_instance_norm_is_over_what_is_kept() -> None:
    values = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    padded = Frames(torch.nn.functional.pad(values, (0, 0, 0, 4)), (torch.arange(9) < 5)[None])
    alone = standardised_frames(Frames(values, torch.ones(1, 5, dtype=torch.bool)), "instance")
    torch.testing.assert_close(standardised_frames(padded, "instance")[:, :5], alone)
    torch.testing.assert_close(alone.mean(1), torch.zeros(1, 3), atol=1e-6, rtol=0.0)


def test_alterations_keep_padding_silent_and_are_of_the_step() -> None:
    objective, batch = make(gain_db=6.0, noise=0.01), make_batch()
    altered = objective.altered(batch, CHANCE)
    assert (altered[3, 400:] == 0).all()
    assert torch.equal(altered, objective.altered(batch, CHANCE))
    assert not torch.equal(altered, objective.altered(batch, Chance(0, 6, 10)))


def test_panels_hide_what_is_hidden() -> None:
    context, targets = make().panels(make_batch((1600, 1600)), CHANCE)
    assert (context.frames.isnan() ^ targets.frames.isnan()).all()


def test_it_learns() -> None:
    torch.manual_seed(0)
    objective = make(target_norm="instance", momentum=(0.9, 1.0))
    optimiser = torch.optim.AdamW([each for each in objective.parameters() if each.requires_grad], lr=3e-3)
    time = torch.arange(1600) / 8_000
    losses = []
    for step in range(40):
        pitch = 200 + 300 * torch.rand(8, 1, generator=torch.Generator().manual_seed(step))
        tones = 0.3 * torch.sin(2 * torch.pi * pitch * time * (1 + 2 * time))
        batch = dataclasses.replace(make_batch((1600,) * 8, seed=step), clips=tones)
        optimiser.zero_grad()
        loss = objective(batch, Chance(0, step, 40)).loss
        loss.backward()
        optimiser.step()
        objective.after_update(Chance(0, step, 40))
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
