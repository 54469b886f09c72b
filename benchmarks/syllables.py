"""What fine time patches are for: Bengalese finch syllables, frame by frame, with patches of several shapes.

Pretrains one tiny encoder per patch geometry (frames x mel bands at a hop of 5 ms) without labels, on other songs and
other birds than are tested, then evaluates its patch columns.

    python benchmarks/syllables.py --out /tmp/syllables --no-record
"""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import common

CLIP_S = 1.31
"""256 frames of 5 ms."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A patch of frames x mels, and how many patches are hidden together: 160 ms in time for all."""

    frames: int
    mels: int
    block: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.mels}"


GEOMETRIES = {
    geometry.name: geometry
    for geometry in (
        Geometry(16, 16, (2, 2)),
        Geometry(8, 32, (4, 1)),
        Geometry(4, 64, (8, 1)),
        Geometry(4, 32, (8, 1)),
        Geometry(2, 32, (16, 1)),
    )
}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=["16x16", "8x32", "4x64", "4x32"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--objective", choices=["pixio", "ajepa"], default="pixio")
    parser.add_argument("--pretrain-only", action="store_true", help="stop before the evaluation")
    parser.add_argument(
        "--out", type=Path, help="where the runs go, and are found again; a temporary folder by default"
    )
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    for name in options.geometries:
        pretrain(GEOMETRIES[name], out / f"{options.objective}-{name}", options)


def pretrain(geometry: Geometry, run: Path, options) -> None:
    """Trains what is not yet trained, and goes on with what was stopped."""
    if (run / "encoder" / "config.json").exists():
        return
    if (run / "checkpoints").exists() and any((run / "checkpoints").iterdir()):
        birdjepa("pretrain", "--resume", str(run))
        return
    songs, birds = (options.shared / name for name in ("birdsong_syllables", "birds_species"))
    masks = ["--objective.block", *map(str, geometry.block)] if options.objective == "pixio" else []
    birdjepa(
        *("pretrain", options.objective, "--data", f"{songs / 'metadata.csv'}@5", str(birds / "metadata.csv")),
        *("--splits", "train", "pool", "--exclude", str(songs / "katahira_bf2"), "--out", str(run)),
        *("--front-end.window", "1024", "--front-end.hop", "160", "--front-end.f-min", "0"),
        *("--patch.frames", str(geometry.frames), "--patch.mels", str(geometry.mels), *masks),
        *("--loader.clip-s", str(CLIP_S), "--clips.clip-s", str(CLIP_S), "--clips.hop-s", str(CLIP_S)),
        *("--loader.workers", "0", "--pooling", "mean", "--train.probe.enabled", "False"),
        *("--train.steps", str(options.steps), "--train.batch-size", str(options.batch), "--train.threads", "1"),
        *("--train.checkpoint-every", "50", "--report", "False"),
    )


def birdjepa(*arguments: str) -> None:
    command = [sys.executable, "-c", "import sys; from birdjepa.cli import main; sys.exit(main())", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
