"""`birdjepa profile RECIPE [--data DATA] [--train.batch-size N ...] [--profile.steps N] [--json]`, `--config FILE`."""

import dataclasses
import itertools
import json as jsonlib
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from birdjepa.cli import pretrain, tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, UsageError
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.profile import OVERHEAD, PARTS, Profile, ProfileConfig, profile
from birdjepa.recipes.profile_memory import FURTHEST

DESCRIPTION = (
    "Measures what a training step of a run costs on this machine: memory by batch size and the largest batch that "
    "fits, time by part, operations, and the share of a large matrix product's speed. Takes the recipe, file and "
    "settings of birdjepa pretrain (its --help lists them) besides these; without --data it works on the embedded data "
    "set. --json prints one JSON object."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileArguments:
    """For the prefix of the flags."""

    profile: ProfileConfig = ProfileConfig()


def run(argv: Sequence[str]) -> int:
    config, asked, as_json = configure(argv)
    found = profile(config, asked, tell)
    if as_json:
        print(jsonlib.dumps(found.to_json()))
    else:
        show(found, asked)
    return EXIT_DONE


def configure(argv: Sequence[str]) -> tuple[RunConfig, ProfileConfig, bool]:
    """The run, what is measured, and whether JSON is asked for.

    Raises:
      UsageError: as for pretrain, and for settings of what a profile does not do.
    """
    own, rest, given = [], [], iter(argv)
    for argument in given:
        if argument.startswith("--profile."):
            own += [argument] if "=" in argument else [argument, *itertools.islice(given, 1)]
        elif argument != "--json":
            rest.append(argument)
    own += [argument for argument in rest if argument in ("-h", "--help")]
    told = {"prog": "birdjepa profile RECIPE", "description": DESCRIPTION}
    asked = parse(ProfileArguments, own, **told, default=ProfileArguments()).profile
    for flag in ("--out", "--resume", "--fork"):
        if any(argument.partition("=")[0] == flag for argument in rest):
            raise UsageError(f"a profile is of no run folder: leave out {flag}")
    config = pretrain.configure(rest)
    data = config.data or ("synth",)
    return dataclasses.replace(config, data=data), asked, "--json" in argv


def show(found: Profile, asked: ProfileConfig) -> None:
    """The tables for people."""
    console, told = Console(), found.described
    console.print(
        f"{told['objective']}: encoder {found.n_parameters / 1e6:.2f} M parameters, {found.n_trained / 1e6:.2f} M in "
        f"all that trains, {found.n_tokens} tokens a clip; {told['device']}, {told['precision']}, "
        f"{told['n_threads']} threads, {told['workers']} workers",
        highlight=False,
    )
    clips = told["batch_size"]
    step = Table("part", "ms", "share", "what", title=f"a step of {clips} clips: {1000 * found.step_s:,.1f} ms")
    for part, seconds in found.seconds.items():
        step.add_row(part, f"{1000 * seconds:,.2f}", f"{seconds / found.step_s:.1%}", PARTS[part])
    console.print(step)
    console.print(
        f"{clips / found.step_s:,.1f} clips/s; waiting for data {found.share(['data']):.1%}, "
        f"the loop's own {found.share(OVERHEAD):.1%} of the step\n"
        f"{found.flops / 1e9:,.1f} GFLOP a step; the work runs at {found.product_share:.0%} of this machine's matrix "
        f"product ({found.product_flops / 1e9:,.0f} GFLOP/s)",
        highlight=False,
    )
    if not found.memory:
        return
    memory = Table("micro-batch", "peak MiB", title=f"memory of a step; {found.budget_mib:,.0f} MiB may be taken")
    for each in found.memory:
        memory.add_row(
            str(each.micro_batch), "does not fit" if each.peak_mib != each.peak_mib else f"{each.peak_mib:,.0f}"
        )
    console.print(memory)
    where = "the GPU's memory" if told["device"].startswith("cuda") else "the memory that is free"
    further = found.fits == FURTHEST * found.memory[-1].micro_batch
    console.print(
        f"largest micro-batch that fits into {asked.memory_share:.0%} of {where}: "
        f"{'at least' if further else 'about'} {found.fits}",
        highlight=False,
    )
