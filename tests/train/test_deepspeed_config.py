"""What becomes of a user's ds_config.json. No process is started and DeepSpeed itself is not imported."""

import itertools
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_run import tiny, write_songs

from birdjepa.core.errors import MissingExtraError, UsageError
from birdjepa.recipes import pretrain
from birdjepa.train.config import TrainConfig
from birdjepa.train.deepspeed_config import PASSED_ON, REFUSED, WITHOUT_EFFECT, resolve
from birdjepa.train.engine_deepspeed import require_elementwise

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")

TRAIN = TrainConfig(batch_size=32, accumulate=2, clip_norm=0.5)
HUGGING_FACE = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "none", "pin_memory": True},
        "offload_param": {"device": "none"},
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": 10000,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
"""The ZeRO-3 template of Hugging Face's documentation, without offload."""


@pytest.fixture
def resolved(tmp_path):
    """What becomes of a configuration, as an object or as text."""

    def through(given, precision="fp32"):
        path = tmp_path / "ds_config.json"
        path.write_text(given if isinstance(given, str) else json.dumps(given))
        return resolve(str(path), TRAIN, n_processes=4, precision=precision)

    return through


def test_without_a_file_it_is_zero_2_with_the_runs_numbers():
    found = resolve("", TRAIN, n_processes=4, precision="fp32")
    assert (found.stage, found.notes) == (2, [])
    assert found.told == {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.0,  # the engine clips
        "zero_optimization": {"stage": 2},
    }


def test_a_template_with_auto_is_filled_in(resolved):
    found = resolved(HUGGING_FACE)
    assert found.stage == 3
    assert found.told == {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.0,
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "sub_group_size": 1e9,
            "stage3_param_persistence_threshold": 10000,
        },
    }
    told = [note.partition(": ")[2] for note in found.notes]
    assert told == [
        "steps_per_print has no effect: see train.log_every",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save has no effect: no DeepSpeed checkpoint is written",
    ]


def test_a_file_without_zero_means_none_as_it_does_to_deepspeed(resolved):
    assert resolved({}).stage == 0


def test_equal_numbers_and_what_is_off_are_no_contradiction(resolved):
    equal = {"train_batch_size": 32, "gradient_accumulation_steps": 2, "gradient_clipping": 0.5}
    off = {
        "fp16": {"loss_scale": 0},
        "amp": {"enabled": False},
        "sparse_gradients": False,
        "scheduler": None,
        "data_efficiency": {"enabled": False, "seed": 1},
        "flops_profiler": {"detailed": True},
    }
    assert resolved({**equal, **off}).notes == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train_batch_size": 64}, r"train_batch_size=64 contradicts train.batch_size=32: make them equal"),
        ({"train_micro_batch_size_per_gpu": 8}, r"=8 contradicts train.batch_size / train.accumulate / processes=4"),
        ({"gradient_accumulation_steps": 1}, r"=1 contradicts train.accumulate=2"),
        ({"gradient_clipping": 0.1}, r"gradient_clipping=0.1 contradicts train.clip_norm=0.5"),
    ],
)
def test_a_contradiction_names_both_sides(resolved, given, says):
    with pytest.raises(UsageError, match=says) as error:
        resolved(given)
    assert "\n" not in str(error.value)
    assert "ds_config.json: " in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scheduler": {"type": "WarmupDecayLR", "params": {}}}, "thaw what is frozen"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}, r"the run's own \(optim"),
        ({"fp16": {"enabled": True}}, "steps whose gradient overflows are skipped"),
        ({"amp": {"enabled": True, "opt_level": "O1"}}, "apex"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "loss scaled"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}, "DeepSpeedCPUAdam"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "DeepSpeedCPUAdam"),
        ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, "DeepSpeedCPUAdam"),
        ({"zero_optimization": {"stage": 1, "round_robin_gradients": True}}, "checkpoints would be wrong"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "zero_quantized_weights cannot be used"),
        ({"curriculum_learning": {"enabled": True}}, "curriculum_learning cannot be used"),
        ({"bf16": {"enabled": True, "immediate_grad_update": True}}, "bf16.immediate_grad_update cannot be used"),
        ({"zero_optimization": {"stage": 4}}, "must be 0, 1, 2 or 3, got 4"),
        ({"zero_optimization": True}, "must be an object"),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused_with_its_reason(resolved, given, says):
    with pytest.raises(UsageError, match=says) as error:
        resolved(given, precision="bf16")
    assert "\n" not in str(error.value)
    assert "ds_config.json: " in str(error.value)


@pytest.mark.parametrize("name", ["bf16", "torch_autocast"])
def test_bf16_is_the_precision_of_the_run_or_an_error(resolved, name):
    assert name not in resolved({name: {"enabled": True}}, precision="bf16").told
    with pytest.raises(
        UsageError, match=rf"{name} contradicts train.precision, which means fp32 here: set train.preci"
    ):
        resolved({name: {"enabled": True}}, precision="fp32")
    assert resolved({name: {"enabled": False}}, precision="bf16").notes == []


def test_comments_are_read_and_names_that_are_there_twice_are_not(resolved):
    assert resolved('{\n // ours\n "zero_optimization": {"stage": 1,},\n}').stage == 1
    with pytest.raises(UsageError, match="'stage' is there twice"):
        resolved('{"zero_optimization": {"stage": 1, "stage": 2}}')
    with pytest.raises(UsageError, match=r"not a valid ds_config\.json"):
        resolved("[1, 2]")
    with pytest.raises(UsageError, match=r"not a valid ds_config\.json: it is empty"):
        resolved(" \n")
    with pytest.raises(UsageError, match=r"no.json: cannot be read \(No such file"):
        resolve("no.json", TRAIN, n_processes=1, precision="fp32")


def test_what_is_passed_on_refused_and_without_effect_are_told_apart():
    for one, other in itertools.combinations((PASSED_ON, set(REFUSED), set(WITHOUT_EFFECT)), 2):
        assert not one & other


def test_the_page_lists_what_is_passed_on():
    page = (Path(__file__).parents[2] / "docs" / "deepspeed.md").read_text(encoding="utf-8")
    _, _, listed = page.partition("Passed on to DeepSpeed:")
    names = set(re.findall(r"`(\w+)`", listed.partition("A test holds")[0])) - {"zero_optimization"}
    assert names == {name.rpartition(".")[2] for name in PASSED_ON}


def test_zero_takes_only_an_optimiser_that_updates_every_number_by_itself():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    require_elementwise(torch.optim.AdamW([weight]), stage=3)
    require_elementwise(torch.optim.Muon([weight]), stage=0)
    for stage in (1, 2, 3):
        with pytest.raises(
            UsageError, match=rf"ZeRO-{stage} cuts matrices anywhere, and Muon needs them whole: choose --optim adamw"
        ):
            require_elementwise(torch.optim.Muon([weight]), stage=stage)


def test_a_file_that_cannot_be_used_leaves_no_run_behind(tmp_path):
    path = tmp_path / "ds_config.json"
    path.write_text('{"scheduler": {"type": "WarmupLR"}}')
    run = tmp_path / "run"
    config = tiny(write_songs(tmp_path / "songs"), run, engine="deepspeed", deepspeed_config=str(path))
    with pytest.raises(UsageError, match=r"ds_config.json: scheduler cannot be used"):
        pretrain.start(config, print)
    assert not run.exists()


def test_the_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("birdjepa.train.engine_deepspeed.find_spec", lambda name: None)
    config = tiny(tmp_path, tmp_path / "run", engine="deepspeed")
    with pytest.raises(MissingExtraError, match=r"needs deepspeed.*pip install 'birdjepa\[deepspeed\]'"):
        pretrain.start(config, print)


def test_settings_of_deepspeed_without_deepspeed_are_an_error():
    with pytest.raises(ValueError, match=r"deepspeed_config='x\.json' needs engine='deepspeed'"):
        TrainConfig(deepspeed_config="x.json")
