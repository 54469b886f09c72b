"""`birdjepa convert bird-mae|audio-mae SOURCE --out ENCODER`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from birdjepa.checkpoint.foreign import KINDS, convert
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import files
from birdjepa.core.errors import EXIT_DONE


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    kind: tyro.conf.Positional[Literal["bird-mae", "audio-mae"]]
    source: tyro.conf.Positional[str]
    """A folder with model.safetensors as on the Hub, a safetensors file, or OWNER/NAME[@REVISION] of the Hub."""
    out: Path
    """Encoder folder to make; must not exist yet, or be empty."""


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        ConvertArguments,
        argv,
        prog="birdjepa convert",
        description="Makes an encoder folder of the published weights of Bird-MAE or Audio-MAE (docs/foreign.md).",
    )
    kind = KINDS[arguments.kind]
    with files.whole_folder(arguments.out) as folder:
        encoder, card, provenance = convert(arguments.kind, arguments.source)
        encoder.save(folder, card=card, provenance=provenance)
    width, depth, heads = encoder.config.vit.dimensions
    tell(
        f"{kind.title} {encoder.config.vit.size}: {width} wide, {depth} blocks, {heads} heads, "
        f"{encoder.config.embedding_width} numbers per {kind.clip_s:g} s at {encoder.sampling_rate} Hz, pooled by "
        f"{encoder.config.pooling}"
    )
    if left_out := provenance["converted"]["left_out"]:
        tell(f"{len(left_out)} tensors of its classifier or decoder are left out: {', '.join(left_out[:3])}, ...")
    tell(f"licence: {kind.terms}")
    tell(f"note for benchmarks: {kind.overlap}")
    print(arguments.out)
    return EXIT_DONE
