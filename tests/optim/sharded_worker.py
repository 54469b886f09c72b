"""One process of two that share a model by FSDP2: `sharded_worker.py FOLDER RANK`. Writes what they make of it."""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from birdjepa.models.vit import VitConfig
from birdjepa.optim.clipping import clip_gradients
from birdjepa.optim.muon import MuonConfig
from birdjepa.optim.sharded import whole


def model() -> torch.nn.Module:
    return VitConfig(size="16x1x2", mlp="swiglu", n_registers=1).build(6).initialise(torch.Generator().manual_seed(0))


def sharded(module: torch.nn.Module, n_processes: int) -> torch.nn.Module:
    fully_shard(module, mesh=init_device_mesh("cpu", (n_processes,)))
    return module


def train(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Parameters after three steps, and the norms of the gradients by group."""
    optimiser = MuonConfig(lr=0.05, weight_decay=0.1).build(module)
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    norms: list[float] = []
    for _ in range(3):
        optimiser.zero_grad()
        output = module(tokens, torch.zeros(1, 5, 2))
        (output.patches.pow(3).mean() + output.cls.square().mean()).backward()
        seen = clip_gradients(optimiser, 0.02, "group")
        norms += [float(norm) for norm in (seen.total, *seen.groups.values())]
        optimiser.step()
    return {name: whole(parameter.detach()) for name, parameter in module.named_parameters()}, norms


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(train(sharded(model(), 2)), folder / f"rank{rank}.pt")
    distributed.destroy_process_group()
