"""`birdjepa tokenize CODEC DATA --out tokens/`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.cli.embed import Teller
from birdjepa.codec import collection
from birdjepa.codec.collection import Summary
from birdjepa.codec.tokenizer import Tokenizer, TokenizerConfig, load_codec
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, UsageError
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.train.loop import pick_device
from birdjepa.train.signals import StopSignal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizeArguments:
    codec: tyro.conf.Positional[Path]
    """Codec folder, such as runs/codec/codec."""
    data: tyro.conf.Positional[str]
    """A folder, a manifest, shards, hub:OWNER/NAME, or synth. Of labelled segments their whole recordings are taken."""
    out: Path = Path("tokens")
    """Folder for one .bjt file per recording and tokens.csv. Run the same command again to go on after an
    interruption."""
    device: str = "auto"
    """auto takes a GPU if there is one."""
    config: tyro.conf.OmitArgPrefixes[TokenizerConfig] = dataclasses.field(default_factory=TokenizerConfig)
    columns: ColumnConfig = ColumnConfig()


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        TokenizeArguments,
        argv,
        prog="birdjepa tokenize",
        description="Makes codes of a folder or manifest of recordings, one file for each.",
    )
    manifest = open_data(arguments.data, arguments.columns)
    tokenizer = loaded(arguments.codec, arguments.config, arguments.device)
    with StopSignal() as signal:
        summary = collection.tokenize(tokenizer, manifest, arguments.out, progress=Teller(), stop=signal.stop)
    return told(summary, "recordings")


def loaded(folder: Path, config: TokenizerConfig, device: str) -> Tokenizer:
    """The tokenizer of a folder; settings that do not fit its codec are a usage error."""
    try:
        return load_codec(folder, config=config, device=pick_device(device))
    except ValueError as error:
        raise UsageError(str(error)) from None


def told(summary: Summary, what: str) -> int:
    """Says what became of a collection; returns the exit code."""
    if summary.n_resumed:
        tell(f"{summary.n_resumed} were done already")
    tell(f"{summary.n_done} of {summary.n_files} {what}: {summary.seconds:.1f} s of sound, {summary.n_frames} frames")
    print(summary.out)
    if summary.n_refused:
        tell(f"{summary.n_refused} were refused; see {summary.failures}")
        return EXIT_PARTIAL
    return EXIT_DONE
