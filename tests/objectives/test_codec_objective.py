import dataclasses
import math

import pytest
import torch
from tiny_codec import OBJECTIVE, batch, build, build_objective

from birdjepa.core import config as configs
from birdjepa.objectives import codec_losses as losses
from birdjepa.objectives.base import Chance
from birdjepa.objectives.codec import CodecObjective, CodecObjectiveConfig, measure
from birdjepa.optim.adversarial import AdversarialAdamWConfig

ASLEEP, AWAKE = Chance(0, 1, 10), Chance(0, 2, 10)


def gradients(objective: CodecObjective, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def test_before_its_step_there_is_no_discriminator_for_anybody() -> None:
    objective, clips = build_objective(), batch()
    output = objective(clips, ASLEEP)
    assert output.terms.keys() == {"waveform", "stft", "mel", "least_used", "level_bits"}
    found = gradients(objective, output.loss)
    assert not any(grad.any() for name, grad in found.items() if name.startswith("discriminators."))
    assert all(name in found for name, _ in objective.discriminators.named_parameters("discriminators"))
    expected = output.terms["waveform"] + 2 * output.terms["stft"] + output.terms["mel"]
    torch.testing.assert_close(output.loss.detach(), expected)
    optimiser = AdversarialAdamWConfig().build(objective)
    asleep = {group["name"] for group in optimiser.param_groups if objective.sleeps(group["name"], 1)}
    assert asleep == {"discriminators decay", "discriminators no_decay"}
    assert not any(objective.sleeps(group["name"], 2) for group in optimiser.param_groups)


def test_each_side_gets_the_gradient_of_its_own_loss_alone() -> None:
    objective, clips = build_objective(), batch()
    output = objective(clips, AWAKE)
    together = gradients(objective, output.loss)
    part = objective.stretch(clips, objective.codec.encode(clips.clips, clips.lengths), AWAKE)
    real = objective.discriminators(losses.silenced(part.real, part.valid))
    made = losses.silenced(objective.codec.decode(part.values), part.valid)
    against = losses.discriminator_loss(objective.discriminators(made.detach()), real, part.valid)
    of_discriminators = gradients(objective, against)
    judged = objective.discriminators(made)
    of_sound = (
        losses.waveform_loss(made, part.real, part.valid)
        + 2 * losses.stft_loss(made, part.real, OBJECTIVE.stft, part.valid)
        + losses.mel_loss(made, part.real, objective.mels, part.valid)
        + 0.1 * losses.adversarial_loss(judged, part.valid)
        + 0.2 * losses.feature_loss(judged, objective.discriminators(part.real * part.valid), part.valid)
    )
    of_vocoder = gradients(objective, of_sound)
    assert together.keys() == of_discriminators.keys() | of_vocoder.keys()
    assert not any(name.startswith("codec.encoder") for name in together)
    for name, grad in together.items():
        expected = (of_discriminators if name.startswith("discriminators.") else of_vocoder)[name]
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)
        assert grad.any(), name
    torch.testing.assert_close(output.terms["discriminator"], against.detach())
    assert all(parameter.requires_grad for parameter in objective.discriminators.parameters())


def test_the_encoder_stays_as_it_was() -> None:
    objective = build_objective().train()
    before = {name: value.clone() for name, value in objective.encoder.state_dict().items()}
    optimiser = AdversarialAdamWConfig(lr=0.1, weight_decay=0.5).build(objective)
    for _ in range(2):
        optimiser.zero_grad()
        objective(batch(), AWAKE).loss.backward()
        optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in objective.encoder.state_dict().items())
    assert not any(module.training for module in objective.encoder.modules())
    trained = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in objective.encoder.parameters()}


def test_a_stretch_lies_within_the_sound_and_is_what_its_codes_stand_for() -> None:
    objective, clips = build_objective(), batch((3840, 2600, 700, 1))
    coded = objective.codec.encode(clips.clips, clips.lengths)
    firsts = set()
    for step in range(40):
        part = objective.stretch(clips, coded, Chance(0, step, 40))
        assert part.values.shape == (4, 5, 16)
        assert part.real.shape == part.valid.shape == (4, 1600)
        assert part.valid[0].all()
        assert part.valid[2].sum() == 700
        assert part.valid[3].sum() == 1
        assert not part.real[~part.valid].any()
        for i in range(4):
            at = [first for first in range(8) if torch.equal(coded.values[i, first : first + 5], part.values[i])]
            sound = torch.nn.functional.pad(clips.clips[i], (0, 1600))
            places = [first for first in at if torch.equal(sound[first * 320 : first * 320 + 1600], part.real[i])]
            assert places, i
            firsts.add((i, places[0]))
            assert part.valid[i].sum() > 1600 - 320 or i > 1
    assert {first for i, first in firsts if i == 0} == set(range(8)), "every place is drawn"
    assert {first for i, first in firsts if i > 1} == {0}
    again = objective.stretch(clips, coded, Chance(0, 3, 40))
    assert torch.equal(again.real, objective.stretch(clips, coded, Chance(0, 3, 40)).real)


def test_a_batch_is_the_mean_of_its_clips_whatever_stands_in_the_padding() -> None:
    config = dataclasses.replace(OBJECTIVE, segment_s=0.0)
    objective, clips = build_objective(config), batch((4000, 1920))
    together = objective(clips, AWAKE)
    filled = clips.clips.clone()
    filled[1, 1920:] = 7.0
    for name, value in objective(dataclasses.replace(clips, clips=filled), AWAKE).terms.items():
        if name not in ("least_used", "level_bits"):
            torch.testing.assert_close(value, together.terms[name], msg=name)
    alone = [objective(clips.select([i]), AWAKE) for i in range(2)]
    torch.testing.assert_close(together.loss, torch.stack([each.loss for each in alone]).mean())
    torch.testing.assert_close(together.watched, torch.cat([each.watched for each in alone]))


def test_statistics_are_those_of_all_that_is_sound() -> None:
    codec, clips = build(), [batch(), batch((320, 1000))]
    measure(codec, clips)
    every = torch.cat([f.values[f.kept] for each in clips for f in (codec.frames(each.clips, each.lengths),)])
    assert len(every) == 13 + 10 + 1 + 1 + 1 + 4
    torch.testing.assert_close(codec.quantiser.mean, every.mean(0))
    torch.testing.assert_close(codec.quantiser.std, every.std(0))
    objective = CodecObjective(OBJECTIVE, codec, 0)
    assert torch.equal(objective.codec.quantiser.std, codec.quantiser.std)
    assert objective.usage(codec.encode(clips[0].clips, clips[0].lengths))["least_used"] >= 0.5


def test_usage_counts_the_levels_of_sound() -> None:
    objective, clips = build_objective(), batch()
    coded = objective.codec.encode(clips.clips, clips.lengths)
    found = objective.usage(coded)
    every = coded.indices[coded.kept].numpy()
    used, bits = [], []
    for column in every.T:
        counts = [int((column == level).sum()) for level in range(4)]
        used.append(sum(count > 0 for count in counts) / 4)
        bits.append(-sum(c / len(column) * math.log2(c / len(column)) for c in counts if c))
    assert found["least_used"].item() == pytest.approx(min(used))
    assert found["level_bits"].item() == pytest.approx(sum(bits) / 16, rel=1e-5)


def test_it_learns_to_sound_like_a_tone() -> None:
    config = dataclasses.replace(OBJECTIVE, disc_start_step=8, segment_s=0.0)
    objective = build_objective(config)
    time_s = torch.arange(1600) / 8_000
    clips = dataclasses.replace(batch((1600, 1600)), clips=0.3 * torch.sin(2 * torch.pi * 440 * time_s).expand(2, -1))
    optimiser = AdversarialAdamWConfig(lr=3e-3).build(objective)
    heard = []
    for step in range(12):
        output = objective(clips, Chance(0, step, 12))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        heard.append(output.terms["stft"].item())
    assert heard[-1] < 0.8 * heard[0]


def test_pictures_show_the_clips_and_what_is_made_of_them() -> None:
    objective, clips = build_objective(), batch()
    decoded, original = objective.panels(clips, AWAKE)
    front_end = objective.encoder.config.log_mel.build()
    assert torch.equal(original.frames, front_end.log_mel(clips.clips))
    assert decoded.frames.shape == original.frames.shape
    assert (decoded.frames[3, 10:] == -100).all(), "silence behind the end"


def test_first_weights_follow_from_the_seed() -> None:
    first, again, other = (build_objective(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    same = [name for name in first if torch.equal(first[name], other[name])]
    assert any("vocoder" in name and "weight" in name for name in first.keys() - set(same))
    assert any("discriminators" in name for name in first.keys() - set(same))


def test_what_cannot_train_is_refused() -> None:
    for settings, match in (
        ({"segment_s": -1.0}, "segment_s >= 0"),
        ({"disc_start_step": -1}, "disc_start_step >= 0"),
        ({"waveform_weight": 0.0, "stft_weight": 0.0}, "not all be 0"),
        ({"adversarial_weight": -0.1}, "must not be negative"),
    ):
        with pytest.raises(ValueError, match=match):
            CodecObjectiveConfig(**settings)
    assert configs.from_json(CodecObjectiveConfig, configs.to_json(OBJECTIVE)) == OBJECTIVE
