from typing import Any

import pytest
import torch
from torch import Tensor

from birdjepa.core.random import Draws
from birdjepa.models.vit import SIZES, EncoderOutput, Vit, VitConfig
from birdjepa.nn.block import Block

N_VALUES = 12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draws(seed: int) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def make(**settings: Any) -> Vit:
    config = VitConfig(**{"size": "32x3x2", **settings})
    vit = config.build(N_VALUES).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # biases and gains start at 0 and 1, which hides mistakes
        for i, (name, parameter) in enumerate(vit.named_parameters()):
            if parameter.ndim == 1 and "gain" not in name:
                parameter += 0.1 * random(*parameter.shape, seed=i)
    return vit


def clips(batch: int = 3, columns: int = 6) -> tuple[Tensor, Tensor]:
    """Tokens of 2 rows x columns, and their grid."""
    index = torch.arange(2 * columns)
    grid = torch.stack((0.16 * (index // 2), 2.0 * (index % 2) - 1), -1)
    return random(batch, 2 * columns, N_VALUES), grid[None]


def assert_close(got: EncoderOutput, expected: EncoderOutput, atol: float = 1e-5) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


SETTINGS = [
    {},
    {"position": "absolute"},
    {"mlp": "swiglu"},
    {"qk_norm": False},
    {"layer_scale": 0.5},
    {"n_cls": 0},
    {"n_cls": 4, "n_registers": 3},
    {"n_cls": 0, "n_registers": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_any_subset_in_any_order(settings: dict[str, Any]) -> None:
    vit, (tokens, grid) = make(**settings), clips()
    subset = torch.tensor([7, 0, 3, 10, 4])
    sorted_subset, order = subset.sort()
    shuffled, expected = (vit(tokens[:, rows], grid[:, rows]) for rows in (subset, sorted_subset))
    assert_close(shuffled._replace(patches=shuffled.patches[:, order]), expected)
    elsewhere = vit(tokens[:, subset], grid[:, sorted_subset])
    assert (elsewhere.patches - shuffled.patches).abs().max() > 1e-2


@pytest.mark.parametrize("settings", SETTINGS)
def test_output_counts(settings: dict[str, Any]) -> None:
    vit, config = make(**settings), VitConfig(**settings)
    output = vit(*clips())
    assert output.cls.shape == (3, config.n_cls, 32)
    assert output.patches.shape == (3, 12, 32)
    assert output.registers.shape == (3, config.n_registers, 32)


def test_cls_tokens_come_before_registers() -> None:
    vit = make(n_cls=2, n_registers=3)
    with torch.no_grad():
        for module in vit.blocks:
            assert isinstance(module, Block)
            for branch in (module.attention.proj, module.mlp.get_submodule("fc2")):  # blocks that pass their input on
                for parameter in branch.parameters():
                    parameter.zero_()
    output = vit(*clips())
    torch.testing.assert_close(output.cls[0], vit.norm(vit.cls))
    torch.testing.assert_close(output.registers[0], vit.norm(vit.registers))


@pytest.mark.parametrize("position", ["rope", "absolute"])
def test_a_grid_per_clip_equals_a_shared_one_and_other_clips_do_not_matter(position: str) -> None:
    vit, (tokens, grid) = make(position=position), clips()
    shared = vit(tokens, grid)
    assert_close(vit(tokens, grid.expand(3, -1, -1)), shared)
    grids = torch.cat((grid, grid + 5, grid * 2))
    mixed = vit(tokens, grids)
    for i in range(3):
        alone = vit(tokens[i : i + 1], grids[i : i + 1])
        assert_close(EncoderOutput(*(part[i : i + 1] for part in mixed)), alone)


def test_rope_ignores_when_a_clip_began_and_absolute_does_not() -> None:
    (tokens, grid), later = clips(), torch.tensor([3.2, 0.0])
    rope, absolute = make(n_cls=0), make(n_cls=0, position="absolute")
    assert_close(rope(tokens, grid + later), rope(tokens, grid), atol=1e-4)
    assert (absolute(tokens, grid + later).patches - absolute(tokens, grid).patches).abs().max() > 1e-2


def test_cls_tokens_stand_at_the_clip_start() -> None:
    vit, (tokens, grid) = make(), clips()
    later = vit(tokens, grid + torch.tensor([3.2, 0.0]))
    assert (later.cls - vit(tokens, grid).cls).abs().max() > 1e-2


def test_rope_knows_pitch() -> None:
    vit, (tokens, grid) = make(), clips()
    higher = vit(tokens, grid + torch.tensor([0.0, 1.0]))
    assert (higher.cls - vit(tokens, grid).cls).abs().max() > 1e-2


@pytest.mark.parametrize("position", ["rope", "absolute"])
def test_longer_clips_work(position: str) -> None:
    output = make(position=position)(*clips(1, columns=400))
    assert output.patches.shape == (1, 800, 32)
    assert all(part.isfinite().all() for part in output)


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_last_of_the_layers_is_the_output(settings: dict[str, Any]) -> None:
    vit = make(**settings)
    layers = vit.layers(*clips())
    assert len(layers) == 3
    assert_close(layers[-1], vit(*clips()), atol=0)
    assert (layers[0].patches - layers[-1].patches).abs().max() > 1e-2


def test_stochastic_depth_is_a_function_of_its_draws_and_off_without_them() -> None:
    vit, plain = make(drop_path=0.5), make()
    first, again, other = (vit(*clips(), draws(seed)) for seed in (1, 1, 2))
    assert_close(first, again, atol=0)
    assert not torch.equal(first.patches, other.patches)
    assert_close(vit(*clips()), plain(*clips()), atol=0)


def test_stochastic_depth_grows_to_its_rate_and_keeps_the_expectation() -> None:
    vit = make(drop_path=0.4)
    keep = vit._draw_keep(4000, draws(0), torch.device("cpu"))
    for drawn, rate in zip(keep, (0.0, 0.2, 0.4), strict=True):
        assert drawn is not None
        torch.testing.assert_close((drawn == 0).float().mean(1), torch.full((2,), rate), rtol=0, atol=0.03)
        torch.testing.assert_close(drawn.mean(1), torch.ones(2), rtol=0, atol=0.04)
        assert {round(value, 4) for value in drawn.unique().tolist()} <= {0.0, round(1 / (1 - rate), 4)}
    (only,) = make(size="32x1x2", drop_path=0.4)._draw_keep(4000, draws(0), torch.device("cpu"))
    assert only is not None
    assert 0.36 < (only == 0).float().mean() < 0.44


@pytest.mark.parametrize("settings", [{}, {"drop_path": 0.4}, {"mlp": "swiglu", "layer_scale": 0.1}])
def test_activation_checkpointing_gives_the_same_gradients(settings: dict[str, Any]) -> None:
    gradients = []
    for recompute in (False, True):
        vit = make(activation_checkpointing=recompute, **settings)
        output = vit(*clips(), draws(3))
        (output.patches.square().mean() + output.cls.sum()).backward()
        gradients.append({name: parameter.grad for name, parameter in vit.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("settings", [{}, {"mlp": "swiglu", "layer_scale": 0.1, "n_registers": 2}])
def test_what_trains_is_exactly_this(settings: dict[str, Any]) -> None:
    vit = make(**settings)
    linear = ["embed", *(f"blocks.{i}.{part}" for i in range(3) for part in ("attention.qkv", "attention.proj"))]
    linear += [f"blocks.{i}.mlp.{part}" for i in range(3) for part in ("fc1", "fc2")]
    norms = ["norm", *(f"blocks.{i}.norm{j}" for i in range(3) for j in (1, 2))]
    gains = [f"blocks.{i}.scale{j}.gain" for i in range(3) for j in (1, 2)] if "layer_scale" in settings else []
    expected = {f"{name}.{part}" for name in linear + norms for part in ("weight", "bias")}
    expected |= {"cls", "registers", *gains}
    assert {name for name, _ in vit.named_parameters()} == expected
    assert not list(vit.buffers())
    output = vit(*clips())
    (output.patches.square().mean() + output.cls.sum()).backward()
    still = {name for name, p in vit.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())}
    assert not still


def test_kept_positions_are_added_in_order_and_want_a_whole_grid() -> None:
    (tokens, grid), config = clips(), {"position": "absolute", "qk_norm": False}
    vit = make(n_positions=tokens.shape[1], fc_norm=True, **config)
    plain = make(**config)
    plain.load_state_dict({name: tensor for name, tensor in vit.state_dict().items() if name in plain.state_dict()})
    vit.positions.copy_(plain.place(grid[:1])[0])
    assert_close(EncoderOutput(*vit(tokens, grid)[:3]), EncoderOutput(*plain(tokens, grid)[:3]))
    assert_close(vit(tokens, grid.flip(1)), vit(tokens, grid), atol=0)
    assert "positions" in vit.state_dict()
    assert "positions" not in dict(vit.named_parameters())
    with pytest.raises(ValueError, match=r"keeps positions of all \d+ patches of a clip, and was given 4"):
        vit(tokens[:, :4], grid[:, :4])


def test_bare_patches_are_those_before_the_last_norm() -> None:
    vit = make(fc_norm=True)
    output = vit(*clips())
    torch.testing.assert_close(vit.norm(output.bare), output.patches)
    assert torch.equal(output.fc_norm[1], torch.stack((vit.fc_norm.weight, vit.fc_norm.bias)))
    assert make()(*clips()).bare.shape == (3, 0, 32)


def test_autocast_output_is_close() -> None:
    vit = make()
    with torch.autocast("cpu", torch.bfloat16):
        rough = vit(*clips())
    assert_close(EncoderOutput(*(part.float() for part in rough)), vit(*clips()), atol=0.1)


def test_initial_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    first = VitConfig(size="nano").build(N_VALUES).initialise(torch.Generator().manual_seed(5)).state_dict()
    torch.manual_seed(1)
    again = VitConfig(size="nano").build(N_VALUES).initialise(torch.Generator().manual_seed(5)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["cls"].abs().max() <= 0.04
    assert not first["embed.bias"].any()
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.95 * bound < first["blocks.0.attention.qkv.weight"].abs().max() <= bound


def test_sizes() -> None:
    assert VitConfig(size="small").dimensions == SIZES["small"] == (384, 12, 6)
    assert VitConfig(size="256x8x4").dimensions == (256, 8, 4)
    weights = sum(p.numel() for p in VitConfig(size="small").build(256).parameters())
    assert 21e6 < weights < 22e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "giant"}, "size must be one of nano, tiny"),
        ({"size": "64x2"}, "size must be one of"),
        ({"size": "64x2x-2"}, "size must be one of"),
        ({"size": "0x2x2"}, "multiple of heads"),
        ({"size": "64x0x2"}, "multiple of heads"),
        ({"size": "65x2x2"}, "multiple of heads"),
        ({"size": "60x2x10"}, "width / heads of 4"),
        ({"n_cls": -1}, "n_cls >= 0"),
        ({"n_registers": -1}, "n_registers >= 0"),
        ({"drop_path": 1.0}, "drop_path < 1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio > 0"),
        ({"layer_scale": -1.0}, "layer_scale >= 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VitConfig(**settings)
