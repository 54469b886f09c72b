"""A user's ds_config.json as our DeepSpeed engine takes it: what a run's own configuration says is filled in or held
against it, and what would be silently wrong beside our optimiser, schedule, teacher and precision is refused.

"auto" and null say nothing, and neither does a block that is not enabled; it is the same to DeepSpeed. What is left is
either passed on, told to be without effect, or an error: nothing is ignored in silence.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from birdjepa.core.errors import UsageError
from birdjepa.train.config import TrainConfig

DEFAULT: dict[str, Any] = {"zero_optimization": {"stage": 2}}
"""Where the user has no file: optimiser and gradients are cut up, parameters are not."""

PASSED_ON = {
    "communication_data_type",
    "gradient_predivide_factor",
    "prescale_gradients",
    "zero_optimization.allgather_bucket_size",
    "zero_optimization.allgather_partitions",
    "zero_optimization.contiguous_gradients",
    "zero_optimization.ignore_unused_parameters",
    "zero_optimization.memory_efficient_linear",
    "zero_optimization.overlap_comm",
    "zero_optimization.parameter_alignment",
    "zero_optimization.reduce_bucket_size",
    "zero_optimization.reduce_scatter",
    "zero_optimization.stage",
    "zero_optimization.stage3_allgather_sequential",
    "zero_optimization.stage3_max_live_parameters",
    "zero_optimization.stage3_max_reuse_distance",
    "zero_optimization.stage3_model_persistence_threshold",
    "zero_optimization.stage3_param_persistence_threshold",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.sub_group_size",
    "zero_optimization.use_multi_rank_bucket_allreduce",
}
WITHOUT_EFFECT = {
    "checkpoint": "no DeepSpeed checkpoint is written",
    "comms_logger": "see `birdjepa profile`",
    "dump_state": "see config.json of the run",
    "flops_profiler": "see `birdjepa profile`",
    "memory_breakdown": "see `birdjepa profile`",
    "steps_per_print": "see train.log_every",
    "wall_clock_breakdown": "see `birdjepa profile`",
    "zero_allow_untested_optimizer": "the optimiser is AdamW",
    "zero_force_ds_cpu_optimizer": "the optimiser is not offloaded",
    "zero_optimization.elastic_checkpoint": "no DeepSpeed checkpoint is written",
    "zero_optimization.load_from_fp32_weights": "no DeepSpeed checkpoint is read",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "no DeepSpeed checkpoint is written",
}
"""Settings of what this project does itself; told at start-up where they are on."""

OFFLOAD = (
    "would need DeepSpeedCPUAdam in the place of the run's own optimiser (optim.*), whose groups, rates and moments "
    "would be lost with it; use ZeRO-2 or 3 on more processes, or train.accumulate"
)
REFUSED = {
    "scheduler": "learning rates are functions of the step alone (schedule.*); DeepSpeed's scheduler would write one "
    "rate into all groups, and so thaw what is frozen and undo every group's own rate",
    "optimizer": "the optimiser and its groups are the run's own (optim.*)",
    "fp16": "float16 needs its loss scaled, and steps whose gradient overflows are skipped, while steps are counted, "
    "averaged and resumed as one update each; use bf16 (train.precision)",
    "amp": "NVIDIA apex trains in float16; use bf16 (train.precision)",
    "zero_optimization.round_robin_gradients": "DeepSpeed 0.19 then looks for a parameter's moments where those of "
    "another lie, and checkpoints would be wrong",
    "zero_optimization.offload_optimizer": OFFLOAD,
    "zero_optimization.offload_param": OFFLOAD,
    "zero_optimization.cpu_offload": OFFLOAD,
    "zero_optimization.cpu_offload_param": OFFLOAD,
}
"""What would be silently wrong, and why."""

BF16 = ("bf16", "torch_autocast")
SWITCHED = {*BF16, "fp16", "amp", "comms_logger", "flops_profiler"}
"""Blocks that are off unless they say "enabled": true."""

Precision = Literal["fp32", "bf16"]


class Resolved(NamedTuple):
    """What DeepSpeed is to be told, and what the user should know of the file."""

    stage: int
    """0 cuts up nothing, 1 the optimiser's moments, 2 gradients as well, 3 parameters as well."""
    told: dict[str, Any]
    notes: list[str]
    """Lines for the start of a run."""


def resolve(path: str, train: TrainConfig, *, n_processes: int, precision: Precision) -> Resolved:
    """DeepSpeed's configuration for a run. An empty path takes ZeRO-2.

    Raises:
      UsageError: if the file cannot be read, contradicts the run's configuration, or asks for what is refused.
    """
    given = _settings(path, _read(Path(path)) if path else DEFAULT)
    ours = _of_run(train, n_processes)
    for name, value in given.items():
        if name in REFUSED:
            raise UsageError(f"{path}: {name} cannot be used: {REFUSED[name]}. Take it out of the file")
        if name in ours and value != ours[name]:
            raise UsageError(
                f'{path}: {name}={value} contradicts {OURS[name]}={ours[name]:g}: make them equal, or say "auto" there'
            )
        if name in BF16:
            _agree_on_bf16(path, name, value, precision)
        elif name not in ours and name not in PASSED_ON and name not in WITHOUT_EFFECT:
            raise UsageError(
                f"{path}: {name} cannot be used: it is none of the settings that are passed on to DeepSpeed "
                "(docs/deepspeed.md lists them). Take it out of the file"
            )
    stage = given.get("zero_optimization.stage", 0)
    if stage not in (0, 1, 2, 3):
        raise UsageError(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3, got {stage!r}")
    # Clipping is the engine's own: group by group, as with every engine.
    told: dict[str, Any] = {**ours, "gradient_clipping": 0.0, "zero_optimization": {}}
    for name in given.keys() & PASSED_ON:
        block, _, inside = name.rpartition(".")
        (told[block] if block else told)[inside] = given[name]
    notes = [f"{path}: {name} has no effect: {WITHOUT_EFFECT[name]}" for name in given if name in WITHOUT_EFFECT]
    return Resolved(int(stage), told, notes)


def _of_run(train: TrainConfig, n_processes: int) -> dict[str, Any]:
    """What the run's own configuration says under DeepSpeed's names."""
    return {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch // n_processes,
        "gradient_accumulation_steps": train.accumulate,
        "gradient_clipping": train.clip_norm,
    }


OURS = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.batch_size / train.accumulate / processes",
    "gradient_accumulation_steps": "train.accumulate",
    "gradient_clipping": "train.clip_norm",
}
"""Settings that say the same as ours, and what we call them."""


def _agree_on_bf16(path: str, name: str, block: Any, precision: Precision) -> None:
    """bf16 of either kind asks for what train.precision says: autocast over float32 parameters, gradients and moments,
    so that teacher and averages stay in float32 as well.
    """
    inside = dict(block) if isinstance(block, dict) else {"": block}
    if inside.pop("dtype", "bfloat16") not in ("bfloat16", "bf16"):
        raise UsageError(f"{path}: {name}.dtype={block['dtype']} cannot be used: {REFUSED['fp16']}")
    for extra in sorted(inside.keys() - {"enabled"}):
        raise UsageError(
            f"{path}: {name}.{extra} cannot be used: bf16 runs as autocast over float32 parameters, which has no such "
            "setting. Take it out of the file"
        )
    if precision != "bf16":
        raise UsageError(
            f"{path}: {name} contradicts train.precision, which means {precision} here: set train.precision=bf16, or "
            'say "enabled": "auto" there'
        )


def _settings(path: str, given: dict[str, Any]) -> dict[str, Any]:
    """Every setting that says something, under its whole name: those of zero_optimization have it in front."""
    zero = given.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UsageError(f'{path}: zero_optimization must be an object such as {{"stage": 2}}, got {zero!r}')
    flat = {name: value for name, value in given.items() if name != "zero_optimization"}
    flat |= {f"zero_optimization.{name}": value for name, value in zero.items()}
    return {name: value for name, value in flat.items() if not _says_nothing(name, value)}


def _says_nothing(name: str, value: Any) -> bool:
    if isinstance(value, dict):
        off = value.get("enabled", name not in SWITCHED) in (False, "auto")
        return off or (name in REFUSED and value.get("device") == "none")
    return value in (None, "auto") or (value is False and name not in PASSED_ON)


def _read(path: Path) -> dict[str, Any]:
    """The file, with the comments and commas that DeepSpeed allows."""
    import hjson  # pyright: ignore[reportMissingImports] - comes with the extra

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is there twice")
        return dict(pairs)

    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():  # which hjson takes for an object without entries
            raise ValueError("it is empty")
        value = hjson.loads(text, object_pairs_hook=without_duplicates)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); train.deepspeed_config is a ds_config.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a valid ds_config.json: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a valid ds_config.json: holds a {type(value).__name__}, not an object")
    return value
