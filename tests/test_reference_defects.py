"""Defects of the public density-adaptive JEPA that belong to no one module of ours; docs/daam.md lists them all."""

import ast
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tiny_codec
import torch
from torch import nn

from birdjepa.audio.clips import ClipConfig
from birdjepa.models.codec import CodecConfig
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.waveform import PRESETS, WaveformConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.objectives.base import Chance, DataSize
from birdjepa.objectives.codec import CodecObjective
from birdjepa.objectives.daam import Daam, DaamConfig
from birdjepa.optim.adversarial import AdversarialAdamWConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PLAYING = Chance(seed=0, step=tiny_codec.OBJECTIVE.disc_start_step, n_steps=10)


def make_daam() -> Daam:
    network = WaveformConfig(preset="nano", sampling_rate=8_000)
    config = WaveformEncoderConfig(network=network, clips=ClipConfig(clip_s=1.0, hop_s=1.0), pooling="mean+std")
    return DaamConfig().build(config.build().initialise(0), 0, DataSize(4, 0))


def make_codec_objective() -> CodecObjective:
    """With a projection, so that something of the quantiser learns."""
    config = CodecConfig(
        encoder=tiny_codec.ENCODER, vocoder=tiny_codec.CODEC.vocoder, quantiser=QuantiserConfig(dims=8)
    )
    return CodecObjective(tiny_codec.OBJECTIVE, tiny_codec.build(config), 0)


def passes(module: nn.Module, during: Callable[[], object]) -> int:
    """How often a module is called while something is done."""
    calls: list[None] = []
    handle = module.register_forward_hook(lambda *_: calls.append(None))
    during()
    handle.remove()
    return len(calls)


def test_no_group_of_the_optimiser_is_empty_or_frozen() -> None:
    for objective, optimiser in ((make_daam(), AdamWConfig()), (make_codec_objective(), AdversarialAdamWConfig())):
        groups = optimiser.build(objective).param_groups
        held = [id(parameter) for group in groups for parameter in group["params"]]
        assert all(group["params"] for group in groups)
        assert sorted(held) == sorted(id(each) for each in objective.parameters() if each.requires_grad)
        assert len(held) < len(list(objective.parameters()))  # something is frozen: a teacher, an encoder


@pytest.mark.parametrize("preset", PRESETS)
def test_dilations_stay_small(preset) -> None:
    config = WaveformConfig(preset=preset)
    assert max(max(config.dilations(block)) for block in range(config.shape.n_res_blocks)) <= 25


def test_discriminators_are_in_the_module_that_engines_wrap() -> None:
    objective = make_codec_objective()
    groups = AdversarialAdamWConfig().build(objective).param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert {id(parameter) for parameter in objective.discriminators.parameters()} <= held
    assert any(name.startswith("discriminators.") for name in objective.state_dict())


def test_both_sides_learn_in_float32() -> None:
    objective = make_codec_objective()
    optimiser = AdversarialAdamWConfig().build(objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(tiny_codec.batch(), PLAYING).loss
    loss.backward()
    optimiser.step()
    numbers = [loss, *(each for each in objective.parameters())]
    numbers += [each.grad for each in objective.parameters() if each.grad is not None]
    numbers += [value for state in optimiser.state.values() for value in state.values()]
    assert {each.dtype for each in numbers} == {torch.float32}
    assert get_args(get_type_hints(TrainConfig)["precision"]) == ("auto", "fp32", "bf16")


def test_encoders_run_no_more_often_than_they_must() -> None:
    coder, clips = make_codec_objective(), tiny_codec.batch()
    assert passes(coder.encoder.network.project, lambda: coder(clips, PLAYING)) == 1
    daam = make_daam()
    both = [daam.encoder.network.project, daam.teacher.network.project]
    assert [passes(each, lambda: daam(clips, PLAYING)) for each in both] == [1, 1]


def test_nothing_is_unpickled_but_by_the_allow_list() -> None:
    """audio/ pickles between a process and its own workers."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "pickle" in text or "torch.load" in text else ():
            assert not isinstance(node, ast.ImportFrom) or node.module != "pickle", path
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("pickle.load", "pickle.loads", "torch.load"):
                found.add(path.relative_to(ROOT / "src" / "birdjepa").as_posix())
    assert found <= {"audio/worker.py", "audio/isolate.py", "checkpoint/deepspeed/pickles.py"}
    assert "weights_only=True" in (ROOT / "src/birdjepa/checkpoint/deepspeed/pickles.py").read_text(encoding="utf-8")


def test_stage_2_keeps_one_encoder_and_no_teacher() -> None:
    objective = make_codec_objective()
    parts = {name.split(".")[0] for name in objective.state_dict()}
    assert parts <= {"codec", "discriminators", "mels"}
    assert {name.split(".")[0] for name in objective.codec.state_dict()} == {"encoder", "quantiser", "vocoder"}
    kept = {name.removeprefix("encoder.") for name in objective.codec.state_dict() if name.startswith("encoder.")}
    assert kept == tiny_codec.ENCODER.build().state_dict().keys()


def test_the_core_needs_no_torchaudio() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) == 10
    assert not any("torchaudio" in each for each in project["dependencies"])
    for path in (ROOT / "src").rglob("*.py"):
        assert "import torchaudio" not in path.read_text(encoding="utf-8"), path
