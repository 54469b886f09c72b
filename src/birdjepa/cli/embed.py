"""`birdjepa embed ENCODER DATA --out embeddings.parquet`."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL
from birdjepa.core.provenance import provenance
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.embed.collection import EmbedConfig, Progress, embed_collection
from birdjepa.models.loading import load
from birdjepa.train.loop import pick_device
from birdjepa.train.signals import StopSignal


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    encoder: tyro.conf.Positional[Path]
    """Encoder folder, such as runs/first/encoder."""
    data: tyro.conf.Positional[str]
    """A folder, a manifest, shards, hub:OWNER/NAME, or synth. Rows with onset_s and offset_s give one embedding each,
    other recordings one per clip."""
    out: Path = Path("embeddings.parquet")
    """Parquet file. Run the same command again to go on after an interruption."""
    device: str = "auto"
    """auto takes a GPU if there is one."""
    config: tyro.conf.OmitArgPrefixes[EmbedConfig] = dataclasses.field(default_factory=EmbedConfig)
    columns: ColumnConfig = ColumnConfig()


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        EmbedArguments,
        argv,
        prog="birdjepa embed",
        description="Embeds a folder or manifest into one Parquet file, a row per clip or segment.",
    )
    manifest = open_data(arguments.data, arguments.columns)
    encoder = load(arguments.encoder, device=pick_device(arguments.device))
    with StopSignal() as signal:
        summary = embed_collection(
            encoder,
            manifest,
            arguments.out,
            arguments.config,
            provenance=provenance(),
            progress=Teller(),
            stop=signal.stop,
        )
    if summary.already_done:
        tell(f"{summary.out} is complete already: nothing to do")
    tell(f"{summary.n_embedded} of {summary.n_examples} examples embedded, {summary.n_rows} rows")
    print(summary.out)
    if summary.n_refused:
        tell(f"{summary.n_refused} were refused; see {summary.failures}")
        return EXIT_PARTIAL
    return EXIT_DONE


class Teller:
    """Says every ten seconds how far it is, how fast, and how long it will take."""

    def __init__(self) -> None:
        self._began = self._spoke = time.monotonic()
        self._first: int | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = progress.n_done
        if now - self._spoke < 10:
            return
        self._spoke = now
        taken = now - self._began
        rate = (progress.n_done - self._first) / taken
        left = f"{(progress.n_examples - progress.n_done) / rate:.0f} s left" if rate else "no estimate yet"
        tell(
            f"{progress.n_done}/{progress.n_examples} examples, {progress.n_clips / taken:.1f} clips/s, "
            f"{progress.seconds / taken:.0f} x real time, {left}"
        )
