"""`birdjepa codec info CODEC [--json]`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from birdjepa.cli.arguments import parse
from birdjepa.cli.tokenize import loaded
from birdjepa.codec.tokenizer import TokenizerConfig
from birdjepa.core.errors import EXIT_DONE


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecInfoArguments:
    codec: tyro.conf.Positional[Path]
    """Codec folder, such as runs/codec/codec."""
    config: tyro.conf.OmitArgPrefixes[TokenizerConfig] = dataclasses.field(default_factory=TokenizerConfig)
    json: bool = False
    """Print one JSON object, the whole configuration with it."""


def run(argv: Sequence[str]) -> int:
    arguments = parse(CodecInfoArguments, argv, prog="birdjepa codec info", description="Says what a codec is.")
    described = loaded(arguments.codec, arguments.config, "cpu").describe()
    print(jsonlib.dumps(described) if arguments.json else "\n".join(lines(described)))
    return EXIT_DONE


def lines(described: dict[str, Any]) -> list[str]:
    """For people."""
    rates, sizes = described["rates"], described["parameters"]
    whole, ahead = "chunks give the whole recording's codes", described["looks_ahead_s"]
    if ahead is None:
        whole = "chunks give other codes than the whole, for the encoder looks at whole clips"
    levels = "/".join(map(str, described["levels"]))
    return [
        f"codec {described['sha256']}",
        f"{described['sampling_rate']} Hz, mono; a frame is {described['hop']} samples: {rates['frame_hz']:g} a second",
        f"{described['dimensions']} dimensions of {levels} levels, in {described['n_groups']} groups of up to "
        f"{described['group_size']} ({described['order']}): {rates['tokens_per_s']:g} tokens a second",
        f"{rates['nominal_bit_s']:g} bit a second nominal, {rates['stored_bit_s']:g} stored",
        "no streaming: it hears "
        + ("all of a clip" if ahead is None else f"{ahead:.2f} s ahead and as much back for each frame"),
        f"long recordings: chunks of {described['chunk_s']:.2f} s that share {described['overlap_s']:.2f} s; {whole}",
        "parameters: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
    ]
