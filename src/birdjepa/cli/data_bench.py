"""`birdjepa data bench DATA`: where the loader's time goes, what limits it, and what to do about it."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

from birdjepa.audio.logmel import LogMelConfig
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, UsageError
from birdjepa.data.bench import PARTS, LoaderBench, bench, n_cores
from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data, split_weight
from birdjepa.train.sinks import METRICS, read_metrics

MOST_SHOWN = 8
"""Kinds of recordings in the table."""
WORTH_IT = 1.3
"""Times faster from which storing recordings otherwise is advised."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchArguments:
    data: tyro.conf.Positional[tuple[str, ...]]
    """As for pretrain: folders, manifests, shards, hub:OWNER/NAME, synth; "songs/@2" counts twice."""
    seconds: float = 20.0
    """About how long it measures."""
    sampling_rate: int = LogMelConfig().sampling_rate
    """Of the model, in Hz."""
    batch_size: int = 32
    loader: LoaderConfig = LoaderConfig()
    """As for pretrain. With 0 workers, the default, it is tried with up to as many as there are cores, else with up to
    that many."""
    columns: ColumnConfig = ColumnConfig()
    run: Path | None = None
    """Run folder: what its training consumes is compared with what the loader delivers."""
    json: bool = False
    """Print one JSON object instead of tables."""

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.sampling_rate < 1000 or self.batch_size < 1 or not self.data:
            raise ValueError(
                "need seconds > 0, sampling_rate >= 1000 Hz and batch_size >= 1; got "
                f"{self.seconds:g}, {self.sampling_rate}, {self.batch_size}"
            )


@dataclasses.dataclass(frozen=True)
class Demand:
    """What a run's training takes."""

    clips_per_s: float
    """If it never waited for data."""
    data_wait: float
    """Share of its time for which it did."""


def run(argv: Sequence[str]) -> int:
    told = "Measures where the loader's time goes on this machine, and says what limits it."
    arguments = parse(BenchArguments, argv, prog="birdjepa data bench", description=told)
    demand = demand_of(arguments.run) if arguments.run else None
    names = [split_weight(each) for each in arguments.data]
    sources = [open_data(name, arguments.columns) for name, _ in names]
    clips = Clips(
        sources,
        [weight for _, weight in names],
        arguments.loader,
        sampling_rate=arguments.sampling_rate,
        batch_size=arguments.batch_size,
        seed=0,
    )
    most = arguments.loader.workers or n_cores()
    found = bench(clips, seconds=arguments.seconds, workers=levels(most), say=tell)
    verdict = [limit(found), scaling(found), *([against(found, demand)] if demand else [])]
    if arguments.json:
        shown = {"data": list(arguments.data), **found.to_json(), "verdict": verdict}
        print(json.dumps({**shown, "run": dataclasses.asdict(demand) if demand else None}))
    else:
        show(", ".join(arguments.data), found, verdict)
    return EXIT_DONE


def levels(most: int) -> list[int]:
    """Numbers of workers that are tried: none, 1, 2, 4 ... and the most."""
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return [0, *powers, most]


def demand_of(folder: Path) -> Demand:
    """What the training of a run consumed, from its metrics.

    Raises:
      UsageError: if it has logged no steps.
    """
    rows = [row for row in read_metrics(folder / METRICS) if row.get("step", 0) > 1 and row.get("clips_per_s")]
    if not rows:
        raise UsageError(f"{folder}: no run that has logged steps ({METRICS} has no clips_per_s)")
    wait = statistics.median(row.get("data_wait") or 0.0 for row in rows)
    rate = statistics.median(row["clips_per_s"] for row in rows)
    return Demand(rate / max(1e-3, 1 - wait), wait)


def limit(found: LoaderBench) -> str:
    """What takes most of a clip's time, and what helps, in one sentence or two."""
    shares, rate = found.shares, f"{found.sampling_rate / 1000:g} kHz"
    groups = {
        "shards": shares["shard"],
        "the disk": shares["disk"],
        "decoding": shares["open"] + shares["decode"],
        "resampling": shares["resample"],
        "finding the stretch": shares["search"],
        "putting batches together": shares["batch"],
    }
    name = max(groups, key=lambda each: groups[each])
    faster = found.same_ms / found.flac_ms
    stored = (
        f"as FLAC at {rate} the same clips take {found.flac_ms:.1f} ms instead of {found.same_ms:.1f} "
        f"({faster:.1f} times faster)"
    )
    no_gain = f"FLAC at {rate} would not be faster ({found.flac_ms:.1f} ms a clip against {found.same_ms:.1f})"
    advice = {
        "shards": "getting recordings out of them costs more than decoding; tar or Arrow shards, or files, on a disk "
        "of this machine are read at random",
        "the disk": "the first reading waits for it; keep the data on a disk of this machine, as FLAC or smaller "
        "(where it fits into memory, later epochs do not wait)",
        "decoding": stored if faster >= WORTH_IT else f"{no_gain}: only more workers help",
        "resampling": stored if faster >= WORTH_IT else f"store the recordings at {rate}; {no_gain}",
        "finding the stretch": "loader.where anywhere reads a third of it; events in the manifest are found once",
        "putting batches together": "the recordings cost next to nothing",
    }
    return f"What limits it is {name}, {groups[name]:.0%} of a clip's time: {advice[name]}."


def scaling(found: LoaderBench) -> str:
    """What workers bring."""
    best, alone = found.best, found.levels[0]
    gain = best.clips_per_s / alone.clips_per_s
    told = f"{best.clips_per_s:,.0f} clips/s with {workers_text(best.workers)}"
    if best.workers == 0:
        return f"{told}: workers bring nothing here; the {found.n_cores} cores are few, or busy with other work."
    told += f", {gain:.1f} times as many as in the training process"
    if best.workers == found.levels[-1].workers and best.workers < found.n_cores and gain > 0.7 * best.workers:
        return f"{told}: more workers will bring more, up to the {found.n_cores} cores there are."
    if gain < 0.6 * min(best.workers, found.n_cores):
        return f"{told}: they share something (cores with other work, or the disk)."
    return f"{told}; there are {found.n_cores} cores."


def against(found: LoaderBench, demand: Demand) -> str:
    """The loader against what a run's training takes."""
    enough = next((level for level in found.levels if level.clips_per_s >= 1.1 * demand.clips_per_s), None)
    told = (
        f"The run's training takes {demand.clips_per_s:,.0f} clips/s when it need not wait; it waited for data "
        f"{demand.data_wait:.0%} of the time"
    )
    if enough:
        return f"{told}. {workers_text(enough.workers).capitalize()} deliver that where training leaves them a core."
    share = found.best.clips_per_s / demand.clips_per_s
    return f"{told}. The loader's best is {share:.0%} of that: more cores, or data that is faster to read."


def workers_text(n: int) -> str:
    return "no workers" if n == 0 else "1 worker" if n == 1 else f"{n} workers"


def show(name: str, found: LoaderBench, verdict: Sequence[str]) -> None:
    """The tables and the verdict for people."""
    console = Console()
    parts = [part for part in PARTS if found.all_kinds.ms[part] > 0]
    columns = [Column("recordings", no_wrap=True)]
    columns += [Column(each, justify="right", no_wrap=True) for each in (*parts, "all", "clips/s")]
    title = f"{name}: ms for a clip of {found.clip_s:g} s at {found.sampling_rate / 1000:g} kHz, one core"
    table = Table(*columns, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    for kind in (*found.kinds[:MOST_SHOWN], *([found.all_kinds] if len(found.kinds) > 1 else ())):
        cells = (f"{kind.ms[part]:.2f}" for part in parts)
        first = f"{kind.name.replace('MP3/MPEG_LAYER_III', 'MP3').replace(' ', chr(10), 1)} ({kind.n_clips})"
        table.add_row(first, *cells, f"{kind.total_ms:.1f}", f"{1000 / kind.total_ms:,.0f}")
    table.add_row("share", *(f"{found.shares[part]:.0%}" for part in parts), "", "")
    console.print(table)
    if len(found.kinds) > MOST_SHOWN:
        console.print(f"and {len(found.kinds) - MOST_SHOWN} more; --json has them all")
    console.print(
        f"log-mel of a clip: {found.log_mel_ms:.2f} ms on one core, in the training process or on its GPU",
        highlight=False,
    )
    numbers = (Column(each, justify="right") for each in ("workers", "clips/s", "per core"))
    rates = Table(*numbers, title="the loader", box=box.SIMPLE)
    for level in found.levels:
        rates.add_row(str(level.workers), f"{level.clips_per_s:,.0f}", f"{found.per_core(level):,.0f}")
    console.print(rates)
    for line in verdict:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found.n_refused:
        console.print(f"{found.n_refused} recordings could not be read; birdjepa data scan lists them")
