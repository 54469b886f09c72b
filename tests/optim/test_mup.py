"""muP: every tensor's factors against the published rules, and activations that do not grow with the width."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.heads import HeadConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig
from birdjepa.objectives import AnyObjective
from birdjepa.objectives.added import AddedConfig, AddedDietConfig, AddedSigregConfig, AddedVarianceConfig
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.base import DataSize, Objective
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.optim import mup
from birdjepa.optim.groups import AdamWConfig, describe, parameter_table
from birdjepa.optim.muon import RMS, MuonConfig

FRONT_END = LogMelConfig(sampling_rate=8_000, window=256, hop=80, n_mels=64, f_min=0.0, f_max=4_000.0)
OBJECTIVES: list[AnyObjective] = [
    LejepaConfig(),
    PixioConfig(),
    AjepaConfig(),
    DietConfig(),
    SupervisedConfig(),
    SupervisedConfig(head=HeadConfig(form="attentive")),
    SupervisedConfig(head=HeadConfig(form="prototypical")),
]


def made(width: int, objective: AnyObjective = SupervisedConfig(), **vit) -> Objective:  # noqa: B008 - frozen
    config = EncoderConfig(
        front_end=FRONT_END,
        patch=PatchConfig(frames=8, mels=8),
        vit=VitConfig(**{"size": f"{width}x1x{width // 16}", "n_registers": 2, "layer_scale": 0.1, **vit}),
        clips=ClipConfig(),
        pooling="mean",
    )
    return objective.build(config.build().initialise(0), 0, DataSize(n_recordings=6, n_classes=3))


def spread(tensor: torch.Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


RULES = {
    # name: spread over the one at the base width, rate of AdamW, rate of Muon (where it is Muon's); m = 4
    "encoder.vit.embed.weight": (1.0, 1.0, None),
    "encoder.vit.cls": (None, 1.0, None),
    "encoder.vit.registers": (None, 1.0, None),
    "encoder.vit.blocks.0.attention.qkv.weight": (1 / 2, 1 / 4, 1 / 2),
    "encoder.vit.blocks.0.attention.proj.weight": (1 / 2, 1 / 4, 1 / 2),
    "encoder.vit.blocks.0.mlp.fc1.weight": (1 / 2, 1 / 4, 1 / 2),
    "encoder.vit.blocks.0.mlp.fc2.weight": (1 / 2, 1 / 4, 1 / 2),
    "encoder.vit.blocks.0.norm1.weight": (1.0, 1.0, None),
    "encoder.vit.blocks.0.scale1.gain": (1.0, 1.0, None),
    "encoder.vit.blocks.0.attention.qkv.bias": (None, 1.0, None),
    "head.linear.weight": (1 / 4, 1 / 4, None),
    "head.linear.bias": (None, 1.0, None),
}
"""github.com/microsoft/mup: MuAdam divides the rate of matrices with two infinite dimensions by the width multiplier,
initial spreads follow init.py, and MuReadout's output multiplier 1/m is folded into spread and rate. Muon: derived in
mup.py."""


def test_every_tensor_follows_the_published_rules():
    wide, base = made(256), made(64)
    mup.rescale(wide, base)
    rates = mup.width_rates(wide, base)
    at_base = dict(base.named_parameters())
    for name, (ratio, adamw, muon) in RULES.items():
        if ratio is not None:
            measured = spread(wide.get_parameter(name)) / spread(at_base[name])
            assert measured == pytest.approx(ratio, rel=1e-5), name
        assert rates[name].adamw == pytest.approx(adamw), name
        if muon is not None:
            assert rates[name].muon == pytest.approx(muon), name


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
def test_at_the_base_width_nothing_changes(objective):
    one, other = made(64, objective), made(64, objective)
    assert set(mup.init_factors(one, other).values()) == {1.0}
    assert set(mup.width_rates(one, other).values()) == {mup.WidthRate(1.0, 1.0)}


def test_added_terms_have_roles():
    terms = AddedConfig(
        sigreg=AddedSigregConfig(weight=1.0), variance=AddedVarianceConfig(weight=1.0), diet=AddedDietConfig(weight=1.0)
    )
    assert MuonConfig().build(terms.around(made(64), 0, DataSize(6, 3)))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_all_objectives_have_factors_for_all_they_train(objective, mlp):
    wide, base = made(128, objective, mlp=mlp), made(64, objective, mlp=mlp)
    rates = mup.width_rates(wide, base)
    assert rates.keys() == dict(wide.named_parameters()).keys() == mup.init_factors(wide, base).keys()
    for config in (AdamWConfig(), MuonConfig()):
        held = {row.name for row in parameter_table(wide, with_muon=isinstance(config, MuonConfig), width_rates=rates)}
        assert held == {name for name, p in wide.named_parameters() if p.requires_grad and p.numel()}


def test_what_does_not_grow_with_the_encoder_keeps_its_rate():
    """A decoder has its own width: it is finite, and its first layer is a readout of the encoder."""
    wide, base = made(128, PixioConfig()), made(64, PixioConfig())
    rates = mup.width_rates(wide, base)
    assert rates["decoder.vit.embed.weight"].adamw == 0.5
    inside = [name for name in rates if name.startswith("decoder.") and "embed.weight" not in name]
    assert {rates[name] for name in inside} == {mup.WidthRate(1.0, 1.0)}


def test_muons_update_has_the_spectral_norm_of_the_base_times_what_the_shape_asks():
    wide, base = made(256), made(64)
    rates = mup.width_rates(wide, base)
    for row in parameter_table(wide, with_muon=True):
        if row.parts:
            shapes = [module.get_parameter(row.name).shape for module in (wide, base)]
            (r, c), (r0, c0) = ((rows // row.parts, columns) for rows, columns in shapes)
            norm, norm0 = RMS * math.sqrt(max(r, c)) * rates[row.name].muon, RMS * math.sqrt(max(r0, c0))
            assert norm / norm0 == pytest.approx(math.sqrt(r / c) / math.sqrt(r0 / c0)), row.name


def test_a_teacher_is_rescaled_with_its_encoder():
    wide, base = made(128, AjepaConfig()), made(64, AjepaConfig())
    before = wide.encoder.vit.embed.weight.detach().clone()
    mup.rescale(wide, base)
    assert not torch.equal(wide.encoder.vit.embed.weight, before)
    theirs = dict(wide.get_submodule("teacher").named_parameters())
    for name, parameter in wide.encoder.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


def test_a_step_decays_as_it_does_at_the_base_width():
    wide, base = made(256), made(64)
    optimiser = MuonConfig(weight_decay=0.1).build(wide, mup.width_rates(wide, base))
    groups = {group["name"]: group for group in optimiser.param_groups}
    assert groups.keys() == {"decay", "decay x0.25 wd x4", "muon x0.5 wd x2", "no_decay"}
    for group in groups.values():
        wanted = 0.0 if group["name"] == "no_decay" else 0.1
        assert group["rate"] * group["full_weight_decay"] == pytest.approx(wanted), group["name"]
    assert any("muon x0.5 wd x2" in line and "lr 0.0005" in line for line in describe(optimiser, 0.0, "all"))


def test_layer_decay_and_width_multiply():
    wide, base = made(128), made(64)
    rates = mup.width_rates(wide, base)
    rows = {row.name: row for row in parameter_table(wide, layer_decay=0.5, width_rates=rates)}
    row = rows["encoder.vit.blocks.0.mlp.fc1.weight"]
    assert (row.rate, row.decay) == (0.25, 2.0)


def test_a_model_with_other_parameters_is_no_base():
    with pytest.raises(ValueError, match=r"must have the same parameters; encoder\.vit\.blocks\.1"):
        mup.width_rates(made(128), made(64, size="64x2x4"))


def test_zeros_stay_zeros():
    wide, base = made(128), made(64)
    nn.init.zeros_(wide.get_parameter("head.linear.weight"))
    assert mup.init_factors(wide, base)["head.linear.weight"] == 1.0


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return pytest.importorskip("mup")


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_activations_do_not_grow_with_the_width(benchmark, optimiser):
    """The coordinate check in small, on tones in noise: three widths and two seeds, hence the margin."""
    label = torch.arange(32) % 4
    noise = torch.randn(32, 16_000, generator=torch.Generator().manual_seed(0))
    turns = 300 * 2.0 ** label[:, None] * torch.arange(16_000) / 16_000
    task = benchmark.Task(0.1 * torch.sin(2 * math.pi * turns) + 0.02 * noise, label, 4)
    settings = {"lr": benchmark.LARGE[optimiser], "seeds": 2, "size": 8}
    flat, _ = benchmark.slopes(optimiser, "muP", (64, 128, 256), task, **settings)
    assert max(flat.values()) < 2 * benchmark.FLAT, flat
    if optimiser == "muon":  # in SP its readout alone grows, and slowly
        return
    growing, _ = benchmark.slopes(optimiser, "SP", (64, 128, 256), task, **settings)
    assert max(growing.values()) > 4 * benchmark.FLAT, growing
