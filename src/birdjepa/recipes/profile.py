"""The profile job: what a training step costs, in memory and in time, and how much of the machine it uses.

Steps are those of the real loop with the real loader, in one process. On a GPU the parts are told apart by waiting for
it after each, so that a profiled step is somewhat slower than one of a run.
"""

import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from birdjepa.core import processes
from birdjepa.core.errors import UsageError
from birdjepa.core.provenance import provenance
from birdjepa.data.loader import batches, worker_errors
from birdjepa.models.vit import Vit
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.pretrain import open_sources
from birdjepa.recipes.profile_memory import Memory, budget_mib, by_batch, largest_that_fits, make_trainer, noise
from birdjepa.recipes.run_folder import Say
from birdjepa.train.config import SinksConfig
from birdjepa.train.loop import Trainer
from birdjepa.train.timing import Stopwatch

PARTS = {
    "data": "waiting for the loader",
    "views": "copy to the device, mel, augmentation, views, masks",
    "forward": "encoder and the rest of the objective",
    "backward": "",
    "optimiser": "clipping, update, teacher, averaged weights",
    "loop": "gradients cleared, buffers kept for a bad step",
    "watch": "embedding bank and online probe",
    "monitors": "rank, spread and neighbours, by train.monitor.every",
    "log": "a row of metrics, by train.log-every",
    "save": "a checkpoint, by train.checkpoint-every",
}
"""Parts of a step. Up to the optimiser it is the work itself; what follows is the loop's."""
OVERHEAD = ("loop", "watch", "monitors", "log", "save")
COMPUTE = ("views", "forward", "backward", "optimiser")
N_WARM = 2
"""Steps before the timed ones, the first of which counts operations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """What is measured, and how thoroughly."""

    steps: int = 8
    """Timed steps, after two that warm up."""
    memory_share: float = 0.8
    """Share of the GPU's memory, or of what the system has available, that a run may take."""
    largest: int = 1024
    """Largest micro-batch whose memory is measured, from 2 on by powers of two; 0 measures none."""

    def __post_init__(self) -> None:
        if self.steps < 2 or not 0 < self.memory_share <= 1 or self.largest < 0:
            raise ValueError(
                "need profile.steps >= 2, 0 < memory_share <= 1, largest >= 0; got "
                f"{self.steps}, {self.memory_share}, {self.largest}"
            )


@dataclasses.dataclass(frozen=True)
class Profile:
    """What `birdjepa profile --json` prints."""

    n_parameters: int
    """Of the encoder."""
    n_trained: int
    """Of all that trains."""
    n_tokens: int
    """Patches of a clip of the exported encoder."""
    flops: float
    """Operations of a step in matrix products and convolutions, forward and backward, as torch counts them."""
    seconds: dict[str, float]
    """Time of a step by part: medians, and what does not happen at every step shared out."""
    product_flops: float
    """Operations per second of this machine's large matrix product, in the run's precision."""
    memory: tuple[Memory, ...]
    budget_mib: float
    fits: int
    """Largest micro-batch expected within the budget; 0 where none was measured or fits."""
    described: dict[str, Any]

    @property
    def step_s(self) -> float:
        return sum(self.seconds.values())

    def share(self, parts: Sequence[str]) -> float:
        """Share of a step's time."""
        return sum(self.seconds[part] for part in parts) / self.step_s

    @property
    def product_share(self) -> float:
        """Rate of the work itself as a share of the matrix product's."""
        return self.flops / sum(self.seconds[part] for part in COMPUTE) / self.product_flops

    def to_json(self) -> dict[str, Any]:
        derived = {
            "step_s": self.step_s,
            "data_wait": self.share(["data"]),
            "overhead": self.share(OVERHEAD),
            "product_share": self.product_share,
        }
        peaks = [None if each.peak_mib != each.peak_mib else each.peak_mib for each in self.memory]
        memory = [{**each._asdict(), "peak_mib": peak} for each, peak in zip(self.memory, peaks, strict=True)]
        return {**dataclasses.asdict(self), "memory": memory, **derived}


def profile(config: RunConfig, asked: ProfileConfig, say: Say) -> Profile:
    """Measures a step of a run that config describes; leaves nothing behind.

    Raises:
      UsageError, UserError: as `pretrain.start`.
    """
    config.check()
    if config.train.engine != "single" or processes.asked().world > 1:
        raise UsageError("a profile is of one process: leave out --train.engine and torchrun")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    clips = config.open_clips(open_sources(config))
    with tempfile.TemporaryDirectory() as folder:
        say(f"timing {asked.steps} steps of {config.train.batch_size} clips")
        trainer = make_trainer(shortened(config, N_WARM + asked.steps), clips, Path(folder))
        flops = count_flops(trainer, config, noise(config, clips))
        steps = time_steps(trainer, functools.partial(batches, clips))
    say("timing a matrix product")
    rate = product_rate(trainer.device, trainer.autocast or torch.float32)
    budget, memory = 0.0, []
    if asked.largest >= 2:
        budget = budget_mib(trainer.device, asked.memory_share)
        for each in by_batch(config, clips, asked.largest, budget):
            say(f"micro-batch {each.micro_batch}: {each.peak_mib:,.0f} MiB")
            memory.append(each)
    objective = trainer.state.objective
    encoder = objective.encoder
    described = {
        "objective": config.objective.name,
        "data": list(config.data),
        "batch_size": config.train.batch_size,
        "micro_batch": config.train.micro_batch,
        "workers": config.loader.workers,
        "device": str(trainer.device),
        "precision": "bf16" if trainer.autocast else "fp32",
        "n_threads": torch.get_num_threads(),
        "provenance": provenance(),
    }
    return Profile(
        n_parameters=sum(each.numel() for each in encoder.parameters()),
        n_trained=sum(each.numel() for each in objective.parameters() if each.requires_grad),
        n_tokens=encoder.config.n_patches,
        flops=flops,
        seconds=by_part(steps, config),
        product_flops=rate,
        memory=tuple(memory),
        budget_mib=budget,
        fits=largest_that_fits(memory, budget),
        described=described,
    )


def shortened(config: RunConfig, steps: int) -> RunConfig:
    """A run of so many steps that logs each, and looks and saves at the last one."""
    monitor = dataclasses.replace(config.train.monitor, every=steps)
    train = dataclasses.replace(
        config.train, steps=steps, log_every=1, checkpoint_every=steps, monitor=monitor, sinks=SinksConfig()
    )
    return dataclasses.replace(config, train=train, schedule=dataclasses.replace(config.schedule, fork=None))


def count_flops(trainer: Trainer, config: RunConfig, batch: Any) -> float:
    """Operations of the trainer's next step, which it takes, on micro-batches like this one."""
    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        trainer.update([batch] * config.train.accumulate)
    return float(counter.get_total_flops())


def time_steps(trainer: Trainer, feed: Any) -> list[dict[str, float]]:
    """Runs the trainer to its end; seconds of each step by part, but for the warm-up."""
    watch = trainer.timing = Stopwatch(trainer.device, exact=True)

    def begin_forward(*_: Any) -> None:
        """What went before the first network of a forward pass was making its input."""
        if watch.part != "views":
            watch.mark("views")

    hooks = [
        module.register_forward_pre_hook(begin_forward)
        for module in trainer.state.objective.modules()
        if isinstance(module, Vit)
    ]
    seen: list[dict[str, float]] = []

    def stop() -> bool:
        seen.append(dict(watch.seconds))
        return False

    with worker_errors():
        trainer.run(feed, {}, stop=stop, say=lambda _: None)
    for hook in hooks:
        hook.remove()
    seen.append(dict(watch.seconds))
    steps = [
        {part: after.get(part, 0.0) - before.get(part, 0.0) for part in PARTS}
        for before, after in itertools.pairwise(seen)
    ]
    return steps[N_WARM - 1 :]


def by_part(steps: Sequence[Mapping[str, float]], config: RunConfig) -> dict[str, float]:
    """Seconds of a step by part. The last of the steps also looked and saved, which a run does now and then."""
    seconds = {part: statistics.median(step[part] for step in steps[:-1]) for part in PARTS}
    seconds["data"] = statistics.fmean(step["data"] for step in steps)  # it comes in bursts: workers hand over batches
    seconds["monitors"] = max(0.0, steps[-1]["watch"] - seconds["watch"]) / config.train.monitor.every
    seconds["log"] /= config.train.log_every
    seconds["save"] = steps[-1]["save"] / config.train.checkpoint_every
    return seconds


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product: the best of a few."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        del product
    return 2 * size**3 / best


def _attention_flops(query, key, value, dropout_p=0.0, is_causal=False, attn_mask=None, scale=None, out_shape=None):
    """torch counts attention on GPUs only; on a CPU it is the same arithmetic. Arguments are shapes."""
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad, query, key, value, out, logsumexp, dropout_p=0.0, is_causal=False, attn_mask=None, scale=None, out_shape=None
):
    return sdpa_backward_flop_count(grad, query, key, value)
