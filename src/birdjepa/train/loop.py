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

from birdjepa.checkpoint import store
from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import Interrupted, UsageError, UserError
from birdjepa.core.hardware import has_bf16
from birdjepa.objectives.base import Chance
from birdjepa.optim.clipping import clip_gradients
from birdjepa.optim.schedules import ScheduleConfig, factor, weight_decay_factor
from birdjepa.train.config import TrainConfig
from birdjepa.train.monitors import alarm, look
from birdjepa.train.progress import Progress
from birdjepa.train.saving import Saves
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

    def __init__(self, text: str, recordings: list[int]) -> None:
        super().__init__(text)
        self.recordings = recordings
        """Numbers of the step's recordings."""


class Update(NamedTuple):
    """What one optimiser step saw."""

    loss: float
    grad_norm: float
    terms: dict[str, float]
    batches: list[ClipBatch]
    embedding: torch.Tensor


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
    ) -> None:
        """Trains from the state's step to the last, or to where the judge calls it over.

        Raises:
          Interrupted: a stop was asked for; the state is saved.
          NonFinite: naming the step and the recordings.
          NotSaved: storage fails again and again.
          UserError: too many recordings cannot be read.
        """
        config, state = self.config, self.state
        start = state.step
        saves = Saves(say)
        with (
            Sinks(self.folder, config.sinks, described, first_step=start + 1 if start else 0) as sinks,
            Progress(start, config.steps, say, self.verb) as progress,
            Watchdog(self.folder, say) as watchdog,  # outside the feed: ending its workers may be what hangs
            contextlib.closing(batches(start * config.accumulate, config.steps * config.accumulate)) as feed,
        ):
            self.timing.restart()
            if judge and start == 0 and (seen := judge.judge()):
                sinks.write({"step": 0, **seen})
            while not self.is_over(judge):
                if stop():
                    with watchdog.patient():
                        saves.now(lambda: self.keep(sinks))
                    raise Interrupted(
                        f"stopped at step {state.step}, saved; go on with: birdjepa {self.verb} --resume {self.folder}"
                    )
                began = time.perf_counter()
                micro_batches = [next(feed) for _ in range(config.accumulate)]
                self.timing.mark("data")
                watchdog.start()
                update = self.update(micro_batches)
                row = self.watch(update, time.perf_counter() - began)
                watchdog.step_done()
                with watchdog.patient():
                    judged = judge.judge() if judge else {}
                self.timing.mark("watch")
                logged = state.step % config.log_every == 0 or state.step in (1, config.steps)
                if logged or judged or self.is_watched():
                    sinks.write({**row, **judged, "data_wait": self.timing.share("data")})
                if "alarm" in row:
                    say(f"step {state.step}: {row['alarm']}")
                progress.advance(state.step, update.loss)
                self.timing.mark("log")
                is_over = self.is_over(judge)
                if state.step % config.checkpoint_every == 0 or is_over:
                    with watchdog.patient():
                        (saves.now if is_over else saves.soon)(lambda: self.keep(sinks))
                    self.timing.mark("save")

    def update(self, batches: list[ClipBatch]) -> Update:
        """One optimiser step over its micro-batches."""
        state, config, engine = self.state, self.config, self.engine
        scale = factor(state.step, config.steps, self.schedule)
        decay = weight_decay_factor(state.step, config.steps, self.schedule)
        for group in state.optimiser.param_groups:
            group["lr"] = state.optimiser.defaults["lr"] * group["rate"] * scale
            group["weight_decay"] = group["full_weight_decay"] * decay
        engine.zero_grad()
        buffers = {name: buffer.clone() for name, buffer in state.objective.named_buffers()}
        losses, terms, embeddings = [], [], []
        self.timing.mark("loop")
        for micro, batch in enumerate(batches):
            last = micro == len(batches) - 1
            with self.precision():
                output = engine.forward(batch.move(self.device), self.chance(micro), last=last)
            self.timing.mark("forward")
            engine.backward(output.loss / len(batches), last=last)
            self.timing.mark("backward")
            losses.append(float(output.loss.detach()))
            terms.append({name: float(value) for name, value in output.terms.items()})
            embeddings.append(output.watched)
        norm = engine.clip(config.clip_norm, config.clip_by)
        loss = sum(losses) / len(losses)
        if not (math.isfinite(norm) and math.isfinite(loss)):
            for name, buffer in state.objective.named_buffers():
                buffer.copy_(buffers[name])  # batch norms have seen the bad batch
            self.stop_non_finite(loss, norm, batches)
        self.count_refused(batches)
        engine.step()
        with engine.opened():
            state.objective.after_update(self.chance())
            if state.ema:
                state.ema.update(state.objective.encoder)
        state.step += 1
        self.timing.mark("optimiser")
        means = {name: sum(each[name] for each in terms) / len(terms) for name in terms[0]}
        return Update(loss, norm, means, batches, torch.cat(embeddings))

    def chance(self, micro: int = 0) -> Chance:
        """Chance of the step in hand."""
        return Chance(self.seed, self.state.step, self.schedule.planned(self.config.steps), micro)

    def watch(self, update: Update, seconds: float) -> dict[str, Any]:
        """The step's row: loss and terms, the probe, and now and then the monitors."""
        state, config = self.state, self.config
        label = torch.cat([batch.label for batch in update.batches]).to(self.device)
        recording = torch.cat([batch.recording for batch in update.batches]).to(self.device)
        row: dict[str, Any] = {"step": state.step, "loss": update.loss, **update.terms, "grad_norm": update.grad_norm}
        row["lr"] = state.optimiser.defaults["lr"] * factor(state.step - 1, config.steps, self.schedule)
        probed = state.probe.step(update.embedding, label) if state.probe else None
        if probed:
            row["probe_loss"], row["probe_accuracy"] = probed
        state.bank.add(update.embedding, label, recording)
        if self.is_watched():
            seen = look(state.bank, config.monitor)
            row.update(seen)
            told = alarm(seen, len(state.bank.filled()), update.embedding.shape[1], config.monitor)
            if told:
                row["alarm"] = told
        row["clips_per_s"] = config.batch_size / seconds
        row["n_refused"] = state.n_refused
        return row

    def is_over(self, judge: Judge | None) -> bool:
        """Whether no step is left to be done."""
        return self.state.step >= self.config.steps or (judge is not None and judge.is_over())

    def is_watched(self) -> bool:
        """Whether the monitors look at the step just done."""
        return self.state.step % self.config.monitor.every == 0 or self.state.step == self.config.steps

    def keep(self, sinks: Sinks) -> None:
        """Rows to the disk, then the checkpoint that they lead to.

        Raises:
          StorageError: if either fails.
        """
        sinks.sync()
        self.save()

    def save(self) -> None:
        """Writes a checkpoint of the current step, unless there is one."""
        state = self.state
        if self._saved_step == state.step:
            return
        folder = self.folder / "checkpoints"
        store.save(folder, state.step, state.tensors(), state.meta(), retention=self.config.retention)
        self._saved_step = state.step

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast of the run's precision."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def count_refused(self, batches: list[ClipBatch]) -> None:
        """Keeps the reason of every refused recording; too large a share of them ends the run."""
        state = self.state
        refused = [refusal for batch in batches for refusal in batch.refused]
        state.n_refused += len(refused)
        state.refused.update({refusal.path: refusal for refusal in refused})
        seen = (state.step + 1) * self.config.batch_size
        if state.n_refused > max(LEAST_REFUSED, self.max_refused * seen):
            reasons = "; ".join(f"{each.path}: {each.reason}" for each in list(state.refused.values())[:3])
            raise UserError(
                f"{state.n_refused} of {seen} examples could not be read, more than "
                f"loader.max_refused={self.max_refused:g}: {reasons}. `birdjepa data scan` lists them all"
            )

    def stop_non_finite(self, loss: float, norm: float, batches: list[ClipBatch]) -> None:
        """Saves the state before this step, and says where it happened."""
        step = self.state.step
        try:
            self.save()
            saved = f"the state after step {step} is saved in {self.folder}"
        except CheckpointError as error:
            saved = str(error)
        recordings = sorted({int(number) for batch in batches for number in batch.recording})
        raise NonFinite(
            f"step {step + 1}: loss {loss:g}, gradient norm {norm:g}; {saved}. Lower optim.lr in a new run", recordings
        )


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 or None (float32) for a setting; auto asks the hardware."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def pick_device(name: str) -> torch.device:
    """The device that a setting names; auto takes CUDA, then Apple's GPU, then the CPU.

    Raises:
      UsageError: if there is no such device.
    """
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"train.device={name!r} cannot be used: {str(error).splitlines()[0]}") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
