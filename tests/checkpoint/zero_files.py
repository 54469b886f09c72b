"""Checkpoints in DeepSpeed's layout, made by hand: any stage, any number of processes, and whatever may be in them."""

import contextlib
import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from birdjepa.checkpoint.deepspeed import Converted, convert
from birdjepa.core.errors import UsageError

Tensors = dict[str, Tensor]
TAG = "step7"
MODULE = "mp_rank_00_model_states.pt"
BUFFERS = {"table": torch.arange(6).reshape(2, 3), "running": torch.ones(4), "on": torch.tensor([True, False])}
FROZEN = {"f.weight": torch.arange(15.0).reshape(5, 3) / 8, "f.bias": torch.ones(2)}
TIED = {"d.weight": "a.weight"}


def module(seed: int = 0) -> Tensors:
    """Odd sizes, a number of no axis, one tensor without numbers."""
    chance = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (5, 7), "a.bias": (5,), "gate.alpha": (), "b.weight": (3, 11, 1), "b.bias": (3,), "c": (0, 4)}
    return {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}


def foreign(name: str, value: Any = None) -> Any:
    """A class of a module that is not there, with the name that its pickle is to have."""
    path, _, short = name.rpartition(".")
    return type(short, (value,) if value else (), {"__module__": path, "__qualname__": short})


@contextlib.contextmanager
def importable(*kinds: type) -> Iterator[None]:
    """Lets pickle find them, as it does where DeepSpeed is installed."""
    names = {kind.__module__ for kind in kinds} | {kind.__module__.split(".")[0] for kind in kinds}
    made = {name: types.ModuleType(name) for name in names}
    for kind in kinds:
        setattr(made[kind.__module__], kind.__name__, kind)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, each in before.items():
            if each is None:
                del sys.modules[name]
            else:
                sys.modules[name] = each


STAGE = foreign("deepspeed.runtime.zero.config.ZeroStageEnum", int)
SCALER = foreign("deepspeed.runtime.fp16.loss_scaler.LossScaler")
FRAGMENT = foreign("deepspeed.utils.tensor_fragment.fragment_address")


def in_parts(flat: Tensor, n: int, align: int) -> list[Tensor]:
    """Equal parts, the last filled up with what must not be read."""
    filled = torch.cat([flat, torch.full((-len(flat) % (n * align),), 777.0)])
    return [part.clone() for part in filled.chunk(n)] if len(filled) else [filled] * n


def flat_groups(groups: list[Tensors], stage: int, n: int) -> list[list[Tensor]]:
    """Process -> group -> its flat part."""
    if stage < 3:
        whole = [in_parts(torch.cat([each.flatten() for each in group.values()]), n, 2) for group in groups]
        return [[parts[rank] for parts in whole] for rank in range(n)]
    each = [[in_parts(tensor.flatten(), n, 1) for tensor in group.values()] for group in groups]
    return [[torch.cat([parts[rank] for parts in group]) for group in each] for rank in range(n)]


def write(
    folder: Path,
    stage: int,
    n: int,
    groups: list[Tensors],
    *,
    frozen: Tensors | None = None,
    buffers: Tensors | None = None,
    tied: dict[str, str] | None = None,
    half: bool = False,
    tag: str = TAG,
    more: dict[str, Any] | None = None,
) -> Path:
    """Writes folder/TAG and folder/latest, and returns the folder of the tag. `more` is what a script adds."""
    frozen, buffers, tied = frozen or {}, buffers or {}, tied or {}
    trained = {name: tensor for group in groups for name, tensor in group.items()}
    dtype = torch.bfloat16 if half else torch.float32
    held = {name: tensor.to(dtype) for name, tensor in {**trained, **frozen}.items()}
    held |= {name: held[owner] for name, owner in tied.items()}
    path = folder / tag
    path.mkdir(parents=True, exist_ok=True)
    (folder / "latest").write_text(tag)
    (folder / "zero_to_fp32.py").write_text("raise SystemExit('was run')\n")
    scaler = SCALER()
    scaler.cur_scale = 1.0
    common = {
        "ds_version": "0.19.8",
        "dp_world_size": n,
        "mp_world_size": 1,
        "buffer_names": list(buffers),
        **(more or {}),
    }
    with importable(STAGE, SCALER, FRAGMENT):
        if stage < 3:
            state = {
                "module": OrderedDict({**held, **buffers}),
                "optimizer": None if stage else {"state": {}},
                "param_shapes": [OrderedDict((k, v.shape) for k, v in group.items()) for group in groups]
                if stage
                else None,
                "shared_params": tied if stage else None,
                "frozen_param_shapes": {k: v.shape for k, v in frozen.items()} if stage == 2 else None,
                "frozen_param_fragments": {k: held[k] for k in frozen} if stage == 2 else None,
            }
            torch.save({**state, **common}, path / "mp_rank_00_model_states.pt")
        for rank in range(n if stage else 0):
            prefix = f"{'bf16_' if half else ''}zero_pp_rank_{rank}_mp_rank_00"
            key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
            optimizer = {
                "zero_stage": STAGE(stage),
                "loss_scaler": scaler,
                "partition_count": n if stage == 3 else [n] * len(groups),
                key: flat_groups(groups, stage, n)[rank],
                "base_optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}},
                "param_slice_mappings": [OrderedDict(a=FRAGMENT())],
            }
            torch.save({"optimizer_state_dict": optimizer, "ds_config": {}}, path / f"{prefix}_optim_states.pt")
            if stage == 3:
                parts = {name: in_parts(held[name].flatten(), n, 1)[rank] for name in frozen}
                state = {
                    "module": OrderedDict({**{name: torch.empty(0, dtype=dtype) for name in held}, **buffers}),
                    "param_shapes": [OrderedDict((k, v.shape) for k, v in group.items()) for group in groups],
                    "shared_params": tied if rank == 0 else {},
                    "frozen_param_shapes": {k: v.shape for k, v in frozen.items()},
                    "frozen_param_fragments": parts,
                }
                torch.save({**state, **common}, path / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    return path


def change(file: Path, edit: Any) -> None:
    """Lets edit work on what a file holds, and saves it again."""
    with importable(STAGE, SCALER, FRAGMENT):
        state = torch.load(file, weights_only=False)
        edit(state)
        torch.save(state, file)


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def n_numbers(tensors: Tensors) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def zipped(file: Path, pickled: bytes) -> None:
    """A file of torch.save with another pickle in it."""
    torch.save({}, file)
    reader = torch._C.PyTorchFileReader(str(file))
    records = {name: reader.get_record(name) for name in reader.get_all_records() if name != "data.pkl"}
    writer = torch._C.PyTorchFileWriter(str(file))
    writer.write_record("data.pkl", pickled, len(pickled))
    for name, content in records.items():
        if not name.startswith((".data", "version")) and name != "byteorder":
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def pickled(value: Any, protocol: int) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def shard(rank: int, half: bool = False) -> str:
    return f"{'bf16_' if half else ''}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def part(rank: int) -> str:
    return f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"


def groups_of(trained: Tensors) -> list[Tensors]:
    """Two groups that take turns."""
    names = list(trained)
    return [{name: trained[name] for name in chosen} for chosen in (names[::2], names[1::2])]


def converted(folder: Path, suffix: str = ".safetensors", **options: Any) -> tuple[Converted, Tensors]:
    out = folder / f"out{suffix}"
    told = convert(folder, out, **options)
    return told, load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)


def refused(folder: Path, **options: Any) -> str:
    """The one line that says why; nothing is left behind."""
    (folder / "out.safetensors").unlink(missing_ok=True)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError) as caught:
        convert(folder, folder / "out.safetensors", **options)
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
