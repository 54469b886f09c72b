"""`birdjepa convert bird-mae|audio-mae|daam SOURCE --out ENCODER` and `convert deepspeed --ds-dir D --out FILE`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from birdjepa.checkpoint import deepspeed
from birdjepa.checkpoint.foreign import KINDS, convert, convert_daam
from birdjepa.checkpoint.foreign.daam import HEADS, SAMPLING_RATE
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import files
from birdjepa.core.errors import EXIT_DONE, UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertArguments:
    kind: tyro.conf.Positional[Literal["bird-mae", "audio-mae"]]
    source: tyro.conf.Positional[str]
    """A folder with model.safetensors as on the Hub, a safetensors file, or OWNER/NAME[@REVISION] of the Hub."""
    out: Path
    """Encoder folder to make; must not exist yet, or be empty."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DaamArguments:
    source: tyro.conf.Positional[str]
    """A safetensors file of birdjepa convert deepspeed, whole or --encoder-only; or the folder that DeepSpeed saved
    into."""
    out: Path
    """Encoder folder to make; must not exist yet, or be empty."""
    sampling_rate: int = SAMPLING_RATE
    """Hz that it was trained at, which its weights do not tell."""
    heads: int = HEADS
    """Of its attention, which its weights do not tell."""
    encoder_source: Literal["online", "teacher"] | None = None
    """The encoder that was trained, or its average over the training. If not given: the one that the file holds alone,
    else online."""
    tag: str | None = None
    """With a folder of DeepSpeed: which checkpoint, if not the one that `latest` names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepspeedArguments:
    ds_dir: Path
    """The folder that DeepSpeed saved into: `latest`, and a folder of files for each tag."""
    out: Path
    """File to make: .safetensors, or .pt for a state dict of torch. Must not exist yet."""
    tag: str | None = None
    """Which checkpoint; the one that `latest` names if not given."""
    encoder_only: bool = False
    """Only the encoder of the public reference (docs/deepspeed.md), from a checkpoint of its stage 1 or 2."""
    encoder_source: Literal["online", "teacher"] | None = None
    """With --encoder-only: the encoder that was trained (online, if not given), or its average over the training."""
    assert_gaatn: bool = False
    """Fail unless each convolution block of the reference's encoder has its Gaussian gate, by names and shapes."""


def run(argv: Sequence[str]) -> int:
    if argv and argv[0] == "deepspeed":
        return _run_deepspeed(argv[1:])
    if argv and argv[0] == "daam":
        return _run_daam(argv[1:])
    arguments = parse(
        ConvertArguments,
        argv,
        prog="birdjepa convert",
        description="Makes an encoder folder of the published weights of Bird-MAE or Audio-MAE (docs/foreign.md). "
        "For the public density-adaptive JEPA there is birdjepa convert daam, and for what DeepSpeed saved birdjepa "
        "convert deepspeed (--help after either tells its options).",
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


def _run_daam(argv: Sequence[str]) -> int:
    arguments = parse(
        DaamArguments,
        argv,
        prog="birdjepa convert daam",
        description="Makes an encoder folder of a checkpoint of the public density-adaptive JEPA (docs/deepspeed.md).",
    )
    with files.whole_folder(arguments.out) as folder:
        encoder, card, provenance = convert_daam(
            arguments.source,
            sampling_rate=arguments.sampling_rate,
            heads=arguments.heads,
            encoder=arguments.encoder_source,
            tag=arguments.tag,
        )
        encoder.save(folder, card=card, provenance=provenance)
    network, origin = encoder.config.network, provenance["converted"]
    tell(
        f"{origin['encoder']} encoder: {encoder.config.described}, {network.shape.n_conformers} Conformers of "
        f"{network.shape.heads} heads, {network.frame_rate:g} frames a second of {network.shape.code_dim} numbers"
    )
    if left_out := origin["left_out"]:
        tell(f"left out, for an encoder does not need them: {', '.join(left_out[:8])}{', ...' * (len(left_out) > 8)}")
    tell(f"licence: {origin['terms']}")
    print(arguments.out)
    return EXIT_DONE


def _run_deepspeed(argv: Sequence[str]) -> int:
    arguments = parse(
        DeepspeedArguments,
        argv,
        prog="birdjepa convert deepspeed",
        description="Merges a checkpoint of DeepSpeed (ZeRO-0, 1, 2, 3) into one file of whole float32 tensors, "
        "without DeepSpeed and without running what is in it (docs/deepspeed.md).",
    )
    if arguments.encoder_source is not None and not arguments.encoder_only:
        raise UsageError("--encoder-source says which encoder --encoder-only keeps: give both")
    done = deepspeed.convert(
        arguments.ds_dir,
        arguments.out,
        tag=arguments.tag,
        encoder=(arguments.encoder_source or "online") if arguments.encoder_only else None,
        assert_gates=arguments.assert_gaatn,
    )
    what = f"{arguments.encoder_source or 'online'} encoder, " if arguments.encoder_only else ""
    by = f", DeepSpeed {done.version}" if done.version else ""
    tell(
        f"{what}{done.n_tensors} tensors, {done.n_numbers:,} numbers: tag {done.tag}, ZeRO-{done.stage}, "
        f"world size {done.world_size}{by}"
    )
    if done.n_gates:
        tell(f"{done.n_gates} Gaussian gates are whole")
    if done.left_out:
        tell(f"{len(done.left_out)} entries of the module are no tensors and left out: {', '.join(done.left_out[:3])}")
    if done.not_finite:
        tell(f"note: {len(done.not_finite)} tensors hold NaN or infinity: {', '.join(done.not_finite[:3])}")
    if done.widened_only:
        tell(
            "note: with ZeRO-0 the float32 weights of training are saved without names; these are the module's, in "
            "half precision, widened"
        )
    print(arguments.out)
    return EXIT_DONE
