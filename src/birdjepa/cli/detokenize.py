"""`birdjepa detokenize CODEC tokens/ --out wavs/`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from birdjepa.cli.arguments import parse
from birdjepa.cli.embed import Teller
from birdjepa.cli.tokenize import loaded, told
from birdjepa.codec import collection
from birdjepa.codec.collection import SoundFormat
from birdjepa.codec.tokenizer import TokenizerConfig
from birdjepa.train.signals import StopSignal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetokenizeArguments:
    codec: tyro.conf.Positional[Path]
    """Codec folder, the one that the codes were made with."""
    tokens: tyro.conf.Positional[Path]
    """Folder that `birdjepa tokenize` has filled, or one .bjt file."""
    out: Path = Path("wavs")
    """Folder for one sound file per file of codes. Run the same command again to go on after an interruption."""
    format: SoundFormat = "wav"
    """wav and flac have 16 bits, wav-float 32."""
    device: str = "auto"
    """auto takes a GPU if there is one."""


def run(argv: Sequence[str]) -> int:
    arguments = parse(
        DetokenizeArguments,
        argv,
        prog="birdjepa detokenize",
        description="Makes sound of files of codes: mono, at the codec's rate, exactly as long as the recordings were.",
    )
    tokenizer = loaded(arguments.codec, TokenizerConfig(), arguments.device)
    with StopSignal() as signal:
        summary = collection.detokenize(
            tokenizer,
            arguments.tokens,
            arguments.out,
            kind=arguments.format,
            progress=Teller(),
            stop=signal.stop,
        )
    return told(summary, "files of codes")
