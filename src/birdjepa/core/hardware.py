"""What a device can do."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones on the device: it has instructions for them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
