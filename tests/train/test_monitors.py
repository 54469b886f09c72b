"""Monitors: known ranks, known neighbours, and an alarm that rings on collapse only."""

import math

import pytest
import torch

from birdjepa.train.config import MonitorConfig
from birdjepa.train.monitors import EmbeddingBank, alarm, effective_rank, knn_accuracy, look

CPU = torch.device("cpu")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank_of(embedding, label=None, recording=None):
    n = len(embedding)
    bank = EmbeddingBank(n, embedding.shape[1], CPU)
    bank.add(
        embedding, torch.full((n,), -1) if label is None else label, torch.arange(n) if recording is None else recording
    )
    return bank


def test_effective_rank_of_known_matrices():
    axes = torch.eye(4).repeat(2, 1) * torch.tensor([1.0] * 4 + [-1.0] * 4)[:, None]
    assert effective_rank(axes) == pytest.approx(4, rel=1e-6)
    assert effective_rank(axes * torch.tensor([1.0, 1, 0, 0])) == pytest.approx(2, rel=1e-6)
    assert effective_rank(torch.arange(10.0)[:, None] * torch.ones(6)) == pytest.approx(1, rel=1e-6)
    assert effective_rank(torch.ones(8, 5)) == pytest.approx(1)
    share = torch.tensor([3.0, 1.0]) / 4
    two = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(two) == pytest.approx(math.exp(-float((share * share.log()).sum())), rel=1e-6)
    assert effective_rank(two + 100) == pytest.approx(effective_rank(two), rel=1e-5)


def test_effective_rank_of_noise_is_nearly_full():
    assert 58 < effective_rank(normal(2000, 64)) <= 64


def test_neighbours_of_separate_clouds_are_right_and_of_noise_are_chance():
    label = torch.arange(60) % 3
    clouds = torch.eye(3)[label].repeat(1, 4) * 5 + 0.1 * normal(60, 12)
    assert knn_accuracy(clouds, label, torch.arange(60), 5) == 1.0
    chance = knn_accuracy(normal(600, 12), torch.arange(600) % 3, torch.arange(600), 5)
    assert chance is not None
    assert abs(chance - 1 / 3) < 0.08


def test_clips_of_one_recording_do_not_vote_for_each_other():
    """Pairs of near-identical clips whose nearest other recording has the other label."""
    point = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]).repeat_interleave(2, 0)
    label = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    recording = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert knn_accuracy(point, label, torch.arange(8), 1) == 1.0
    assert knn_accuracy(point, label, recording, 1) == 0.0


def test_neighbours_need_labels_and_other_recordings():
    label = torch.tensor([0, 1] * 10)
    assert knn_accuracy(normal(20, 4), torch.zeros(20).long(), torch.arange(20), 5) is None
    assert knn_accuracy(normal(20, 4), torch.full((20,), -1), torch.arange(20), 5) is None
    assert knn_accuracy(normal(4, 4), label[:4], torch.arange(4), 5) is None
    assert knn_accuracy(normal(20, 4), label, torch.zeros(20).long(), 5) is None
    with_unknown = torch.cat((label, torch.full((5,), -1)))
    spread = torch.cat((label[:, None] * 10.0 + normal(20, 4), normal(5, 4)))
    known = knn_accuracy(spread, with_unknown, torch.arange(25), 3)
    assert known == knn_accuracy(spread[:20], label, torch.arange(20), 3)


def test_the_alarm_rings_on_collapse():
    config = MonitorConfig()
    constant = torch.ones(128, 64) + 1e-6 * normal(128, 64)
    line = torch.linspace(-1, 1, 128)[:, None] * normal(1, 64)
    alarms = [alarm(look(bank_of(each), config), 128, 64, config) for each in (constant, line, normal(128, 64))]
    assert "embeddings hardly differ" in str(alarms[0])
    assert "effective rank 1.0 of at most 64 (alarm below 2%)" in str(alarms[1])
    assert alarms[2] is None


def test_too_few_embeddings_say_nothing():
    bank = EmbeddingBank(16, 4, CPU)
    assert look(bank, MonitorConfig()) == {}
    bank.add(normal(7, 4), torch.zeros(7).long(), torch.arange(7))
    assert look(bank, MonitorConfig()) == {}
    assert alarm({}, 7, 4, MonitorConfig()) is None


def test_the_bank_is_a_ring_of_the_newest():
    bank = EmbeddingBank(8, 1, CPU)
    for first in range(0, 15, 5):
        values = torch.arange(first, first + 5)
        bank.add(values[:, None].float(), values, values)
    assert sorted(bank.filled()[:, 0].tolist()) == list(range(7, 15))
    assert sorted(bank.label.tolist()) == sorted(bank.recording.tolist()) == list(range(7, 15))
    bank.add(torch.arange(100, 120.0)[:, None], torch.arange(20), torch.arange(20))
    assert sorted(bank.filled()[:, 0].tolist()) == list(range(112, 120))
    assert bank.n_seen == 35


@pytest.mark.parametrize(
    "settings",
    [{"every": 0}, {"bank": 4}, {"neighbours": 0}, {"neighbours": 512}, {"least_rank": 1.0}, {"least_std": -1.0}],
)
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(ValueError, match="need "):
        MonitorConfig(**settings)
