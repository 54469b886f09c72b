"""What models that users hold share on disk: a folder of config.json, model.safetensors and README.md (the model card),
which is also the layout for the Hub. Weights are bound to their description by a hash.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def write_export(
    module: nn.Module,
    folder: Path | str,
    *,
    what: str,
    version: int,
    sampling_rate: int,
    config: Any,
    card: str,
    provenance: dict[str, Any],
) -> Path:
    """Writes the folder of a birdjepa-WHAT, each file atomically."""
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    files.write_bytes(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))
    described = {
        "library_name": "birdjepa",
        "model_type": f"birdjepa-{what}",
        "format": version,
        "sampling_rate": sampling_rate,
        "weights_sha256": files.sha256(folder / "model.safetensors"),
        "config": configs.to_json(config),
        "provenance": provenance,
    }
    files.write_text(folder / "README.md", card)
    files.write_json(folder / "config.json", described)
    return folder


def with_weights(
    module: ModuleT, folder: Path, described: dict[str, Any], *, what: str, device: torch.device | str
) -> ModuleT:
    """The module with the folder's weights, ready for use (evaluation mode, no gradients). Strict: every tensor must be
    there and no other, and they must match their hash.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise UsageError(f"{weights}: missing; {what} folder holds config.json and model.safetensors")
    if files.sha256(weights) != described.get("weights_sha256"):
        raise UsageError(f"{weights}: does not match the hash in config.json; copy the folder again or export it anew")
    try:
        module.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise UsageError(f"{weights}: {' '.join(str(error).split())[:300]}") from None
    return module.requires_grad_(False).eval().to(device)
