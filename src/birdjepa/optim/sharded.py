"""Tensors of which each process may hold a shard (DTensors, as FSDP2 makes them): whole, and back to shards.

torch.distributed.tensor takes seconds to import, so it is asked for where there is such a tensor only.
"""

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process. All of them must ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def placed_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Each process's share of a tensor that all hold whole, sharded as the other one is; nothing is sent."""
    mesh = getattr(other, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, getattr(other, "placements", None), src_data_rank=None)
