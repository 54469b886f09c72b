import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.core import config as configs
from birdjepa.models.discriminators import Discriminators, DiscriminatorsConfig

TINY = DiscriminatorsConfig(divisor=32)


def build(config: DiscriminatorsConfig = TINY, seed: int = 0) -> Discriminators:
    return config.build().initialise(torch.Generator().manual_seed(seed))


def waves(n_samples: int = 900, n_clips: int = 2) -> Tensor:
    return torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(1))


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_full_size_is_hifigans() -> None:
    with torch.device("meta"):
        full = DiscriminatorsConfig().build()
        small = DiscriminatorsConfig(divisor=8).build()
    gains = 5 * (32 + 128 + 512 + 1024 + 1024 + 1)
    assert n_parameters(full.periods) - gains == 41_092_165
    assert [round(n_parameters(module) / 1e6, 1) for module in (full.periods, full, small)] == [41.1, 70.7, 1.1]


def plain_periods(discriminators: Discriminators, wave: Tensor) -> list[list[Tensor]]:
    """Maps of the judges of periods by convolutions over two axes, as HiFi-GAN writes them."""
    found = []
    for period, judge in zip(discriminators.config.periods, discriminators.periods, strict=True):
        x = F.pad(wave[:, None], (0, -wave.shape[1] % period), "reflect")
        x, maps = x.view(len(wave), 1, -1, period), []
        layers = judge.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        for i, layer in enumerate(layers):
            assert isinstance(layer, nn.Conv1d)
            last = i == len(layers) - 1
            stride = 3 if i < 4 else 1
            x = F.conv2d(x, layer.weight[..., None], layer.bias, (stride, 1), (1 if last else 2, 0))
            x = x if last else F.leaky_relu(x, 0.1)
            maps.append(x)
        found.append(maps)
    return found


def plain_scales(discriminators: Discriminators, wave: Tensor) -> list[list[Tensor]]:
    pool = nn.AvgPool1d(4, 2, padding=2)
    x, found = wave[:, None], []
    for i, judge in enumerate(discriminators.scales):
        x = pool(x) if i else x
        y, maps = x, []
        layers = judge.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        for j, layer in enumerate(layers):
            assert isinstance(layer, nn.Conv1d)
            stride, padding = (1, 2, 2, 4, 4, 1, 1, 1)[j], (7, 20, 20, 20, 20, 20, 2, 1)[j]
            y = F.conv1d(y, layer.weight, layer.bias, stride, padding, 1, layer.groups)
            y = y if j == len(layers) - 1 else F.leaky_relu(y, 0.1)
            maps.append(y[..., None])
        found.append(maps)
    return found


@pytest.mark.parametrize("n_samples", [892, 900, 901])
def test_maps_equal_those_of_hifigan_written_plainly(n_samples: int) -> None:
    discriminators, wave = build(), waves(n_samples)
    judged = discriminators(wave)
    expected = plain_periods(discriminators, wave) + plain_scales(discriminators, wave)
    assert len(judged) == 8
    for ours, theirs in zip(judged, expected, strict=True):
        assert len(ours.maps) == len(theirs) == len(ours.strides)
        for mine, other in zip(ours.maps, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
        assert torch.equal(ours.score, ours.maps[-1][:, 0])


def test_full_groups_are_hifigans_and_narrow_ones_divide_the_channels() -> None:
    with torch.device("meta"):
        full, narrow = DiscriminatorsConfig().build(), TINY.build()
    groups = [[m.groups for m in made.scales[0].modules() if isinstance(m, nn.Conv1d)] for made in (full, narrow)]
    assert groups == [[1, 4, 16, 16, 16, 16, 1, 1], [1, 4, 4, 8, 16, 16, 1, 1]]


def test_positions_of_maps_stand_where_they_say() -> None:
    discriminators, n_samples = build(), 40_000
    for i in range(8):
        wave = waves(n_samples, 1).requires_grad_()
        judged = discriminators(wave)[i]
        for values, stride in zip(judged.maps, judged.strides, strict=True):
            row, column = values.shape[2] // 2, values.shape[3] - 1
            (grad,) = torch.autograd.grad(values[0, :, row, column].sum(), wave, retain_graph=True)
            touched = grad[0].nonzero().flatten().double()
            middle = (touched.min() + touched.max()).item() / 2
            assert abs(middle - (row * stride + column)) <= 2, (i, stride)


def test_weight_norm_is_everywhere_and_scores_forget_the_size_of_directions() -> None:
    discriminators, wave = build(), waves()
    before = [judged.score for judged in discriminators(wave)]
    convs = [module for module in discriminators.modules() if isinstance(module, nn.Conv1d)]
    assert len(convs) == 5 * 6 + 3 * 8
    with torch.no_grad():
        for conv in convs:
            conv.get_parameter("parametrizations.weight.original1").mul_(7)
    for old, new in zip(before, discriminators(wave), strict=True):
        torch.testing.assert_close(new.score, old)
    assert all(type(value) in (Tensor, nn.Parameter) for value in discriminators.state_dict().values())
    other = build(seed=1)
    other.load_state_dict(discriminators.state_dict())
    assert torch.equal(other(wave)[0].score, discriminators(wave)[0].score)


def test_discriminators_are_a_function_of_their_generator() -> None:
    first, again, other = (build(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    scores = [judged.score for judged in build(DiscriminatorsConfig(divisor=8))(waves(4000))]
    assert all(0.05 < score.square().mean().sqrt() < 5 for score in scores), "as large as what is judged"
    torch.manual_seed(5)
    assert all(torch.equal(first[name], value) for name, value in build().state_dict().items())


def test_everything_trains_and_clips_do_not_see_each_other() -> None:
    discriminators, wave = build(), waves(2000, 3)
    judged = discriminators(wave)
    torch.stack([each.score.square().sum() for each in judged]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in discriminators.parameters())
    order = torch.tensor([2, 0, 1])
    for mixed, own in zip(discriminators(wave[order]), judged, strict=True):
        torch.testing.assert_close(mixed.score, own.score[order])


def test_the_least_length_is_judged_and_one_sample_less_is_refused() -> None:
    discriminators = build()
    assert discriminators.config.least_samples == 892
    assert min(judged.score.shape[1] for judged in discriminators(waves(892))) == 2
    with pytest.raises(ValueError, match="have 891 samples, the discriminators need at least 892"):
        discriminators(waves(891))
    scales = build(DiscriminatorsConfig(periods=(), n_scales=2, divisor=32))
    assert scales.config.least_samples == 129
    assert [judged.score.shape for judged in scales(waves(129))] == [(2, 3, 1), (2, 2, 1)]
    assert len(build(DiscriminatorsConfig(periods=(2, 3), n_scales=0, divisor=32))(waves())) == 2


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"periods": (1, 2)}, "at least 2 samples"),
        ({"periods": (2, 2)}, "different"),
        ({"periods": (), "n_scales": 0}, "nor 0 without periods"),
        ({"n_scales": -1}, "must not be negative"),
        ({"divisor": 3}, "must divide 32, got 3"),
        ({"divisor": 0}, "must divide 32, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DiscriminatorsConfig(**settings)


def test_configurations_go_through_json() -> None:
    assert configs.from_json(DiscriminatorsConfig, configs.to_json(TINY)) == TINY
