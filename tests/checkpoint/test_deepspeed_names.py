"""The encoder of the public reference is found in both of its stages, online or teacher, and taken whole or not at
all.
"""

import math

import pytest
import torch
from safetensors.torch import load_file
from zero_files import write

from birdjepa.checkpoint.deepspeed import ReferenceEncoder, convert, encoder_names
from birdjepa.checkpoint.deepspeed.names import describe, gate_shapes, require_gates, require_whole
from birdjepa.cli import main
from birdjepa.core.errors import UsageError

DEFAULT = ReferenceEncoder(
    channels=(64, 128, 256, 384, 512, 512),
    strides=(8, 8, 5, 5, 6),
    n_residual=8,
    code_dim=128,
    n_conformers=8,
    conformer_kernel=31,
    n_gaussians=4,
)
SMALL = ReferenceEncoder(
    channels=(2, 4, 6), strides=(4, 5), n_residual=2, code_dim=8, n_conformers=2, conformer_kernel=31, n_gaussians=3
)


def numbers(shapes, start):
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(start))


def test_sizes_are_the_published_ones():
    """The counts of the facts sheet, section 3, which agree with the paper's table."""
    shapes = DEFAULT.shapes()
    assert numbers(shapes, "") == 118_512_562
    assert numbers(shapes, "input_conv.") == 512
    blocks = [numbers(shapes, f"encoder.{block}.") for block in range(5)]
    assert blocks == [2_496_906, 9_974_538, 22_236_298, 39_740_938, 40_920_586]
    assert numbers(shapes, "bottleneck_proj.") == 65_664
    assert [numbers(shapes, f"conformer_blocks.{each}.") for each in range(9)] == [384_640] * 8 + [0]


def test_a_conformer_has_the_names_of_its_modules():
    """Against modules of torch put together as the reference does."""
    nn = torch.nn

    def feed_forward():
        return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Dropout(), nn.Linear(32, 8), nn.Dropout())

    convolution = nn.Sequential(
        nn.GroupNorm(1, 8),
        nn.Conv1d(8, 16, 1),
        nn.GLU(1),
        nn.Conv1d(8, 8, 31, groups=8),
        nn.GroupNorm(1, 8),
        nn.SiLU(),
        nn.Conv1d(8, 8, 1),
    )
    parts = {
        "ff1": feed_forward(),
        "norm_attn": nn.LayerNorm(8),
        "qkv": nn.Linear(8, 24),
        "out_proj": nn.Linear(8, 8),
        "conv": convolution,
        "ff2": feed_forward(),
        "norm_final": nn.LayerNorm(8),
    }
    made = nn.ModuleDict({"conformer_blocks": nn.ModuleList([nn.ModuleDict(parts)])}).state_dict()
    expected = {name: shape for name, shape in SMALL.shapes().items() if name.startswith("conformer_blocks.0.")}
    assert {name: tuple(tensor.shape) for name, tensor in made.items()} == expected


@pytest.mark.parametrize("encoder", [DEFAULT, SMALL], ids=["default", "small"])
def test_what_an_encoder_is_can_be_read_from_its_shapes(encoder):
    assert require_whole(encoder.shapes()) == encoder


def of_stage(stage, seed=0):
    """Tensors under the names of the reference, the teacher's others than the online encoder's."""
    chance = torch.Generator().manual_seed(seed)

    def some(shapes):
        return {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}

    online, teacher = some(SMALL.shapes()), some(SMALL.shapes())
    whole = {**online, **{f"target_encoder.{name}": tensor for name, tensor in teacher.items()}}
    whole |= {"mask_token": torch.randn(1, 8, 1), "predictor.0.weight": torch.randn(16, 8, 1)}
    if stage == 2:
        whole = {f"encoder.{name}": tensor for name, tensor in whole.items()}
        whole |= {"decoder.0.deconv.weight": torch.randn(4, 2, 8), "fsq.boundaries.0.bounds": torch.ones(4)}
    return whole, {"online": online, "teacher": teacher}


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("source", ["online", "teacher"])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_whole_encoder_of_either_stage_comes_out_under_its_own_names(tmp_path, stage, source, zero, capsys):
    whole, encoders = of_stage(stage)
    trained = {name: tensor for name, tensor in whole.items() if "target_encoder." not in name}
    frozen = {name: tensor for name, tensor in whole.items() if name not in trained}
    write(tmp_path, zero, 2, [trained], frozen=frozen)
    out = tmp_path / "encoder.safetensors"
    command = ["convert", "deepspeed", "--ds-dir", str(tmp_path), "--out", str(out), "--encoder-only", "--assert-gaatn"]
    assert main([*command, "--encoder-source", source]) == 0
    found, expected = load_file(out), encoders[source]
    assert set(found) == set(SMALL.shapes())
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    told = capsys.readouterr().err
    assert f"{source} encoder, {len(expected)} tensors" in told
    assert "2 Gaussian gates are whole" in told


def test_without_a_source_it_is_the_online_encoder(tmp_path, capsys):
    whole, encoders = of_stage(1)
    write(tmp_path, 2, 2, [whole])
    out = tmp_path / "encoder.safetensors"
    assert main(["convert", "deepspeed", "--ds-dir", str(tmp_path), "--out", str(out), "--encoder-only"]) == 0
    assert torch.equal(load_file(out)["input_conv.weight"], encoders["online"]["input_conv.weight"])
    other = ["--out", str(tmp_path / "o.safetensors"), "--encoder-source", "teacher"]
    assert main(["convert", "deepspeed", "--ds-dir", str(tmp_path), *other]) == 2
    assert "--encoder-source says which encoder --encoder-only keeps" in capsys.readouterr().err


def shapes_of(stage):
    return {name: tuple(tensor.shape) for name, tensor in of_stage(stage)[0].items()}


@pytest.mark.parametrize(
    ("stage", "without", "reason"),
    [
        (1, "input_conv.", "neither input_conv.weight nor encoder.input_conv.weight"),
        (1, "bottleneck_proj.weight", "bottleneck_proj.weight is missing"),
        (1, "conformer_blocks.1.qkv.weight", "conformer_blocks.1.qkv.weight is missing"),
        (2, "encoder.encoder.1.", "bottleneck_proj.weight has shape"),
        (2, "encoder.conformer_blocks.0.", "conformer_blocks.0.conv.3.weight is missing"),
        (1, "encoder.0.gaatn_gate.alpha", "encoder.0.gaatn_gate.alpha is missing"),
        (1, "encoder.1.res_blocks.1.convs2.2.bias", "encoder.1.res_blocks.1.convs2.2.bias is missing"),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused(stage, without, reason):
    left = {name: shape for name, shape in shapes_of(stage).items() if not name.startswith(without)}
    with pytest.raises(UsageError) as caught:
        encoder_names(left, "online")
    assert reason in str(caught.value)


def test_a_missing_teacher_is_told_and_so_is_what_does_not_belong():
    without = {name: shape for name, shape in shapes_of(1).items() if "target_encoder" not in name}
    with pytest.raises(UsageError, match="holds no teacher encoder"):
        encoder_names(without, "teacher")
    with pytest.raises(UsageError, match=r"encoder\.0\.extra is no part"):
        encoder_names({**shapes_of(1), "encoder.0.extra": (3,)}, "online")
    with pytest.raises(UsageError, match=r"encoder\.target_encoder\.encoder\.0\.snake\.raw has shape"):
        encoder_names({**shapes_of(2), "encoder.target_encoder.encoder.0.snake.raw": (4,)}, "teacher")


def test_an_encoder_without_gates_is_taken_unless_gates_are_asked_for(tmp_path):
    whole = {name: tensor for name, tensor in of_stage(1)[0].items() if ".gaatn_gate." not in name}
    assert describe({name: tuple(tensor.shape) for name, tensor in whole.items()}).n_gaussians == 0
    decoy = {**whole, "gaatn.note": torch.ones(1), "mask_gaussianadaptiveattention": torch.ones(1)}
    write(tmp_path, 2, 2, [decoy])
    convert(tmp_path, tmp_path / "o.safetensors", encoder="online")
    for encoder in ("online", None):
        with pytest.raises(UsageError, match=r"step7: encoder\.0\.gaatn_gate\.alpha is missing"):
            convert(tmp_path, tmp_path / "gated.safetensors", encoder=encoder, assert_gates=True)
    assert not (tmp_path / "gated.safetensors").exists()


def test_gates_are_known_by_names_and_shapes():
    whole = shapes_of(2)
    assert require_gates(whole) == 4  # of two blocks, online and teacher
    gate = "encoder.target_encoder.encoder.1.gaatn_gate"
    with pytest.raises(UsageError, match=rf"{gate}\.to_attn\.weight has shape"):
        require_gates({**whole, f"{gate}.to_attn.weight": (1, 4, 1)})
    del whole[f"{gate}.gaa.log_sigma"]
    with pytest.raises(UsageError, match=rf"{gate}\.gaa\.log_sigma is missing"):
        require_gates(whole)
    with pytest.raises(UsageError, match="no convolution block"):
        require_gates({"gaatn": (1,), **gate_shapes("gaatn_gate", 4, 2)})
