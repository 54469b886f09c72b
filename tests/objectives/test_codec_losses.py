import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from birdjepa.core import config as configs
from birdjepa.models.discriminators import Discriminators, DiscriminatorsConfig, Judged
from birdjepa.objectives import codec_losses as losses
from birdjepa.objectives.codec_losses import MelLossConfig, StftLossConfig

STFT = StftLossConfig()
RATE = 16_000
MELS = MelLossConfig().build(RATE)


def waves(n_samples: int = 4000, n_clips: int = 2, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(n_clips, n_samples, generator=torch.Generator().manual_seed(seed))


def judges() -> Discriminators:
    config = DiscriminatorsConfig(divisor=32, periods=(2, 3), n_scales=2)
    return config.build().initialise(torch.Generator().manual_seed(0))


def by_waves(name: str, made: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    if name == "waveform":
        return losses.waveform_loss(made, real, valid)
    if name == "stft":
        return losses.stft_loss(made, real, STFT, valid)
    return losses.mel_loss(made, real, MELS, valid)


each_wave_loss = pytest.mark.parametrize("name", ["waveform", "stft", "mel"])


def naive_magnitudes(wave: np.ndarray, window: int) -> np.ndarray:
    """(frames, bins) by one FFT after another, middles at multiples of a quarter window."""
    hann = scipy.signal.get_window("hann", window)
    padded = np.pad(wave, (window // 2, window))
    middles = range(0, len(wave), window // 4)
    return np.stack([np.abs(np.fft.rfft(padded[middle : middle + window] * hann)) for middle in middles])


@pytest.mark.parametrize("n_samples", [1, 31, 32, 1000])
def test_stft_loss_equals_the_naive_formula(n_samples: int) -> None:
    made, real = waves(n_samples, 2), waves(n_samples, 2, seed=1)
    clips = []
    for mine, theirs in zip(made.double().numpy(), real.double().numpy(), strict=True):
        each = []
        for window in (2048, 1024, 512, 256, 128):
            m, r = naive_magnitudes(mine, window), naive_magnitudes(theirs, window)
            each.append(np.abs(m - r).mean() + np.abs(np.log(m + 1e-5) - np.log(r + 1e-5)).mean())
        clips.append(np.mean(each))
    assert losses.stft_loss(made, real, STFT).item() == pytest.approx(np.mean(clips), rel=1e-3)


def test_mel_loss_equals_librosas_filters_over_naive_spectra() -> None:
    made, real = waves(1000), waves(1000, seed=1)
    scales = []
    for window in (2048, 1024, 512, 256):
        filters = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=window // 16, fmin=0.0, fmax=RATE / 2)
        for mine, theirs in zip(made.double().numpy(), real.double().numpy(), strict=True):
            logs = [
                0.5 * np.log(np.maximum(naive_magnitudes(wave, window) ** 2 @ filters.T, 1e-10))
                for wave in (mine, theirs)
            ]
            scales.append(np.abs(logs[0] - logs[1]).mean())
    assert losses.mel_loss(made, real, MELS).item() == pytest.approx(np.mean(scales), rel=1e-3)


@pytest.mark.parametrize("sampling_rate", [8_000, 16_000, 24_000, 32_000, 48_000])
def test_no_mel_band_is_empty(sampling_rate: int) -> None:
    for front_end in MelLossConfig(windows=(2048, 512, 64, 32)).build(sampling_rate):
        assert front_end.get_buffer("filters").any(0).all()


def test_waveform_loss_is_the_mean_distance() -> None:
    made, real = waves(50), waves(50, seed=1)
    assert losses.waveform_loss(made, real).item() == pytest.approx(np.abs((made - real).numpy()).mean())


@each_wave_loss
def test_equal_waves_score_0_and_silence_has_finite_gradients(name: str) -> None:
    real = waves()
    assert by_waves(name, real.clone(), real) == 0
    made = torch.zeros_like(real).requires_grad_()
    by_waves(name, made, torch.zeros_like(real)).backward()
    assert made.grad is not None
    assert not made.grad.any()
    by_waves(name, made, real).backward()
    assert made.grad.isfinite().all()
    # waveform_loss alone tells a flipped sign, for spectra have no phase
    assert (by_waves(name, -real, real) > 0.01) == (name == "waveform")


@each_wave_loss
def test_louder_and_noisier_is_farther(name: str) -> None:
    real, noise = waves(), waves(seed=1)
    distances = [by_waves(name, real + share * noise, real).item() for share in (0.01, 0.1, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


@each_wave_loss
@pytest.mark.parametrize("n_samples", [1, 63, 64, 1537, 3999])
def test_padding_is_never_scored(name: str, n_samples: int) -> None:
    """A batch scores the mean of its clips alone, whatever stands in the padding, and nothing pulls at that."""
    made, real = waves(), waves(seed=1)
    valid = torch.arange(4000).expand(2, -1) < torch.tensor([[4000], [n_samples]])
    made[1, n_samples:], real[1, n_samples:] = torch.nan, 1e3
    made.requires_grad_()
    together = by_waves(name, made, real, valid)
    alone = [by_waves(name, made[i : i + 1, :n], real[i : i + 1, :n]) for i, n in enumerate((4000, n_samples))]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    (grad,) = torch.autograd.grad(together, made)
    assert not grad[1, n_samples:].any()
    assert grad.isfinite().all()
    assert grad[1, :n_samples].any()
    nothing = by_waves(name, made, real, torch.zeros(2, 4000, dtype=torch.bool))
    assert nothing == 0


def naive_adversarial(judged: list[Judged], real: list[Judged]) -> tuple[float, float, float]:
    generator = sum(((1 - each.score) ** 2).mean().item() for each in judged)
    discriminator = sum(
        ((1 - theirs.score) ** 2).mean().item() + (mine.score**2).mean().item()
        for mine, theirs in zip(judged, real, strict=True)
    )
    features = sum(
        (a - b).abs().mean().item()
        for mine, theirs in zip(judged, real, strict=True)
        for a, b in zip(mine.maps, theirs.maps, strict=True)
    )
    return generator, discriminator, features


def test_adversarial_losses_equal_the_naive_formulas() -> None:
    discriminators = judges()
    made, real = discriminators(waves()), discriminators(waves(seed=1))
    generator, discriminator, features = naive_adversarial(made, real)
    assert losses.adversarial_loss(made).item() == pytest.approx(generator, rel=1e-5)
    assert losses.discriminator_loss(made, real).item() == pytest.approx(discriminator, rel=1e-5)
    assert losses.feature_loss(made, real).item() == pytest.approx(features, rel=1e-5)
    assert losses.feature_loss(made, made) == 0


def test_perfect_judges_and_perfect_forgeries_score_0() -> None:
    zeros, ones = (Judged(torch.full((2, 5, 1), value), [], [64]) for value in (0.0, 1.0))
    halves = Judged(torch.full((2, 5, 1), 0.5), [], [64])
    assert losses.discriminator_loss([zeros], [ones]) == 0
    assert losses.adversarial_loss([ones]) == 0
    assert losses.adversarial_loss([zeros, zeros]) == 2
    assert losses.discriminator_loss([halves], [halves]) == 0.5


def test_no_gradient_reaches_the_real_side_of_features() -> None:
    discriminators, made, real = judges(), waves().requires_grad_(), waves(seed=1).requires_grad_()
    losses.feature_loss(discriminators(made), discriminators(real)).backward()
    assert made.grad is not None
    assert made.grad.any()
    assert real.grad is None


def test_positions_in_the_padding_are_not_judged() -> None:
    discriminators, n_samples = judges(), 1501
    valid = torch.arange(4000).expand(2, -1) < torch.tensor([[4000], [n_samples]])
    made, real = waves().requires_grad_(), waves(seed=1)
    raw = [discriminators(losses.silenced(wave, valid)) for wave in (made, real)]
    judged: list[list[Judged]] = []
    for side in raw:  # what is said of the padding is made absurd
        spoilt = []
        for each in side:
            maps = []
            for values, stride in zip(each.maps, each.strides, strict=True):
                at = torch.arange(values.shape[2])[:, None] * stride + torch.arange(values.shape[3])
                wrong = torch.stack((at >= 4000, at >= n_samples))[:, None]
                maps.append(values.masked_fill(wrong, 1e4))
            spoilt.append(Judged(maps[-1][:, 0], maps, each.strides))
        judged.append(spoilt)
    for loss in (
        lambda made, real: losses.adversarial_loss(made, valid),
        lambda made, real: losses.discriminator_loss(made, real, valid),
        lambda made, real: losses.feature_loss(made, real, valid),
    ):
        sound = loss(*judged)
        assert sound < 100
        torch.testing.assert_close(sound, loss(*raw))
        (grad,) = torch.autograd.grad(loss(*raw), made, retain_graph=True)
        assert not grad[1, n_samples:].any()
        assert grad[1, :n_samples].any()


def test_scores_of_a_short_clip_weigh_as_much_as_those_of_a_long_one() -> None:
    score = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 7.0, 7.0, 7.0]])[..., None]
    valid = torch.arange(256) < torch.tensor([[256], [60]])
    assert losses.adversarial_loss([Judged(score, [], [64])], valid) == 0.5


def test_losses_are_float32_under_autocast_and_of_rough_input() -> None:
    discriminators, made, real = judges(), waves(), waves(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        for name in ("waveform", "stft", "mel"):
            assert torch.equal(by_waves(name, made, real), by_waves(name, made, real).float())
            assert by_waves(name, made.bfloat16(), real).dtype == torch.float32
            with torch.autocast("cpu", enabled=False):
                exact = by_waves(name, made, real)
            torch.testing.assert_close(by_waves(name, made, real), exact, rtol=1e-6, atol=0)
        judged = discriminators(made), discriminators(real)
        assert judged[0][0].score.dtype == torch.bfloat16
        assert losses.adversarial_loss(judged[0]).dtype == torch.float32
        assert losses.discriminator_loss(*judged).dtype == torch.float32
        assert losses.feature_loss(*judged).dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "windows", "match"),
    [
        (StftLossConfig, (), "at least one"),
        (StftLossConfig, (130,), "multiple of 4"),
        (MelLossConfig, (8,), "multiple of 16"),
        (MelLossConfig, (48,), "powers of two"),
    ],
)
def test_bad_resolutions_are_refused(config, windows: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        config(windows=windows)


@pytest.mark.parametrize(("floor", "is_heard"), [(1e-9, True), (1e-2, False)])
def test_what_is_quieter_than_the_floor_is_not_told_apart(floor: float, is_heard: bool) -> None:
    quiet, quieter = 1e-6 * waves(), 1e-8 * waves()
    mels = MelLossConfig(floor=floor).build(RATE)
    assert (losses.stft_loss(quiet, quieter, StftLossConfig(floor=floor)) > 0.5) == is_heard
    assert (losses.mel_loss(quiet, quieter, mels) > 0.5) == is_heard


@pytest.mark.parametrize("config", [StftLossConfig, MelLossConfig])
def test_silence_needs_a_floor(config) -> None:
    with pytest.raises(ValueError, match="floor"):
        config(floor=0.0)


def test_each_resolution_counts() -> None:
    made, real = waves(), waves(seed=1)
    alone = [losses.stft_loss(made, real, StftLossConfig(windows=(window,))) for window in (2048, 128)]
    both = losses.stft_loss(made, real, StftLossConfig(windows=(2048, 128)))
    torch.testing.assert_close(both, torch.stack(alone).mean())
    assert len(MelLossConfig(windows=(512, 64)).build(RATE)) == 2


def test_configurations_go_through_json() -> None:
    for config in (StftLossConfig(windows=(512,)), MelLossConfig(windows=(64,))):
        assert configs.from_json(type(config), configs.to_json(config)) == config
