"""Memory of a training step by batch size: measured in fresh processes, on clips of noise.

On a GPU it is what torch allocated at most; on a CPU the peak of what the process held in memory, which is also what
the system ends a process for.
"""

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from birdjepa.core import memory, random
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UserError
from birdjepa.data.loader import Batches
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.pretrain import make_state
from birdjepa.train.engine import SingleEngine
from birdjepa.train.loop import Trainer, pick_device

N_UPDATES = 2
"""The second one meets everything that the first one left behind."""
FURTHEST = 4
"""A fit is believed up to this many times the largest batch that was measured."""


class Memory(NamedTuple):
    """Peak of a step."""

    micro_batch: int
    peak_mib: float
    """NaN where it did not fit."""


def make_trainer(config: RunConfig, clips: Batches, folder: Path) -> Trainer:
    """A trainer of one process at step 0, as `pretrain` makes it."""
    state = make_state(config, clips, SingleEngine(pick_device(config.train.device)))
    return Trainer(state, config.train, config.schedule, folder, seed=config.seed, max_refused=1.0)


def noise(config: RunConfig, clips: Batches) -> ClipBatch:
    """A micro-batch of clips of noise, each of a recording and class of its own as far as there are so many."""
    size = config.train.micro_batch
    generator = random.torch_generator(config.seed, "noise", device=torch.device("cpu"))
    number = torch.arange(size)
    label = number % len(clips.classes) if clips.classes else torch.full((size,), -1)
    n_samples = round(config.loader.clip_s * config.sampling_rate)
    return ClipBatch(
        clips=0.1 * torch.randn(size, n_samples, generator=generator),
        lengths=torch.full((size,), n_samples),
        label=label,
        labels=torch.nn.functional.one_hot(label, len(clips.classes)).bool()
        if clips.classes
        else torch.zeros(size, 0, dtype=torch.bool),
        recording=number % clips.n_recordings,
        refused=(),
    )


def budget_mib(device: torch.device, share: float) -> float:
    """What a run may take: a share of the GPU's memory, or of what the system can give now.

    Raises:
      UserError: if the system does not tell.
    """
    if device.type == "cuda":
        return share * torch.cuda.mem_get_info(device)[1] / 2**20
    if not (free := memory.available_mib()):
        raise UserError("this system does not tell its free memory: leave it out with --profile.largest 0")
    return share * free


def by_batch(config: RunConfig, clips: Batches, largest: int, budget: float) -> Iterator[Memory]:
    """Peaks for micro-batches of 2, 4, 8, ... up to the largest, while the next one can be expected to fit."""
    measured: list[Memory] = []
    size = 2
    while size <= largest:
        if len(measured) > 1 and expected(measured, size) > budget:
            return
        found = Memory(size, peak_mib(config, clips, size))
        yield found
        measured.append(found)
        if not found.peak_mib <= budget:  # also where it did not fit
            return
        size *= 2


def expected(measured: Sequence[Memory], size: int) -> float:
    """Peak that the line through the last two measurements gives a micro-batch."""
    before, last = measured[-2:]
    slope = max(0.0, (last.peak_mib - before.peak_mib) / (last.micro_batch - before.micro_batch))
    return last.peak_mib + slope * (size - last.micro_batch)


def largest_that_fits(measured: Sequence[Memory], budget: float) -> int:
    """The largest micro-batch within the budget by the line through the last two that fit; 0 where none does."""
    fits = [each for each in measured if each.peak_mib <= budget]
    if len(fits) < 2:
        return fits[-1].micro_batch if fits else 0
    size = fits[-1].micro_batch
    failed = [each.micro_batch for each in measured if not each.peak_mib <= budget]
    limit = min([FURTHEST * size, *(each - 1 for each in failed)])
    while size < limit and expected(fits, size + 1) <= budget:
        size += 1
    return size


def peak_mib(config: RunConfig, clips: Batches, micro_batch: int) -> float:
    """Peak of memory of an update, in a fresh process; NaN where it is ended or refused for want of memory.

    Raises:
      UserError: if it fails for another reason.
    """
    train = dataclasses.replace(config.train, batch_size=micro_batch, accumulate=1)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, dataclasses.replace(config, train=train), clips))
    child.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        child.join()
        if child.exitcode == -9:
            return float("nan")
        raise UserError(f"a step of {micro_batch} clips ended with exit code {child.exitcode}") from None
    finally:
        child.join()
    if isinstance(found, str):
        raise UserError(f"a step of {micro_batch} clips: {found}")
    return found


def _measure(sender: Connection, config: RunConfig, clips: Batches) -> None:
    """In the fresh process: sends the peak, or what went wrong."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = make_trainer(config, clips, Path(folder))
            for _ in range(N_UPDATES):
                trainer.update([noise(config, clips)])
            sender.send(_peak(trainer.device))
        except (torch.OutOfMemoryError, MemoryError):
            sender.send(float("nan"))
        except RuntimeError as error:
            is_memory = "alloc" in str(error) or "out of memory" in str(error)
            sender.send(float("nan") if is_memory else str(error).splitlines()[0])
        except UserError as error:
            sender.send(str(error))


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return memory.peak_mib()
