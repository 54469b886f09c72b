"""Bird-MAE and Audio-MAE from their public descriptions, in float64 and without a line of ours: Kaldi's filter bank
written out, padding, a convolution for the patches, attention by its softmax. And checkpoints of random weights in the
layout that their files have on the Hub.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

BIRD = {"rate": 32_000, "frames": 512, "mean": -7.2, "std": 4.43, "columns": 32, "clip": 160_000}
AUDIO = {"rate": 16_000, "frames": 1024, "mean": -4.2677393, "std": 4.5689974, "columns": 64, "clip": 160_000}
OF = {"bird-mae": BIRD, "audio-mae": AUDIO}
N_ROWS = 8


def mel_banks(rate: int, n_fft: int) -> np.ndarray:
    """Kaldi's 128 triangles from 20 Hz to half the rate, straight over mel, one bin at a time."""

    def mel(hz: float) -> float:
        return 1127.0 * np.log(1.0 + hz / 700.0)

    low, high = mel(20.0), mel(rate / 2)
    step = (high - low) / 129
    banks = np.zeros((n_fft // 2 + 1, 128))
    for number in range(128):
        left, centre, right = low + number * step, low + (number + 1) * step, low + (number + 2) * step
        for index in range(n_fft // 2):  # the last bin belongs to no triangle
            at = mel(index * rate / n_fft)
            if left < at <= centre:
                banks[index, number] = (at - left) / (centre - left)
            elif centre < at < right:
                banks[index, number] = (right - at) / (right - centre)
    return banks


def fbank(wave: np.ndarray, rate: int) -> np.ndarray:
    """Kaldi's log filter bank: 25 ms every 10 ms, whole frames only; no dither, no energy, power, floor of float32."""
    window, hop = rate * 25 // 1000, rate // 100
    n_fft = 2 ** int(np.ceil(np.log2(window)))
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))
    banks, rows = mel_banks(rate, n_fft), []
    for start in range(0, len(wave) - window + 1, hop):
        frame = wave[start : start + window] - wave[start : start + window].mean()
        emphasised = np.empty_like(frame)
        emphasised[0] = frame[0] - 0.97 * frame[0]
        emphasised[1:] = frame[1:] - 0.97 * frame[:-1]
        power = np.abs(np.fft.rfft(emphasised * shape, n_fft)) ** 2
        rows.append(np.log(np.maximum(power @ banks, 1.1920928955078125e-07)))
    return np.stack(rows)


def frames(kind: str, wave: np.ndarray) -> np.ndarray:
    """What the model is given of one clip of at most its own length: (frames, 128)."""
    of, wave = OF[kind], wave.astype(np.float64)
    if kind == "bird-mae":
        wave = np.concatenate((wave, np.zeros(of["clip"] - len(wave))))
    levels = fbank(wave - wave.mean(), of["rate"])
    value = levels.min() if kind == "bird-mae" else 0.0
    filled = np.full((of["frames"], 128), value)
    filled[: len(levels)] = levels
    return (filled - of["mean"]) / (2 * of["std"])


def n_columns_heard(kind: str, n_samples: int) -> int:
    """Patch columns of a clip with any frame that reads a sample of it; all of them for a whole clip."""
    of = OF[kind]
    if n_samples >= of["clip"]:
        return of["columns"]
    window, hop = of["rate"] * 25 // 1000, of["rate"] // 100
    last = of["clip"] if kind == "bird-mae" else n_samples
    reading = [i for i in range((last - window) // hop + 1) if i * hop < n_samples]
    return reading[-1] // 16 + 1


def forward(weights: dict[str, Tensor], kind: str, waves: list[np.ndarray], heads: int) -> dict[str, Tensor]:
    """What the published code makes of clips: tokens before the last norm, and after it; CLS; mean; fc_norm."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    seen = torch.from_numpy(np.stack([frames(kind, wave) for wave in waves]))[:, None]
    x = F.conv2d(seen, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2) + w["pos_embed"][:, 1:]
    cls = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(waves), -1, -1)
    x = torch.cat((cls, x), 1)
    width = x.shape[-1]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in range(sum(name.endswith("norm1.weight") for name in w)):
        block = f"blocks.{i}"
        packed = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        found = []
        for h in range(heads):
            q, k, v = (
                packed[..., part * width :][..., h * width // heads : (h + 1) * width // heads] for part in range(3)
            )
            scores = torch.einsum("bik,bjk->bij", q, k) / (width // heads) ** 0.5
            weight = scores.exp() / scores.exp().sum(-1, keepdim=True)
            found.append(weight @ v)
        x = x + linear(torch.cat(found, -1), f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(hidden, f"{block}.mlp.fc2")

    heard = [N_ROWS * n_columns_heard(kind, len(wave)) for wave in waves]
    result = {"tokens": x[:, 1:]}
    if "norm.weight" in w:
        after = norm(x, "norm")
        result |= {"cls": after[:, 0], "patches": after[:, 1:]}
        result["mean"] = torch.stack([clip[1 : 1 + n].mean(0) for clip, n in zip(after, heard, strict=True)])
    if "fc_norm.weight" in w:
        means = torch.stack([clip[1 : 1 + n].mean(0) for clip, n in zip(x, heard, strict=True)])
        result["fc_norm"] = norm(means, "fc_norm")
    return result


def positions(width: int, columns: int) -> Tensor:
    """A masked autoencoder's fixed 2-D sin-cos codes, with zeros for CLS in front."""

    def code(at: np.ndarray, size: int) -> np.ndarray:
        phase = np.outer(at, 1.0 / 10_000 ** (np.arange(size // 2) / (size / 2)))
        return np.concatenate((np.sin(phase), np.cos(phase)), 1)

    across, along = np.meshgrid(np.arange(N_ROWS), np.arange(columns))
    table = np.concatenate((code(across.ravel(), width // 2), code(along.ravel(), width // 2)), 1)
    return torch.from_numpy(np.concatenate((np.zeros((1, width)), table))).float()[None]


def checkpoint(
    kind: str, width: int, depth: int, norms: tuple[str, ...] = ("norm", "fc_norm"), seed: int = 0
) -> dict[str, Tensor]:
    """Random weights of a size at which every part of the model matters, in the Hub's names."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    weights = {
        "cls_token": draw(1, 1, width, scale=0.5),
        "pos_embed": positions(width, OF[kind]["columns"]) + draw(1, 1 + 8 * OF[kind]["columns"], width, scale=0.1),
        "patch_embed.proj.weight": draw(width, 1, 16, 16, scale=1 / 16),
        "patch_embed.proj.bias": draw(width, scale=0.1),
    }
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    layers |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for i in range(depth):
        for name, shape in layers.items():
            weights[f"blocks.{i}.{name}.weight"] = draw(*shape, scale=1.5 / shape[1] ** 0.5 / (1 + depth / 6))
            weights[f"blocks.{i}.{name}.bias"] = draw(shape[0], scale=0.1)
    for name in (*(f"blocks.{i}.norm{j}" for i in range(depth) for j in (1, 2)), *norms):
        weights[f"{name}.weight"] = 1 + draw(width, scale=0.2)
        weights[f"{name}.bias"] = draw(width, scale=0.2)
    return weights


def config_of(kind: str, width: int, depth: int, heads: int) -> dict:
    if kind == "audio-mae":
        return {
            "architecture": "vit_base_patch16_224",
            "num_features": width,
            "num_heads": heads,
            "global_pool": "token",
        }
    return {
        "model_type": "birdmae", "img_size_x": 512, "img_size_y": 128, "patch_size": 16, "in_chans": 1,
        "embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": 4, "qkv_bias": True, "qk_norm": False,
        "init_values": None, "norm_layer_eps": 1e-6, "global_pool": "mean",
    }  # fmt: skip


def write(folder: Path, kind: str, weights: dict[str, Tensor], heads: int) -> Path:
    """A folder as the Hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    width = weights["cls_token"].shape[-1]
    depth = sum(name.endswith("norm1.weight") for name in weights)
    (folder / "config.json").write_text(json.dumps(config_of(kind, width, depth, heads)))
    if kind == "bird-mae":
        told = {"sampling_rate": 32_000, "mean": -7.2, "std": 4.43, "target_length": 512, "num_mel_bins": 128}
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder
