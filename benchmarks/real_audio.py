"""LeJEPA on real audio, end to end, through the command line: pretrain the CPU recipe without labels, then probe it.

Pretrains on all sound of the shared sets but the spoken digits (labels unseen: the online probe is off), then probes
ESC-10 in its official folds and the 22 bird species in theirs, each beside log-mel statistics and random weights.

    python benchmarks/real_audio.py --out /tmp/real --steps 300
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

SOURCES = ("esc10@2", "birds_species", "birdsong_syllables", "soundscapes", "music_speech")
PROBES = (("esc10", "split"), ("birds_species", "fold"))


def birdjepa(*arguments: str) -> str:
    """Output of a birdjepa command; its progress goes to the terminal."""
    command = [sys.executable, "-c", "import sys; from birdjepa.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the run goes; a temporary folder by default")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp()) / "run"
    data = []
    for source in SOURCES:
        name, at, weight = source.partition("@")
        data.append(f"{options.shared / name / 'metadata.csv'}{at}{weight}")
    began = time.perf_counter()
    birdjepa(
        *("pretrain", "lejepa", "--data", *data, "--out", str(out), "--seed", str(options.seed)),
        *("--train.steps", str(options.steps), "--train.probe.enabled", "False"),
    )
    minutes = (time.perf_counter() - began) / 60
    rows = []
    for name, column in PROBES:
        manifest = str(options.shared / name / "metadata.csv")
        for classifier in ("linear", "knn"):
            score = json.loads(
                birdjepa(
                    *("probe", str(out / "encoder"), "--data", manifest, "--folds", column),
                    *("--classifier", classifier, "--json"),
                )
            )
            rows += table_rows(f"{name} ({classifier})", score)
    notes = [
        f"pretraining: {options.steps} steps of 128 clips in {minutes:.1f} minutes, seed {options.seed}, "
        f"on {', '.join(SOURCES)}, no labels",
        "all three embeddings in the same folds; C chosen by cross-validation inside each training part",
        "minus floor: encoder minus this floor, paired over recordings",
    ]
    common.record("LeJEPA on real audio: probes of the CPU recipe", rows, notes, options)
    birdjepa("report", str(out))


def table_rows(name: str, score: dict) -> list[dict[str, object]]:
    """One row for the encoder and one for each floor."""
    rows: list[dict[str, object]] = [{"probe": name, "embedding": "encoder", **cells(score), "encoder minus this": ""}]
    for floor, its in score["floors"].items():
        difference = interval(its["difference"]["accuracy"])
        rows.append({"probe": name, "embedding": floor, **cells(its), "encoder minus this": difference})
    return rows


def cells(score: dict) -> dict[str, object]:
    return {"accuracy": interval(score["accuracy"]), "macro F1": interval(score["macro_f1"])}


def interval(estimate: dict) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


if __name__ == "__main__":
    main()
