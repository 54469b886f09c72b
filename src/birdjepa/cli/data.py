"""`birdjepa data synth FOLDER`, `birdjepa data images FOLDER` and `birdjepa data scan DATA`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.audio.images import ImagesConfig, write_images
from birdjepa.audio.synth import SynthConfig, write_dataset
from birdjepa.cli import data_scan, tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE, UsageError
from birdjepa.core.telling import tenths
from birdjepa.train.signals import StopSignal


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthArguments:
    folder: tyro.conf.Positional[Path]
    """Where the data set is written; must not exist yet, or be empty."""
    synth: SynthConfig = SynthConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesArguments:
    folder: tyro.conf.Positional[Path]
    """Where the data set is written; must not exist yet, or be empty."""
    images: ImagesConfig = ImagesConfig()


def run(argv: Sequence[str]) -> int:
    jobs = {"synth": run_synth, "images": run_images, "scan": run_scan}
    if not argv or argv[0] not in jobs:
        raise UsageError("birdjepa data synth FOLDER, birdjepa data images FOLDER, or birdjepa data scan DATA")
    return jobs[argv[0]](argv[1:])


def run_scan(argv: Sequence[str]) -> int:
    with StopSignal() as signal:
        return data_scan.run(argv, signal)


def run_synth(argv: Sequence[str]) -> int:
    told = "Writes labelled synthetic bird songs and soundscapes."
    arguments = parse(SynthArguments, argv, prog="birdjepa data synth", description=told)
    print(write_dataset(arguments.folder, arguments.synth, progress=tenths(tell, "recordings")))
    return EXIT_DONE


def run_images(argv: Sequence[str]) -> int:
    told = "Plays small labelled images as sound: their log-mel shows them, so what can be learnt is known."
    arguments = parse(ImagesArguments, argv, prog="birdjepa data images", description=told)
    print(write_images(arguments.folder, arguments.images, progress=tenths(tell, "images")))
    return EXIT_DONE
