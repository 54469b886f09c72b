"""The loop: batches in, updates out; logged, watched, saved, and the same after any interruption.

Order within a step: batch, forward and backward per micro-batch, check that all is finite, clip, update, average
weights, probe, judge, log, save. A checkpoint named step N holds the state after N updates.
"""

import abc
import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.checkpoint import store
from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.core.hardware import has_bf16
from birdjepa.core.processes import ALONE, Processes, everywhere, require_exchange
from birdjepa.objectives.base import Chance
from birdjepa.optim.schedules import ScheduleConfig, factor, weight_decay_factor
from birdjepa.train.config import TrainConfig
from birdjepa.train.monitors import alarm, look
from birdjepa.train.progress import Progress
from birdjepa.train.saving import Saves
from birdjepa.train.selftest import require_own_clips
from birdjepa.train.sinks import Sinks
from birdjepa.train.state import TrainState
from birdjepa.train.timing import Stopwatch
from birdjepa.train.watchdog import Watchdog

Batches = Callable[[int, int], Generator[ClipBatch, None, None]]
"""Micro-batches number first to last - 1."""


class Judge(abc.ABC):
    """Who looks at a run from outside, on recordings that it does not learn from, and may end it early."""

    @abc.abstractmethod
    def judge(self) -> dict[str, float]:
        """Scores of the state in hand for its row, asked before the first step and after each; empty where it is not
        the time.
        """

    @abc.abstractmethod
    def is_over(self) -> bool:
        """Whether nothing better is to be expected; a function of the state alone."""


LEAST_REFUSED = 20
"""Refused examples that never stop a run, however few were seen."""


class NonFinite(UserError):
    """The loss or its gradient is not a number; the state before that step is saved."""

    everywhere = True

    def __init__(self, text: str, recordings: list[int]) -> None:
        super().__init__(text)
        self.recordings = recordings
        """Numbers of the step's recordings."""


class Heard(NamedTuple):
    """The clips of a step, of all processes, in the order in which one process would have them."""

    embedding: Float[Tensor, "b e"]
    label: Int[Tensor, " b"]
    recording: Int[Tensor, " b"]


class Update(NamedTuple):
    """What one optimiser step saw."""

    loss: float
    """Mean over processes and micro-batches."""
    losses: list[float]
    """Of each process: a mean would hide one that has gone wrong."""
    grad_norm: float
    terms: dict[str, float]
    heard: Heard


class Trainer:
    """Runs a state through its steps."""

    def __init__(
        self,
        state: TrainState,
        config: TrainConfig,
        schedule: ScheduleConfig,
        folder: Path,
        *,
        seed: int,
        max_refused: float,
        verb: str = "pretrain",
    ) -> None:
        self.state = state
        self.config = config
        self.schedule = schedule
        self.folder = folder
        self.seed = seed
        self.max_refused = max_refused
        self.verb = verb
        """Which command resumes the run."""
        self.engine = state.engine
        self.device = state.engine.device
        self.autocast = autocast_dtype(config.precision, self.device)
        self.timing = Stopwatch(self.device)
        """Parts: data, loop, forward (and views, where a profile marks them), backward, optimiser, watch, log, save."""
        self._saved_step = state.step

    def run(
        self,
        batches: Batches,
        described: Mapping[str, Any],
        *,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        judge: Judge | None = None,
        fetches: bool = False,
    ) -> None:
        """Trains from the state's step to the last, or to where the judge calls it over. Where batches are fetched over
        a network, that bounds its waits itself, and the watchdog is patient meanwhile.

        Raises:
          Interrupted: a stop was asked for; the state is saved.
          NonFinite: naming the step and the recordings.
          NotSaved: storage fails again and again.
          UserError: too many recordings cannot be read.
        """
        config, state, own = self.config, self.state, self.engine.processes
        start = state.step
        saves = Saves(say)
        require_exchange(self.device)
        with (
            self.sinks(described) as sinks,
            Progress(start, config.steps, say, self.verb) if own.is_first else contextlib.nullcontext() as progress,
            Watchdog(self.folder, say) as watchdog,  # outside the feed: ending its workers may be what hangs
            contextlib.closing(batches(start * config.accumulate, config.steps * config.accumulate)) as feed,
        ):
            self.timing.restart()
            if judge and start == 0 and (seen := judge.judge()) and sinks:
                sinks.write({"step": 0, **seen})
            while not self.is_over(judge):
                if own.any(stop()):
                    with watchdog.patient():
                        saves.now(lambda: self.keep(sinks))
                    raise Interrupted(
                        f"stopped at step {state.step}, saved; go on with: birdjepa {self.verb} --resume {self.folder}"
                    )
                began = time.perf_counter()
                with watchdog.patient() if fetches else contextlib.nullcontext():
                    micro_batches = own.together(lambda: [next(feed) for _ in range(config.accumulate)])
                self.timing.mark("data")
                if state.step == start:
                    require_own_clips(micro_batches)
                watchdog.start()
                update = self.update(micro_batches)
                row = self.watch(update, time.perf_counter() - began)
                watchdog.step_done()
                with watchdog.patient():
                    judged = judge.judge() if judge else {}
                self.timing.mark("watch")
                logged = state.step % config.log_every == 0 or state.step in (1, config.steps)
                if sinks and (logged or judged or self.is_watched()):
                    sinks.write({**row, **judged, "data_wait": self.timing.share("data")})
                if "alarm" in row:
                    say(f"step {state.step}: {row['alarm']}")
                if progress:
                    progress.advance(state.step, update.loss)
                self.timing.mark("log")
                is_over = self.is_over(judge)
                if state.step % config.checkpoint_every == 0 or is_over:
                    with watchdog.patient():
                        (saves.now if is_over else saves.soon)(lambda: self.keep(sinks))
                    self.timing.mark("save")

    def sinks(self, described: Mapping[str, Any]) -> contextlib.AbstractContextManager[Sinks | None]:
        """Where metrics go, on the process that writes."""
        if not self.engine.processes.is_first:
            return contextlib.nullcontext()
        first_step = self.state.step + 1 if self.state.step else 0
        return Sinks(self.folder, self.config.sinks, described, first_step=first_step)

    def update(self, batches: list[ClipBatch]) -> Update:
        """One optimiser step over its micro-batches."""
        state, config, engine = self.state, self.config, self.engine
        scale = factor(state.step, config.steps, self.schedule)
        decay = weight_decay_factor(state.step, config.steps, self.schedule)
        asleep = [group for group in state.optimiser.param_groups if state.objective.sleeps(group["name"], state.step)]
        for group in state.optimiser.param_groups:
            group["lr"] = 0.0 if group in asleep else state.optimiser.defaults["lr"] * group["rate"] * scale
            group["weight_decay"] = group["full_weight_decay"] * decay
        engine.zero_grad()
        buffers = {name: buffer.clone() for name, buffer in state.objective.named_buffers()}
        losses, terms, heard = [], [], []
        self.timing.mark("loop")
        for micro, batch in enumerate(batches):
            last = micro == len(batches) - 1
            moved = batch.move(self.device)
            with self.precision():
                output = engine.forward(moved, self.chance(micro), last=last)
            self.timing.mark("forward")
            engine.backward(output.loss / len(batches), last=last)
            self.timing.mark("backward")
            losses.append(float(output.loss.detach()))
            terms.append({name: float(value) for name, value in output.terms.items()})
            heard.append(self.gathered(moved, output.watched))
        norm = engine.clip(config.clip_norm, config.clip_by)
        means = {name: sum(each[name] for each in terms) / len(terms) for name in terms[0]}
        table = engine.processes.table([sum(losses) / len(losses), *means.values()])
        loss, *of_all = (sum(column) / len(table) for column in zip(*table, strict=True))
        if not (math.isfinite(norm) and math.isfinite(loss)):
            for name, buffer in state.objective.named_buffers():
                buffer.copy_(buffers[name])  # batch norms have seen the bad batch
            self.stop_non_finite(loss, norm, heard)
        self.count_refused(batches)
        engine.step()
        for parameter in (parameter for group in asleep for parameter in group["params"]):
            engine.write_moment(parameter, "step", torch.zeros(()))  # engines may have updated by nothing
        with engine.opened():
            state.objective.after_update(self.chance())
            if state.ema:
                state.ema.update(state.objective.averaged)
        state.step += 1
        self.timing.mark("optimiser")
        whole = Heard(*(torch.cat(parts) for parts in zip(*heard, strict=True)))
        return Update(loss, [row[0] for row in table], norm, dict(zip(means, of_all, strict=True)), whole)

    def gathered(self, batch: ClipBatch, embedding: Float[Tensor, "b e"]) -> Heard:
        """The clips of a micro-batch of all processes, and their embeddings."""
        rows = self.engine.processes.rows
        label, recording = rows(torch.stack((batch.label, batch.recording), 1)).unbind(1)
        return Heard(rows(embedding), label, recording)

    def chance(self, micro: int = 0) -> Chance:
        """Chance of the step in hand."""
        planned = self.schedule.planned(self.config.steps)
        return Chance(self.seed, self.state.step, planned, micro, self.engine.rank, self.engine.world)

    def watch(self, update: Update, seconds: float) -> dict[str, Any]:
        """The step's row: loss and terms, the probe, and now and then the monitors."""
        state, config = self.state, self.config
        heard = update.heard
        row: dict[str, Any] = {"step": state.step, "loss": update.loss, **update.terms, "grad_norm": update.grad_norm}
        row["lr"] = state.optimiser.defaults["lr"] * factor(state.step - 1, config.steps, self.schedule)
        if len(update.losses) > 1:
            row |= {f"loss_rank{rank}": loss for rank, loss in enumerate(update.losses)}
        probed = state.probe.step(heard.embedding, heard.label) if state.probe else None
        if probed:
            row["probe_loss"], row["probe_accuracy"] = probed
        state.bank.add(heard.embedding, heard.label, heard.recording)
        if self.is_watched():
            seen = look(state.bank, config.monitor)
            row.update(seen)
            told = alarm(seen, len(state.bank.filled()), heard.embedding.shape[1], config.monitor)
            if told:
                row["alarm"] = told
        row["clips_per_s"] = len(heard.label) / seconds
        row["step_s"] = seconds
        row["n_refused"] = state.n_refused
        return row

    def is_over(self, judge: Judge | None) -> bool:
        """Whether no step is left to be done."""
        return self.state.step >= self.config.steps or (judge is not None and judge.is_over())

    def is_watched(self) -> bool:
        """Whether the monitors look at the step just done."""
        return self.state.step % self.config.monitor.every == 0 or self.state.step == self.config.steps

    def keep(self, sinks: Sinks | None) -> None:
        """Rows to the disk, then the checkpoint that they lead to.

        Raises:
          StorageError: if either fails.
        """
        self.engine.processes.first(lambda: sinks.sync() if sinks else None)
        self.save()

    def save(self) -> None:
        """Writes a checkpoint of the current step, unless there is one. The first process writes, the others wait.

        Raises:
          CheckpointError: if storage fails.
          UserError: if processes that should hold the same do not; nothing is written then.
        """
        state = self.state
        if self._saved_step == state.step:
            return
        tensors, folder = state.tensors(), self.folder / "checkpoints"
        state.require_same(tensors, f"what they hold after step {state.step}")

        def write() -> None:
            store.save(folder, state.step, tensors, state.meta(), retention=self.config.retention)

        self.engine.processes.first(write)
        self._saved_step = state.step

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast of the run's precision."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def count_refused(self, batches: list[ClipBatch]) -> None:
        """Keeps the reason of every refused recording; too large a share of them ends the run."""
        state, own = self.state, self.engine.processes
        refused = [refusal for batch in batches for refusal in batch.refused]
        if own.any(bool(refused)) and own.world > 1:
            of_all = own.objects([batch.refused for batch in batches])
            refused = [refusal for micro in zip(*of_all, strict=True) for part in micro for refusal in part]
        state.n_refused += len(refused)
        state.n_asked += own.world * sum(len(batch.label) for batch in batches)
        state.refused.update({refusal.path: refusal for refusal in refused})
        if state.n_refused > max(LEAST_REFUSED, self.max_refused * state.n_asked):
            reasons = "; ".join(f"{each.path}: {each.reason}" for each in list(state.refused.values())[:3])
            raise everywhere(
                UserError(
                    f"{state.n_refused} of {state.n_asked} examples could not be read, more than "
                    f"loader.max_refused={self.max_refused:g}: {reasons}. `birdjepa data scan` lists them all"
                )
            )

    def stop_non_finite(self, loss: float, norm: float, heard: list[Heard]) -> None:
        """Saves the state before this step, and says where it happened."""
        step = self.state.step
        try:
            self.save()
            saved = f"the state after step {step} is saved in {self.folder}"
        except CheckpointError as error:
            saved = str(error)
        recordings = sorted({int(number) for part in heard for number in part.recording})
        raise NonFinite(
            f"step {step + 1}: loss {loss:g}, gradient norm {norm:g}; {saved}. Lower optim.lr in a new run", recordings
        )


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 or None (float32) for a setting; auto asks the hardware."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def pick_device(name: str, own: Processes = ALONE) -> torch.device:
    """The device that a setting names; auto takes CUDA, then Apple's GPU, then the CPU. Of several processes each gets
    the GPU of its number, and Apple's is not taken.

    Raises:
      UsageError: if there is no such device, or not one for each process.
    """
    if own.world > 1:
        return _pick_own_device(name, own)
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"train.device={name!r} cannot be used: {str(error).splitlines()[0]}") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _pick_own_device(name: str, own: Processes) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"train.device={name} is one device, and there are {own.world} processes: give cpu, cuda or auto"
        )
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and n_gpus == 0):
        return torch.device("cpu")
    if own.local_rank >= n_gpus:
        raise UsageError(
            f"process {own.rank} has no GPU of its own: this machine has {n_gpus}; start fewer with --nproc-per-node, "
            "or give --train.device cpu"
        )
    device = torch.device("cuda", own.local_rank)
    torch.cuda.set_device(device)
    return device
