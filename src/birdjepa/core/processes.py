"""The processes of one run: who this one is, and what all of them agree on.

torchrun starts them and says in the environment which is which. `joined` connects them; until then, and with one
process, everything here is free and nothing of torch.distributed is touched. Every exchange is bounded in time, and a
process that has died is an error on the others, never a wait without end.

Numbers, flags and objects go over gloo (CPU); tensors go where they are, over NCCL on CUDA GPUs.
"""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from birdjepa.core.errors import UsageError, UserError

T = TypeVar("T")

PATIENCE_S = 1800.0
"""Longest wait for another process, in seconds: longer than a save takes, or a first batch. Steps have the watchdog."""


class LostProcess(UserError):
    """Another process of the run has ended, or does not answer."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those of its run. All of them must call each method here at the same time."""

    rank: int = 0
    """Number of this process; number 0 writes and speaks."""
    local_rank: int = 0
    """Its number on this machine, which is the number of its GPU."""
    world: int = 1
    """How many there are."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.world == 1:
            return flag
        count = torch.tensor(int(flag))
        _distributed().all_reduce(count)
        return bool(count)

    def add(self, own: Tensor) -> Tensor:
        """The sum of the processes' tensors, as a new one."""
        total = own.clone()
        if self.world > 1:
            _distributed().all_reduce(total)
        return total

    def table(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every process, a row each; as many on all of them."""
        if self.world == 1:
            return [list(numbers)]
        return self.rows(torch.tensor(numbers, dtype=torch.float64)[None]).tolist()

    def rows(self, own: Tensor) -> Tensor:
        """The rows of all processes, in their order; each has equally many."""
        if self.world == 1:
            return own
        whole = own.new_empty(self.world * len(own), *own.shape[1:])
        _distributed().all_gather(list(whole.split(len(own))), own.contiguous())
        return whole

    def objects(self, own: T) -> list[T]:
        """Any small value of every process."""
        if self.world == 1:
            return [own]
        found: list[Any] = [None] * self.world
        _distributed().all_gather_object(found, own)
        return found

    def first(self, act: Callable[[], T]) -> T:
        """What `act` returns on the first process, which alone runs it; a UserError of its is raised on all."""
        if self.world == 1:
            return act()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told = [act(), None]
            except UserError as error:
                told = [None, error]
        _distributed().broadcast_object_list(told, src=0)
        if told[1] is not None:
            raise everywhere(told[1])
        return told[0]

    def together(self, act: Callable[[], T]) -> T:
        """What `act` returns here, once it has succeeded everywhere.

        Raises:
          UserError: that of the first process that has one.
        """
        if self.world == 1:
            return act()
        result, own = None, None
        try:
            result = act()
        except UserError as error:
            own = error
        if self.any(own is not None):
            told = self.objects(None if own is None else (str(own), own.exit_code))
            [(rank, text), *_] = [(rank, text) for rank, text in enumerate(told) if text]
            raise everywhere(own) if own is not None and rank == self.rank else _of_another(rank, *text)
        return result  # pyright: ignore[reportReturnType] - there was no error

    def hand_out(self, tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Named CPU tensors of the first process, on all of them; the others give None."""
        if self.world == 1:
            return tensors or {}
        kinds = self.first(lambda: [(name, each.dtype, each.shape) for name, each in (tensors or {}).items()])
        handed = {}
        for name, dtype, shape in kinds:
            whole = tensors[name].contiguous() if tensors else torch.empty(shape, dtype=dtype)
            if whole.numel():
                _distributed().broadcast(whole.reshape(-1).view(torch.uint8), src=0)  # gloo knows few dtypes
            handed[name] = whole
        return handed

    def require_equal(self, what: str, own: dict[str, str]) -> None:
        """Refuses to go on where processes hold different values under the same names.

        Raises:
          UserError: naming the process and the first name that differs.
        """
        if self.world == 1:
            return
        [first, *others] = self.objects(own)
        for rank, theirs in enumerate(others, start=1):
            odd = sorted({name for name, _ in first.items() ^ theirs.items()})
            if odd:
                raise everywhere(
                    UserError(
                        f"process {rank} and process 0 differ in {what}: {odd[0]} and {len(odd) - 1} more; nothing was "
                        "trained with this. Check that all machines have the same files and versions, and their memory"
                    )
                )


def everywhere(error: UserError) -> UserError:
    """An error that all processes raise together, so that the first one tells it for all."""
    error.everywhere = True
    return error


ALONE = Processes()
"""One process, connected to none."""


def asked() -> Processes:
    """What torchrun says in the environment; one process where it says nothing.

    Raises:
      UsageError: if what it says makes no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    rank, local = os.environ["RANK"], os.environ.get("LOCAL_RANK", os.environ["RANK"])
    world = os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and local.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UsageError(
            f"RANK={rank}, LOCAL_RANK={local}, WORLD_SIZE={world} in the environment make no sense: start with torchrun"
        )
    return Processes(int(rank), int(local), int(world))


def here() -> Processes:
    """This process among those that are connected: one process, but inside `joined`."""
    return _HERE


@contextlib.contextmanager
def joined(device: torch.device) -> Generator[Processes, None, None]:
    """Connects the processes that torchrun started, each computing on its device, for as long as it is open.

    Raises:
      UserError: if they do not find each other, or one is lost on the way.
    """
    global _HERE
    own = asked()
    if own.world == 1:
        yield own
        return
    distributed = _distributed()
    on_gpu = device.type == "cuda"
    patience = datetime.timedelta(seconds=PATIENCE_S)
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=patience, device_id=device if on_gpu else None
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"process {own.rank} of {own.world} cannot reach the others: {_line(error)}") from error
    _HERE = own
    try:
        yield own
        own.any(False)  # nobody leaves while another still writes
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or any(sign in str(error) for sign in ("gloo", "NCCL")):
            raise LostProcess(
                f"process {own.rank}: another process of the run has ended or did not answer within {PATIENCE_S:g} s; "
                f"its own line says why. Go on with --resume ({_line(error)})"
            ) from error
        raise
    except UserError as error:
        if error.everywhere:
            distributed.destroy_process_group()
        raise  # else the others may still be in the middle of something: they see this process end
    else:
        distributed.destroy_process_group()
    finally:
        _HERE = ALONE


def require_exchange(device: torch.device) -> None:
    """Adds and gathers a pattern over all processes, where they compute and on the CPU.

    Raises:
      UserError: naming the processes on which the result is not right to the last bit.
    """
    own = here()
    if own.world == 1:
        return
    for place in {torch.device("cpu"), device}:
        pattern = torch.arange(10_000, device=place) % 4096  # whole numbers, of which float32 sums are exact
        total = (pattern * (own.rank + 1)).float()
        _distributed().all_reduce(total)
        gathered = own.rows((pattern + own.rank)[None])
        expected = pattern + torch.arange(own.world, device=place)[:, None]
        factor = own.world * (own.world + 1) // 2
        right = bool((total == (pattern * factor).float()).all()) and bool((gathered == expected).all())
        wrong = [rank for rank, ok in enumerate(own.objects(right)) if not ok]
        if wrong:
            raise everywhere(
                UserError(
                    f"process {wrong[0]} adds or gathers wrong numbers over {own.world} processes on {place.type}; "
                    "nothing was trained. Try other GPUs, or NCCL_P2P_DISABLE=1"
                )
            )


_HERE = ALONE


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed


def _of_another(rank: int, text: str, exit_code: int) -> UserError:
    error = everywhere(UserError(f"process {rank}: {text}" if rank else text))
    error.exit_code = exit_code
    return error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
