import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.clips import ClipConfig, cut

RATE = 100
Pieces = list[tuple[int, list[float]]]


def ramp(n_samples: int) -> np.ndarray:
    """Sample i holds i, so that a clip says where it was cut."""
    return np.arange(n_samples, dtype=np.float32)


def pieces(blocks: list[np.ndarray], config: ClipConfig, *, least_s: float = 0.1, rate: int = RATE) -> Pieces:
    return [(start, samples.tolist()) for start, samples in cut(blocks, rate, config, least_s=least_s)]


def naive(samples: np.ndarray, config: ClipConfig, least_s: float) -> Pieces:
    """The rule written out on the whole recording."""
    found, index, covered = [], 0, 0
    while (bounds := config.bounds(index, RATE))[1] <= len(samples):
        found.append((bounds[0], samples[slice(*bounds)].tolist()))
        covered, index = bounds[1], index + 1
    rest = samples[bounds[0] :]
    if len(samples) > covered and len(rest) and (not found or len(rest) >= least_s * RATE):
        found.append((bounds[0], rest.tolist()))
    return found


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    n_samples=st.integers(0, 900),
    cuts=st.lists(st.integers(0, 900), max_size=20),
    clip_s=st.sampled_from([0.5, 1.0, 1.005, 2.56]),
    overlap=st.sampled_from([1.0, 0.5, 0.3]),
    least_s=st.sampled_from([0.0, 0.16, 0.4]),
)
def test_any_blocks_give_the_same_clips(
    n_samples: int, cuts: list[int], clip_s: float, overlap: float, least_s: float
) -> None:
    config, samples = ClipConfig(clip_s=clip_s, hop_s=clip_s * overlap), ramp(n_samples)
    blocks = np.split(samples, sorted(min(at, n_samples) for at in cuts))
    assert pieces(blocks, config, least_s=least_s) == naive(samples, config, least_s)


@pytest.mark.parametrize("rate", [11_025, 44_100, 48_000, 250_000])
def test_bounds_are_exact_at_hour_seven(rate: int) -> None:
    index = 7 * 3600 // 5
    assert ClipConfig().bounds(index, rate) == (7 * 3600 * rate, (7 * 3600 + 5) * rate)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    index=st.integers(0, 300_000),
    rate=st.sampled_from([8000, 11_025, 22_050, 44_100, 44_101, 250_000]),
    clip_s=st.sampled_from([0.1, 0.3, 1.0, 2.5, 2.56, 5.0]),
)
def test_clips_end_to_end_leave_no_gap(index: int, rate: int, clip_s: float) -> None:
    config = ClipConfig(clip_s=clip_s, hop_s=clip_s)
    assert config.bounds(index, rate)[1] == config.bounds(index + 1, rate)[0]


def test_without_overlap_every_sample_comes_once() -> None:
    found = pieces([ramp(1234)], ClipConfig(clip_s=1.0, hop_s=1.0))
    assert [sample for _, samples in found for sample in samples] == ramp(1234).tolist()
    assert [start for start, _ in found] == [100 * i for i in range(13)]
    assert len(found[-1][1]) == 34


def test_overlapping_clips() -> None:
    found = pieces([ramp(300)], ClipConfig(clip_s=1.0, hop_s=0.5))
    assert [(start, len(samples)) for start, samples in found] == [(s, 100) for s in (0, 50, 100, 150, 200)]


@pytest.mark.parametrize(
    ("n_samples", "expected"),
    [
        (0, []),
        (1, [(0, 1)]),
        (9, [(0, 9)]),
        (100, [(0, 100)]),
        (109, [(0, 100)]),
        (110, [(0, 100), (100, 10)]),
        (199, [(0, 100), (100, 99)]),
    ],
)
def test_the_rest_comes_last_unless_it_is_shorter_than_a_patch(n_samples: int, expected: list[tuple[int, int]]) -> None:
    found = pieces([ramp(n_samples)], ClipConfig(clip_s=1.0, hop_s=1.0))
    assert [(start, len(samples)) for start, samples in found] == expected


def test_nothing_but_empty_blocks_is_an_empty_recording() -> None:
    assert pieces([ramp(0), ramp(0)], ClipConfig()) == []
    assert pieces([], ClipConfig()) == []


def test_memory_is_one_clip_and_one_block_however_long_the_recording() -> None:
    config, block = ClipConfig(clip_s=1.0, hop_s=0.5), np.zeros(70, dtype=np.float32)
    widest = 0
    for _, samples in cut((block for _ in range(3000)), RATE, config, least_s=0.1):
        held = samples if samples.base is None else samples.base
        widest = max(widest, held.nbytes)
    assert widest <= 4 * (100 + 2 * 70)


@pytest.mark.parametrize(("clip_s", "hop_s"), [(5.0, 0.0), (5.0, -1.0), (5.0, 5.1), (0.0, 0.0)])
def test_bad_settings_are_refused(clip_s: float, hop_s: float) -> None:
    with pytest.raises(ValueError, match="hop_s must be in"):
        ClipConfig(clip_s=clip_s, hop_s=hop_s)
