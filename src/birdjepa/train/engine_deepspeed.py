"""DeepSpeed, an extra: ZeRO 0 to 3 as the user's own ds_config.json says.

DeepSpeed exchanges gradients and cuts up moments (ZeRO-1), gradients (2) and parameters (3). All else is ours: the
optimiser and its groups, the rates, clipping, precision (autocast over float32 parameters), checkpoints. ZeRO lays the
parameters of a group end to end and gives each process a piece of that line, whatever lies in it, so the update must
be the same for every number by itself: AdamW's is, Muon's is not.

ZeRO has merged pieces wrongly in silence before (DeepSpeed issues 6791, 3824, 1317), so what it gives back is held
against what it was given when training starts.
"""

import contextlib
import copy
import importlib
import json
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import MissingExtraError, UsageError, UserError
from birdjepa.objectives.base import Chance, Objective, ObjectiveOutput
from birdjepa.optim.clipping import ClipBy, clip_gradients
from birdjepa.train.config import TrainConfig
from birdjepa.train.deepspeed_config import Resolved, resolve
from birdjepa.train.engine import Engine


class DeepSpeedEngine(Engine):
    """Processes under ZeRO, or one: DeepSpeed wants a process group even then.

    Raises:
      UsageError: as `resolved`, or if DeepSpeed cannot work on the device.
      UserError: if the processes' configurations differ, with which they would wait for each other for ever.
    """

    def __init__(self, device: torch.device, config: TrainConfig, autocast: torch.dtype | None) -> None:
        super().__init__(device)
        self.resolved = resolved(config, self.world, autocast)
        told = {name: json.dumps(value, sort_keys=True) for name, value in self.resolved.told.items()}
        self.processes.require_equal("their ds_config.json", told)
        self.stage = self.resolved.stage
        self._deepspeed = _import_deepspeed(device)
        if not dist.is_initialized():  # one process
            os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(store=store, rank=0, world_size=1)

    @property
    def notes(self) -> list[str]:
        return [f"engine: DeepSpeed {self._deepspeed.__version__}, ZeRO-{self.stage}", *self.resolved.notes]

    def place(self, objective: Objective) -> None:
        objective.to(self.device)
        if self.stage == 3:
            _keep_empty_parameters_out(objective)

    def adopt(self, objective: Objective, optimiser: torch.optim.Optimizer) -> None:
        require_elementwise(optimiser, self.stage)
        self.objective, self.optimiser = objective, optimiser
        given = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
        # ZeRO writes its pieces into the groups that it is handed, so it gets groups of its own.
        handed = _same_without_state(optimiser) if self.stage else optimiser
        self._runner, self._zero, *_ = self._deepspeed.initialize(
            model=_UnderAutocast(objective), optimizer=handed, config=self.resolved.told, dist_init_required=False
        )
        if self.stage:
            optimiser.state.clear()
            self._make_moments()
        self._prove(given)

    def forward(self, batch: ClipBatch, chance: Chance, *, last: bool) -> ObjectiveOutput:
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        self._runner.set_gradient_accumulation_boundary(last)
        with torch.autocast(kind, enabled=False):
            return self._runner(batch, chance, dtype)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._runner.backward(loss, scale_wrt_gas=False)

    def clip(self, limit: float, by: ClipBy) -> float:
        if not self.stage:
            return float(clip_gradients(self.optimiser, limit, by).total)
        gradients = list(self._gradients())
        squares = torch.zeros(len(self.optimiser.param_groups), device=self.device)
        for group, gradient in gradients:
            squares[group] += gradient.float().square().sum()
        squares = self.processes.add(squares)
        total = squares.sum().sqrt()
        if limit:
            norms = squares.sqrt() if by == "group" else total.expand(len(squares))
            scales = (limit / (norms + 1e-6)).clamp(max=1.0)
            for group, gradient in gradients:
                gradient.mul_(scales[group])
        return float(total)

    def step(self) -> None:
        for ours, theirs in zip(self.optimiser.param_groups, self._zero.param_groups, strict=True):
            theirs.update({name: value for name, value in ours.items() if name != "params"})
        self._runner.step()
        if not self._runner.was_step_applied():
            raise UserError(
                "DeepSpeed has passed over an update; with float32 gradients that are finite it never should"
            )

    def zero_grad(self) -> None:
        self._runner.zero_grad()
        if self.stage:
            self._zero.zero_grad()
        if self.stage in (1, 2):
            for sums in (self._zero.averaged_gradients, self._zero.all_grad_tensors):
                sums.update(dict.fromkeys(sums))

    def opened(self) -> contextlib.AbstractContextManager[None]:
        """What is trained may only be read: ZeRO holds its numbers twice."""
        return self._whole_parameters() if self.stage == 3 else contextlib.nullcontext()

    def read(self, tensor: Tensor) -> Tensor:
        if not hasattr(tensor, "ds_id"):
            return tensor.detach()
        with self._deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    @torch.no_grad()
    def write(self, tensor: Tensor, whole: Tensor) -> None:
        if hasattr(tensor, "ds_id"):
            with self._deepspeed.zero.GatheredParameters([tensor], modifier_rank=0):
                tensor.copy_(whole)
            if tensor.requires_grad:
                self._utils.safe_set_local_fp32_param(tensor, self._piece(tensor, whole))
            return
        tensor.copy_(whole)
        if hasattr(tensor, "_hp_mapping"):
            self._utils.safe_set_full_fp32_param(tensor, tensor.detach())

    def read_moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        if not self.stage:
            return self.optimiser.state[parameter][name]
        if name == "step":
            return self._state_of(parameter)["step"]
        return self._utils.safe_get_full_optimizer_state(parameter, name)

    @torch.no_grad()
    def write_moment(self, parameter: nn.Parameter, name: str, whole: Tensor) -> None:
        if not self.stage:
            self.optimiser.state[parameter][name].copy_(whole)
        elif name == "step":
            self._state_of(parameter)["step"].copy_(whole)
        elif self.stage == 3:
            self._utils.safe_set_local_optimizer_state(parameter, self._piece(parameter, whole), name)
        else:
            self._utils.safe_set_full_optimizer_state(parameter, whole.to(self.device), name)

    @property
    def _utils(self) -> Any:
        return self._deepspeed.utils

    def _gradients(self) -> Iterator[tuple[int, Tensor]]:
        """Number of the group and gradient, of what lies in this process's pieces; after the exchange."""
        for piece, gradients in self._zero.averaged_gradients.items():
            yield from ((self._group_of(piece), gradient) for gradient in gradients)

    def _pieces(self) -> list[Tensor]:
        """This process's pieces, in float32: one for each group, or several with ZeRO-3."""
        return (
            self._zero.fp32_partitioned_groups_flat if self.stage == 3 else self._zero.single_partition_of_fp32_groups
        )

    def _group_of(self, piece: int) -> int:
        return self._zero.sub_group_to_group_id[piece] if self.stage == 3 else piece

    def _make_moments(self) -> None:
        """All moments of ZeRO's optimiser, before the first step: a checkpoint's are written into them.

        By itself ZeRO-1 and 2 know only those that are there once the first group is updated.
        """
        state = self._zero.optimizer.state
        for piece in self._pieces():
            zeros = {name: torch.zeros_like(piece) for name in ("exp_avg", "exp_avg_sq")}
            state[piece] = {"step": torch.zeros((), device=piece.device), **zeros}
        self._piece_of = {}
        groups = self._zero.fp16_groups if self.stage == 3 else self._zero.bit16_groups
        for number, (parameters, piece) in enumerate(zip(groups, self._pieces(), strict=True)):
            self._piece_of.update({id(parameter): number for parameter in parameters})
            if self.stage < 3:
                self._deepspeed.utils.lazy_init_hp_params_optimizer_state(parameters, piece, state)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        return self._zero.optimizer.state[self._pieces()[self._piece_of[id(parameter)]]]

    def _piece(self, parameter: Tensor, whole: Tensor) -> Tensor:
        """This process's part of a whole parameter under ZeRO-3, with zeros where the parameter ends before it."""
        size = parameter.ds_tensor.numel()  # pyright: ignore[reportAttributeAccessIssue]
        line = F.pad(whole.to(self.device).flatten(), (0, size * self.world - whole.numel()))
        return line[size * self.rank : size * (self.rank + 1)]

    @contextlib.contextmanager
    def _whole_parameters(self) -> Iterator[None]:
        trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        frozen = [parameter for parameter in self.objective.parameters() if not parameter.requires_grad]
        gathered = self._deepspeed.zero.GatheredParameters
        with gathered(trained), gathered(frozen, modifier_rank=0):
            yield

    def _prove(self, given: dict[str, Tensor]) -> None:
        """Reads back every parameter, from where it is used and from where it is updated, and the parameters' values
        out of the moments, where there is room for them.

        Raises:
          UserError: naming the first tensor that came back otherwise.
        """
        parameters = dict(self.objective.named_parameters())
        trained = {
            name: parameter for name, parameter in parameters.items() if parameter.requires_grad and given[name].numel()
        }
        moments = ("exp_avg", "exp_avg_sq") if self.stage else ()
        for name, parameter in trained.items():
            for moment in moments:
                self.write_moment(parameter, moment, given[name])
        for name, parameter in parameters.items():
            back = [self.read(parameter)]
            if name in trained and self.stage:
                back.append(self._utils.safe_get_full_fp32_param(parameter))
                back += [self.read_moment(parameter, moment) for moment in moments]
            if not all(torch.equal(each, given[name]) and each.dtype == given[name].dtype for each in back):
                raise UserError(
                    f"DeepSpeed {self._deepspeed.__version__} with ZeRO-{self.stage} gives back {name} otherwise than "
                    "it was given: nothing trained this way can be trusted. Use another version, or train.engine=fsdp"
                )
        for piece in self._pieces() if self.stage else ():
            for moment in moments:
                self._zero.optimizer.state[piece][moment].zero_()


class _UnderAutocast(nn.Module):
    """What DeepSpeed runs. It would switch off autocast that was begun outside, so that is begun inside."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: ClipBatch, chance: Chance, dtype: torch.dtype | None) -> ObjectiveOutput:
        with torch.autocast(batch.clips.device.type, dtype, enabled=dtype is not None):
            return self.objective(batch, chance)


def resolved(config: TrainConfig, n_processes: int, autocast: torch.dtype | None) -> Resolved:
    """What DeepSpeed is to be told for a run.

    Raises:
      MissingExtraError: if it is not installed.
      UsageError: as `deepspeed_config.resolve`.
    """
    if find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed")
    precision = "bf16" if autocast else "fp32"
    return resolve(config.deepspeed_config, config, n_processes=n_processes, precision=precision)


def require_elementwise(optimiser: torch.optim.Optimizer, stage: int) -> None:
    """Refuses an optimiser that ZeRO would train wrongly.

    Raises:
      UsageError: saying what to take instead.
    """
    if stage and type(optimiser) is not torch.optim.AdamW:
        raise UsageError(
            f"train.engine=deepspeed with ZeRO-{stage} cuts matrices anywhere, and {type(optimiser).__name__} needs "
            "them whole: choose --optim adamw, a ds_config.json with ZeRO-0, or train.engine=ddp"
        )


def _same_without_state(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimiser of its own over the same parameters in the same groups, before its first step."""
    made = copy.copy(optimiser)
    made.param_groups = [{**group, "params": list(group["params"])} for group in optimiser.param_groups]
    made.state = defaultdict(dict)
    return made


def _keep_empty_parameters_out(module: nn.Module) -> None:
    """Makes parameters without elements buffers, of the same name in the state: ZeRO-3 cannot gather them."""
    for each in module.modules():
        for name, parameter in list(each.named_parameters(recurse=False)):
            if parameter.numel() == 0:
                delattr(each, name)
                each.register_buffer(name, parameter.detach())


def _import_deepspeed(device: torch.device) -> Any:
    """The library, for this device, quiet, and without building anything.

    Raises:
      UsageError: if it cannot work on the device.
    """
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"train.engine=deepspeed works on cpu and cuda, not on train.device={device}")
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed: Any = importlib.import_module("deepspeed")
    found = deepspeed.accelerator.get_accelerator().device_name()
    if found != device.type:
        raise UsageError(f"DeepSpeed works on {found}, train.device={device}: set DS_ACCELERATOR={device.type}")
    for handler in deepspeed.utils.logger.handlers:
        handler.setStream(sys.stderr)  # standard output is for results
    # A faster all-reduce for inference on CPUs: it would be compiled for a minute at the first start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 calls these by names that torch 2.13 calls old.
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings("ignore", rf"`torch\.distributed\.{name}` is deprecated", FutureWarning)
    return deepspeed
