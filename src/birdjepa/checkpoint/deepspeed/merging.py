"""From the files of a tag to whole tensors by name: what each process kept of them is found, and counted.

ZeRO-1 and 2 lay the parameters of a group end to end (with gaps, where they were aligned) and cut the whole into equal
parts, one for each process; the end is padding. ZeRO-3 cuts each parameter by itself, the last part filled up, and
each process lays its parts end to end. Both name the parameters and their shapes in the module's file only.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from birdjepa.checkpoint.deepspeed.layout import Layout
from birdjepa.checkpoint.deepspeed.pieces import Files, Merged, Piece, stretch, whole, widened
from birdjepa.core.errors import UsageError

_FLAT_KEYS = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
Shapes = dict[str, tuple[int, ...]]


class Checkpoint(NamedTuple):
    """All the tensors of a model, of which only is known yet where their numbers lie."""

    stage: int
    world_size: int
    version: str
    """DeepSpeed's; empty if the files do not say."""
    files: Files
    tensors: dict[str, Merged]
    left_out: tuple[str, ...]
    """Entries of the module that are no tensors."""
    widened_only: bool
    """Whether float32 weights were trained that the files keep without names, so that these are rounded ones."""


class _Shard(NamedTuple):
    """What one process's file says of itself."""

    path: Path
    stage: int
    world_size: int
    parts: list[Piece]
    """Its flat tensors."""
    alignment: list[list[int]] | None
    """Numbers of padding after each parameter of each group."""


def merge(layout: Layout) -> Checkpoint:
    """Finds every tensor of the module, its float32 weights where there are any, and holds the counts against each
    other. The numbers are read when they are written.

    Raises:
      UsageError: if the files do not belong together, or something is missing; it names the file.
    """
    files = Files()
    states = [_read_module(files, path) for path in layout.modules]
    shards = [_read_shard(files, path) for path in layout.shards]
    state, path = states[0], layout.modules[0]
    stage, world_size = _require_together(layout, states, shards)
    found: dict[str, Merged] = {}
    if stage:
        groups = [_shapes(path, "param_shapes", group) for group in _a(list, path, "param_shapes", state)]
        found = _by_parameter(groups, shards) if stage == 3 else _by_group(path, groups, shards)
    module = {name: value for name, value in state["module"].items() if isinstance(value, Tensor)}
    found |= _frozen(layout, states, module, stage, taken=found)
    _share(path, state, module, found)
    missing = []
    for name, tensor in module.items():
        own = whole(path, ("module", name), tensor)
        if name not in found:
            placeholder = (
                layout.partitioned and not tensor.numel() and name not in _maybe(list, path, "buffer_names", state)
            )
            missing += [name] if placeholder else []
            found[name] = own
        elif tensor.numel() or not layout.partitioned:
            if own.shape != found[name].shape:
                raise UsageError(f"{path}: {name} has shape {own.shape}, and its pieces make {found[name].shape}")
            found[name] = _held_against(found[name], own)
    if missing:
        raise UsageError(f"{path}: {_some(missing)} cut up by ZeRO-3, and no file says where the pieces are")
    return Checkpoint(
        stage=stage,
        world_size=world_size,
        version=version if isinstance(version := state.get("ds_version"), str) else "",
        files=files,
        tensors=found,
        left_out=tuple(str(name) for name in state["module"] if name not in module),
        widened_only=not stage
        and not {"fp32_groups", "fp32_groups_flat"}.isdisjoint(_maybe(dict, path, "optimizer", state)),
    )


def _read_module(files: Files, path: Path) -> dict[str, Any]:
    """The state in a file of the module, without what only training needs."""
    state = files.open(path)
    module = _a(dict, path, "module", state)
    if not all(isinstance(name, str) for name in module):
        raise UsageError(f"{path}: its module has names that are no text")
    degrees = _maybe(dict, path, "checkpoint_parallel_dimensions", state)
    degrees = {**degrees, "mp_world_size": state.get("mp_world_size", 1)}
    several = [str(key) for key, degree in degrees.items() if not (isinstance(degree, int) and degree == 1)]
    experts = [key for key in ("num_experts", "ds_autoep_layers", "autoep_layers") if state.get(key) is not None]
    if several or experts:
        what = "model-parallel training" if several else "experts"
        raise UsageError(f"{path}: of {what} ({(several + experts)[0]}), which cannot be converted")
    for key in ("frozen_param_fragments", "shared_params"):
        _maybe(dict, path, key, state)
    files.keep(path, state, _named_tensors)
    return state


def _named_tensors(state: dict[str, Any]) -> dict[Any, Tensor]:
    groups = {"module": state["module"], "frozen": state.get("frozen_param_fragments") or {}}
    return {
        (kind, name): tensor
        for kind, group in groups.items()
        for name, tensor in group.items()
        if isinstance(tensor, Tensor)
    }


def _read_shard(files: Files, path: Path) -> _Shard:
    state = files.open(path)
    optimizer = _a(dict, path, "optimizer_state_dict", state)
    key = next((key for key in _FLAT_KEYS.values() if key in optimizer), None)
    if key is None or "partition_count" not in optimizer:
        raise UsageError(f"{path}: holds no float32 weights of ZeRO")
    if "ds_zero_partition_groups" in optimizer:
        raise UsageError(f"{path}: of experts, which cannot be converted")
    # The optimiser of ZeRO-1 under bf16 with gradients summed in float32 says no stage.
    stage = optimizer.get("zero_stage", 1)
    if not isinstance(stage, int) or _FLAT_KEYS.get(stage) != key:
        raise UsageError(f"{path}: says ZeRO-{_told(stage)}, and holds {key}")
    counts = optimizer["partition_count"]
    counts = counts if isinstance(counts, list) else [counts]
    if not counts or not all(isinstance(count, int) and count == counts[0] > 0 for count in counts):
        raise UsageError(
            f"{path}: cuts its groups into different numbers of parts (experts), which cannot be converted"
        )
    flat = optimizer[key]
    if not isinstance(flat, list) or not all(isinstance(each, Tensor) and each.dim() == 1 for each in flat):
        raise UsageError(f"{path}: {key} is no list of flat tensors")
    files.keep(path, state, lambda state: dict(enumerate(state["optimizer_state_dict"][key])))
    parts = [Piece(path, number, 0, each.numel()) for number, each in enumerate(flat)]
    alignment = optimizer.get("param_alignment_paddings")
    if alignment is not None and not _are_paddings(alignment, len(parts)):
        raise UsageError(f"{path}: param_alignment_paddings is no list of numbers for each of {len(parts)} groups")
    return _Shard(path, int(stage), counts[0], parts, alignment)


def _are_paddings(value: Any, n_groups: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == n_groups
        and all(isinstance(group, list) for group in value)
        and all(isinstance(gap, int) and gap >= 0 for group in value for gap in group)
    )


def _require_together(layout: Layout, states: list[dict[str, Any]], shards: list[_Shard]) -> tuple[int, int]:
    """Stage and number of processes, on which all files must agree."""
    path, state = layout.modules[0], states[0]
    said = state.get("dp_world_size")
    if not shards:
        if state.get("param_shapes") is not None or layout.partitioned:
            raise UsageError(
                f"{path}: was trained with ZeRO, and the files of its weights "
                "(zero_pp_rank_0_mp_rank_00_optim_states.pt and on) are missing"
            )
        return 0, said if isinstance(said, int) else 1
    first, n_files = shards[0], len(shards)
    for shard in shards:
        if shard.stage != first.stage:
            raise UsageError(f"{shard.path}: is of ZeRO-{shard.stage}, and {first.path.name} of ZeRO-{first.stage}")
        if shard.world_size != first.world_size:
            raise UsageError(
                f"{shard.path}: is of {shard.world_size} processes, and {first.path.name} of {first.world_size}"
            )
    if n_files < first.world_size:
        missing = first.path.name.replace("pp_rank_0", f"pp_rank_{n_files}")
        raise UsageError(f"{first.path.with_name(missing)} is missing: {first.world_size} processes trained")
    if n_files > first.world_size:
        raise UsageError(f"{shards[first.world_size].path}: is one too many, for {first.world_size} processes trained")
    if (first.stage == 3) != layout.partitioned:
        raise UsageError(f"{first.path}: is of ZeRO-{first.stage}, and {path.name} is not")
    if layout.partitioned and len(layout.modules) != n_files:
        fewer = min(len(layout.modules), n_files)
        odd = path.name.replace("pp_rank_0", f"pp_rank_{fewer}")
        what = "missing" if len(layout.modules) < n_files else "one too many"
        raise UsageError(f"{path.with_name(odd)} is {what}: {n_files} processes trained")
    for file, each in zip(layout.modules, states, strict=True):
        if isinstance(told := each.get("dp_world_size"), int) and told != n_files:
            raise UsageError(f"{file}: is of {told} processes, and {first.path.name} of {n_files}")
    if len({len(shard.parts) for shard in shards}) != 1:
        raise UsageError(f"{first.path.parent}: processes have different numbers of groups")
    return first.stage, n_files


def _by_group(path: Path, groups: list[Shapes], shards: list[_Shard]) -> dict[str, Merged]:
    """ZeRO-1 and 2."""
    if len(groups) != len(shards[0].parts):
        raise UsageError(f"{path}: names {len(groups)} groups, and {shards[0].path.name} holds {len(shards[0].parts)}")
    found: dict[str, Merged] = {}
    for number, shapes in enumerate(groups):
        parts = [shard.parts[number] for shard in shards]
        gaps = [0] * len(shapes) if shards[0].alignment is None else shards[0].alignment[number]
        if len(gaps) != len(shapes):
            raise UsageError(
                f"{shards[0].path}: aligns {len(gaps)} parameters of group {number}, and {len(shapes)} are named"
            )
        offset = 0
        for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
            pieces = stretch(parts, offset, offset + math.prod(shape))
            found[name] = Merged(shape=shape, dtype=torch.float32, pieces=tuple(pieces))
            offset += math.prod(shape) + gap
        there = sum(part.stop - part.start for part in parts)
        # The end is padded to two numbers for each process, which some versions save and others do not.
        if not offset <= there < offset + 2 * len(shards):
            raise UsageError(
                f"{shards[0].path}: group {number} has {there:,} numbers in all files, and {offset:,} are named"
            )
    return found


def _by_parameter(groups: list[Shapes], shards: list[_Shard]) -> dict[str, Merged]:
    """ZeRO-3."""
    shapes = {name: shape for group in groups for name, shape in group.items()}
    found: dict[str, Merged] = {}
    offset = 0
    for name, shape in shapes.items():
        left, pieces = math.prod(shape), []
        part = -(-left // len(shards))
        for shard in shards:
            pieces += stretch(shard.parts, offset, offset + min(part, left))
            left -= min(part, left)
        found[name] = Merged(shape=shape, dtype=torch.float32, pieces=tuple(pieces))
        offset += part
    for shard in shards:
        if (there := sum(part.stop for part in shard.parts)) != offset:
            raise UsageError(
                f"{shard.path}: holds {there:,} numbers, and its part of the named parameters is {offset:,}"
            )
    return found


def _frozen(
    layout: Layout, states: list[dict[str, Any]], module: Mapping[str, Tensor], stage: int, taken: Mapping[str, Merged]
) -> dict[str, Merged]:
    """Parameters that are not trained: from the fragments that ZeRO-2 and 3 save; else the module has them whole."""
    path = layout.modules[0]
    shapes = _shapes(path, "frozen_param_shapes", _maybe(dict, path, "frozen_param_shapes", states[0]))
    fragments = [each.get("frozen_param_fragments") or {} for each in states]
    found: dict[str, Merged] = {}
    missing = []
    for name, shape in shapes.items():
        if name in taken:
            raise UsageError(f"{path}: {name} is told to be frozen and trained")
        if not all(isinstance(each.get(name), Tensor) for each in fragments):
            missing += [name] if layout.partitioned or name not in module else []
            continue
        held = layout.modules if stage == 3 else layout.modules[:1]
        parts = [
            Piece(file, ("frozen", name), 0, each[name].numel()) for file, each in zip(held, fragments, strict=True)
        ]
        n_numbers, there = math.prod(shape), sum(part.stop for part in parts)
        if not n_numbers <= there < n_numbers + max(len(parts), 1):
            raise UsageError(f"{path}: {name} has {n_numbers:,} numbers, and {there:,} are saved")
        dtype = widened(fragments[0][name].dtype)
        found[name] = Merged(shape=shape, dtype=dtype, pieces=tuple(stretch(parts, 0, n_numbers)))
    if missing:
        raise UsageError(f"{path}: frozen {_some(missing)} not saved: save again without exclude_frozen_parameters")
    return found


def _share(path: Path, state: dict[str, Any], module: Mapping[str, Tensor], found: dict[str, Merged]) -> None:
    """Gives tied parameters their second names."""
    for name, owner in _maybe(dict, path, "shared_params", state).items():
        if not isinstance(name, str) or not isinstance(owner, str):
            raise UsageError(f"{path}: shared_params has names that are no text")
        if name in found:
            continue
        if owner in found:
            found[name] = found[owner]
        elif owner not in module or name not in module:
            raise UsageError(f"{path}: {name} is tied to {owner}, which is in no file")


def _held_against(merged: Merged, own: Merged) -> Merged:
    return Merged(shape=merged.shape, dtype=merged.dtype, pieces=merged.pieces, rounded=own.pieces[0])


def _shapes(path: Path, key: str, group: Any) -> Shapes:
    if not isinstance(group, dict):
        raise UsageError(f"{path}: {key} names no shapes")
    for name, shape in group.items():
        sizes = isinstance(shape, list | tuple) and all(isinstance(size, int) and size >= 0 for size in shape)
        if not sizes or not isinstance(name, str):
            raise UsageError(f"{path}: {key} has {_told(shape)} as the shape of {_told(name)}")
    return {name: tuple(shape) for name, shape in group.items()}


def _a(kind: type, path: Path, key: str, state: dict[str, Any]) -> Any:
    if not isinstance(state.get(key), kind):
        raise UsageError(f"{path}: its {key} is no {kind.__name__}, so it is not what its name says")
    return state[key]


def _maybe(kind: type, path: Path, key: str, state: dict[str, Any]) -> Any:
    """An entry that may be None or absent, and is empty then."""
    if state.get(key) is None:
        return kind()
    return _a(kind, path, key, state)


def _told(value: object) -> str:
    return " ".join(str(value).split())[:80]


def _some(names: list[str]) -> str:
    told = ", ".join(sorted(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{told}{more} {'is' if len(names) == 1 else 'are'}"
