"""`birdjepa codec eval CODEC DATA [--out eval.json] [--n N] [--speech]`."""

import dataclasses
import json as jsonlib
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.cli.tokenize import loaded
from birdjepa.codec.tokenizer import TokenizerConfig
from birdjepa.core import failures, files
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL
from birdjepa.core.provenance import provenance
from birdjepa.core.telling import tenths
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.recipes.codec_eval import SYSTEMS, CodecEvalConfig, CodecScores, evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecEvalArguments:
    codec: tyro.conf.Positional[Path]
    """Codec folder, such as runs/codec/codec."""
    data: tyro.conf.Positional[str]
    """A folder, a manifest, shards, hub:OWNER/NAME, or synth. Of labelled segments their whole recordings are taken."""
    eval: tyro.conf.OmitArgPrefixes[CodecEvalConfig] = dataclasses.field(default_factory=CodecEvalConfig)
    out: Path | None = None
    """JSON file for all that was found, recording by recording."""
    device: str = "auto"
    """auto takes a GPU if there is one."""
    config: tyro.conf.OmitArgPrefixes[TokenizerConfig] = dataclasses.field(default_factory=TokenizerConfig)
    columns: ColumnConfig = ColumnConfig()
    json: bool = False
    """Print one JSON object instead of tables."""


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        CodecEvalArguments,
        argv,
        prog="birdjepa codec eval",
        description="Judges what comes back of recordings, beside Griffin-Lim at the same frame rate and silence.",
    )
    manifest = open_data(arguments.data, arguments.columns)
    tokenizer = loaded(arguments.codec, arguments.config, arguments.device)
    result = evaluate(tokenizer, manifest, arguments.eval, progress=tenths(tell, "recordings"))
    found = {**result.to_json(), "provenance": provenance()}
    if arguments.out is not None:
        files.write_json(arguments.out, found)
    if arguments.json:
        print(jsonlib.dumps(found))
    else:
        show(result)
    if arguments.out is not None:
        tell(f"kept in {arguments.out}")
    if result.refused:
        table = arguments.out.with_name(failures.NAME) if arguments.out is not None else Path(failures.NAME)
        failures.write(table, result.refused)
        tell(f"{len(result.refused)} recordings were refused; see {table}")
        return EXIT_PARTIAL
    return EXIT_DONE


def show(result: CodecScores) -> None:
    """Numbers of codec and floors with their intervals, then rates, usage and speed, a line each.

    What the codec is above silence is in the JSON alone.
    """
    n, seconds = len(result.recordings), sum(each["seconds"] for each in result.recordings)
    title = f"{result.described['data']['name']}: {n} recordings, {seconds:.0f} s"
    table = Table("", *SYSTEMS, "codec - griffin_lim", title=title)
    table.columns[0].no_wrap = True
    for metric in result.means["codec"]:
        cells = [result.means[system].get(metric) for system in SYSTEMS]
        cells.append(result.above["griffin_lim"].get(metric))
        table.add_row(metric, *("" if each is None else str(each) for each in cells))
    Console().print(table)
    rate, usage, speed = result.described["rates"], result.usage, result.speed
    lines = [
        f"{rate['frame_hz']:g} frames, {rate['tokens_per_s']:g} tokens, {rate['nominal_bit_s']:g} bit a second; "
        f"entropy {usage['entropy_bit_s']:.1f} bit a second by dimensions, {usage['entropy_bit_s_packed']:.1f} by "
        f"groups (of {usage['n_frames']:.0f} frames)",
        f"levels used: {usage['least_used']:.0%} in the least used dimension, {usage['mean_used']:.0%} on average",
        f"encodes at {speed['encode_x_real_time']:.1f} x real time, decodes at {speed['decode_x_real_time']:.1f} x",
    ]
    if result.chunks is not None:
        why = "rounding" if result.chunks["bounded"] else "the encoder looks at whole clips"
        lines.append(
            f"recordings in chunks: {result.chunks['differing']:.2%} of the codes differ from the whole's ({why})"
        )
    print("\n".join(lines))
