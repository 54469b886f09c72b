"""`birdjepa data synth FOLDER` and `birdjepa data images FOLDER`: labelled sound that is made up."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.audio.images import ImagesConfig, write_images
from birdjepa.audio.synth import SynthConfig, write_dataset
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core.errors import EXIT_DONE
from birdjepa.core.telling import tenths


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
