"""The profile job: parts that add up to a step, operations that are counted, memory that tells what fits."""

import dataclasses
import json
import math

import pytest
import torch
from tiny_run import tiny, write_config, write_songs
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from birdjepa.cli import main
from birdjepa.core import memory
from birdjepa.recipes import profile as job
from birdjepa.recipes import profile_memory
from birdjepa.recipes.pretrain import open_sources
from birdjepa.recipes.profile_memory import Memory, by_batch, largest_that_fits


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8)


@pytest.fixture(scope="module")
def printed(songs, tmp_path_factory):
    """What the command prints about a nano run, with one micro-batch measured."""
    folder = tmp_path_factory.mktemp("profile")
    config = tiny(songs, folder / "none", checkpoint_every=1000, log_every=10)
    file = write_config(config, folder / "config.json")
    with pytest.MonkeyPatch.context() as patched:
        said: list[str] = []
        patched.setattr("builtins.print", lambda text="", **_: said.append(text))
        arguments = ["--profile.steps", "3", "--profile.largest", "2", "--json"]
        assert main(["profile", "--config", str(file), *arguments]) == 0
    (found,) = (json.loads(text) for text in said if text.startswith("{"))
    return config, found


def test_a_step_is_split_into_parts(printed):
    config, found = printed
    assert list(found["seconds"]) == list(job.PARTS)
    assert found["step_s"] == pytest.approx(sum(found["seconds"].values()))
    assert all(found["seconds"][part] > 0 for part in ("data", "views", "forward", "backward", "optimiser"))
    assert found["seconds"]["save"] < found["seconds"]["backward"], "shared out over checkpoint_every"
    assert 0 < found["overhead"] < 1
    assert 0 < found["product_share"] < 1.2
    assert found["n_tokens"] == 24
    assert not config.out.exists()


def test_memory_is_that_of_a_whole_process(printed):
    _, found = printed
    (measured,) = found["memory"]
    assert measured["micro_batch"] == found["fits"] == 2
    assert 150 < measured["peak_mib"] < found["budget_mib"]


def test_operations_are_those_of_the_model(songs, tmp_path):
    """Doubling the batch doubles them; a backward pass costs about twice a forward one."""
    counted = []
    for batch_size in (4, 8):
        config = tiny(songs, tmp_path, batch_size=batch_size, accumulate=1, precision="fp32")
        clips = config.open_clips(open_sources(config))
        trainer = profile_memory.make_trainer(config, clips, tmp_path)
        batch = profile_memory.noise(config, clips)
        counted.append(job.count_flops(trainer, config, batch))
        with FlopCounterMode(display=False) as forward:
            trainer.state.objective(batch, trainer.chance())
        assert 2.0 < counted[-1] / forward.get_total_flops() < 3.2
        weights = sum(each.numel() for each in trainer.state.objective.encoder.parameters() if each.ndim == 2)
        assert counted[-1] > 6 * batch_size * weights
    assert counted[1] == pytest.approx(2 * counted[0], rel=0.02)


def test_attention_is_counted_on_a_cpu_too():
    query = torch.randn(2, 3, 16, 8, requires_grad=True)
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: job._attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: job._attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        F.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * (2 * 2 * 3 * 16 * 16 * 8)
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    assert counter.get_total_flops() == 7 * (2 * 2 * 3 * 16 * 16 * 8), "forward 2 products, backward 5"


def test_what_happens_now_and_then_is_shared_out(tmp_path):
    base = tiny(tmp_path, tmp_path)
    monitor = dataclasses.replace(base.train.monitor, every=10)
    train = dataclasses.replace(base.train, monitor=monitor, log_every=4, checkpoint_every=100)
    usual = {**dict.fromkeys(job.PARTS, 1.0), "save": 0.0, "monitors": 0.0}
    last = {**usual, "watch": 6.0, "save": 30.0, "data": 5.0}
    found = job.by_part([usual, usual, usual, last], dataclasses.replace(base, train=train))
    assert found == {
        **usual, "data": 2.0, "monitors": pytest.approx(0.5), "log": 0.25, "save": pytest.approx(0.3),
    }  # fmt: skip


def test_memory_is_measured_while_the_next_batch_can_be_expected_to_fit(songs, tmp_path, monkeypatch):
    config = tiny(songs, tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(profile_memory, "peak_mib", lambda config, clips, size: asked.append(size) or 100.0 + 10 * size)
    found = list(by_batch(config, config.open_clips(open_sources(config)), 1024, 500.0))
    assert asked == [2, 4, 8, 16, 32], "64 would take 740"
    assert largest_that_fits(found, 500.0) == 40
    assert largest_that_fits(found, 1e9) == 4 * 32, "no fit is believed further"
    assert largest_that_fits(found, 110.0) == 0
    assert largest_that_fits([*found[:3], Memory(16, math.nan)], 1e9) == 15


def test_a_process_tells_its_own_peak():
    before = memory.peak_mib()
    held = torch.ones(64 * 2**20 // 4)
    assert memory.peak_mib() >= before
    assert float(held.sum()) > 0
    assert memory.available_mib() > 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a recipe (lejepa"),
        (["lejpa"], "'lejpa' is not a recipe"),
        (["lejepa", "--out", "x"], "leave out --out"),
        (["lejepa", "--profile.steps", "1"], "profile.steps >= 2"),
        (["lejepa", "--data", "absent"], "absent: not found"),
        (["lejepa", "--train.engine", "ddp"], "a profile is of one process"),
    ],
)
def test_usage_errors_of_a_profile(arguments, told, capsys):
    assert main(["profile", *arguments]) == 2
    assert told in capsys.readouterr().err
