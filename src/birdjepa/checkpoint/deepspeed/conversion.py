"""A DeepSpeed checkpoint as one file of whole float32 tensors."""

import json
from pathlib import Path
from typing import NamedTuple

from birdjepa.checkpoint.deepspeed import layout, merging, names, writing
from birdjepa.checkpoint.deepspeed.names import Source
from birdjepa.core.errors import UsageError


class Converted(NamedTuple):
    """What was written."""

    n_tensors: int
    n_numbers: int
    tag: str
    stage: int
    """ZeRO's."""
    world_size: int
    """Processes that trained."""
    version: str
    """DeepSpeed's; empty if the files do not say."""
    n_gates: int
    """Gaussian gates that were asserted."""
    left_out: tuple[str, ...]
    """Entries of the module that are no tensors."""
    not_finite: tuple[str, ...]
    """Tensors that hold NaN or infinity."""
    widened_only: bool
    """Whether the weights are half-precision ones widened, as the trained ones are saved without names (ZeRO-0)."""


def convert(
    ds_dir: Path, out: Path, *, tag: str | None = None, encoder: Source | None = None, assert_gates: bool = False
) -> Converted:
    """Merges the files of a tag (of `latest` if None) into one: safetensors, or torch's state dict if it ends in .pt.

    encoder keeps only the online encoder of the public reference, or its teacher, under the names of the encoder alone
    (`names.ReferenceEncoder.shapes`). assert_gates refuses a model with a convolution block that lacks its Gaussian
    gate. Memory does not grow with the model (with .pt, what is mapped of the written file does).

    Raises:
      UsageError: if out is there already, or the checkpoint is not whole, unsafe, or not what was asked for.
    """
    writing.require_new(out)
    files = layout.find(ds_dir, tag)
    found = merging.merge(files)
    tensors, n_gates = found.tensors, 0
    try:
        if encoder is not None:
            chosen = names.encoder_names({name: each.shape for name, each in tensors.items()}, encoder)
            tensors = {new: tensors[old] for old, new in chosen.items()}
        if assert_gates:
            n_gates = names.require_gates({name: each.shape for name, each in tensors.items()})
    except UsageError as error:
        raise UsageError(f"{files.modules[0].parent}: {error}") from None
    if not tensors:
        raise UsageError(f"{files.modules[0]}: holds no tensors")
    about = {
        "source": "deepspeed",
        "tag": files.tag,
        "zero_stage": str(found.stage),
        "world_size": str(found.world_size),
        "deepspeed": found.version,
        "encoder": encoder or "",
    }
    bad = writing.write(out, tensors, found.files, {"birdjepa": json.dumps(about)})
    return Converted(
        n_tensors=len(tensors),
        n_numbers=sum(tensor.n_numbers for tensor in tensors.values()),
        tag=files.tag,
        stage=found.stage,
        world_size=found.world_size,
        version=found.version,
        n_gates=n_gates,
        left_out=found.left_out,
        not_finite=tuple(bad),
        widened_only=found.widened_only,
    )
