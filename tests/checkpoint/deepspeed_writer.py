"""What two processes train and DeepSpeed saves, all of it in one launch. torchrun starts this:

    torchrun --nproc-per-node 2 deepspeed_writer.py OUT VARIANT...

Beside each checkpoint OUT/VARIANT lies OUT/VARIANT.pt: the weights as the trainer itself tells them.
"""

import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from odd_module import Odd
from torch import Tensor

STEPS = 3
BF16 = {"bf16": {"enabled": True}}
ACCUMULATED = {"data_types": {"grad_accum_dtype": "fp32"}}
"""With ZeRO-1 and bf16, another optimizer of DeepSpeed's does the work, whose files say no stage."""
ZERO_3 = {"stage": 3, "stage3_param_persistence_threshold": 0}

VARIANTS: dict[str, dict[str, Any]] = {
    "zero0-fp32": {"zero_optimization": {"stage": 0}},
    "zero0-bf16": {"zero_optimization": {"stage": 0}, **BF16},
    "zero1-fp32": {"zero_optimization": {"stage": 1}},
    "zero1-bf16": {"zero_optimization": {"stage": 1}, **BF16},
    "zero1-bf16-accumulated": {"zero_optimization": {"stage": 1}, **BF16, **ACCUMULATED},
    "zero2-fp32": {"zero_optimization": {"stage": 2}},
    "zero2-bf16": {"zero_optimization": {"stage": 2}, **BF16},
    "zero2-bf16-robin": {"zero_optimization": {"stage": 2, "round_robin_gradients": True}, **BF16},
    "zero2-bf16-aligned": {"zero_optimization": {"stage": 2, "parameter_alignment": True}, **BF16},
    "zero3-fp32": {"zero_optimization": ZERO_3},
    "zero3-bf16": {"zero_optimization": ZERO_3, **BF16},
    "zero3-bf16-pieces": {"zero_optimization": {**ZERO_3, "sub_group_size": 60}, **BF16},
    "zero3-bf16-persistent": {"zero_optimization": {**ZERO_3, "stage3_param_persistence_threshold": 40}, **BF16},
}


def told_by_the_trainer(engine: Any) -> dict[str, Tensor]:
    """Whole float32 weights from where they are trained, frozen ones and buffers from the module."""
    module, whole = engine.module, {}
    for name, parameter in module.named_parameters():
        value = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
        if value is None:  # nothing of ZeRO's, or nothing trained: the module's own is all there is
            with deepspeed.zero.GatheredParameters([parameter]):
                value = parameter.detach()
                whole[name] = value.float().clone()
        else:
            whole[name] = value.float().clone()
    whole["tied.weight"] = whole["first.weight"]
    for name, buffer in module.named_buffers():
        if name != "passing":
            whole[name] = buffer.float().clone() if buffer.is_floating_point() else buffer.clone()
    return {name: tensor.contiguous() for name, tensor in whole.items()}


def write(out: Path, variant: str) -> None:
    torch.manual_seed(7)
    module = Odd()
    optimizer = torch.optim.AdamW(module.groups())
    config = {"train_micro_batch_size_per_gpu": 4, "steps_per_print": 10**9, **VARIANTS[variant]}
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config={**config, "zero_allow_untested_optimizer": True}
    )
    data_type = torch.bfloat16 if "bf16" in config else torch.float32
    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    for step in range(1, STEPS + 1):
        loss = engine(torch.randn(4, 7, generator=generator).to(data_type)).square().mean()
        engine.backward(loss)
        engine.step()
        if step >= STEPS - 1:
            tag = "final" if step == STEPS else "before"
            engine.save_checkpoint(str(out / variant), tag=tag, client_state={"global_step": step})
    whole = told_by_the_trainer(engine)
    if torch.distributed.get_rank() == 0:
        torch.save(whole, out / f"{variant}.pt")
    engine.destroy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    for name in sys.argv[2:]:
        write(Path(sys.argv[1]), name)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # or its threads may end the interpreter with an abort
