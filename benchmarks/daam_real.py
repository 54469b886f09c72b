"""Density-adaptive JEPA on digits and sounds: spectra, gates, and where frames are hidden, over seeds, beside random
weights.

Pretrains the CPU recipe without labels on FSDD and ESC-10 (twice as often), and probes ESC-10 in its official folds and
digits in folds that share no speaker. Runs in --out are kept.

    python benchmarks/daam_real.py --steps 150 --seeds 3
"""

import json
import statistics
import tempfile
from pathlib import Path

import common
from real_audio import birdjepa

VARIANTS = {
    "recipe": [],
    "without spectra": ["--objective.spectrum-weight", "0"],
    "without gates": ["--encoder.components", "0"],
    "hidden behind the convolutions": ["--objective.mask-at", "features"],
    "hidden behind the encoder": ["--objective.mask-at", "output"],
}
PROBES = {"esc10": "split", "fsdd": "split_group"}
"""Set and the column of its folds; groups of FSDD are its speakers."""


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--probes", nargs="*", choices=PROBES, default=list(PROBES))
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder by default")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    data = [str(options.shared / "fsdd" / "metadata.csv"), f"{options.shared / 'esc10' / 'metadata.csv'}@2"]
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        for name in options.variants:
            run = out / f"{name.replace(' ', '-')}-{seed}"
            common_settings = ["--train.steps", str(options.steps), "--train.threads", str(options.threads)]
            settings = [*common_settings, "--seed", str(seed), "--report", "False", *VARIANTS[name]]
            birdjepa("pretrain", "daam", "--data", *data, "--out", str(run), *settings)
            for probed in options.probes:
                labelled = ["--data", str(options.shared / probed / "metadata.csv"), "--folds", PROBES[probed]]
                scores = json.loads(birdjepa("probe", str(run / "encoder"), *labelled, "--seed", str(seed), "--json"))
                scored = {name: scores} | ({"random weights": scores["floors"]["random"]} if name == "recipe" else {})
                for what, score in scored.items():
                    found.setdefault(what, {}).setdefault(probed, []).append(score["accuracy"]["value"])
    rows = [
        {"encoder": name, **{probed: _cell(scores) for probed, scores in of_sets.items()}}
        for name, of_sets in found.items()
    ]
    notes = [f"{options.steps} steps of 16 times 2 s, {options.seeds} seeds: mean (each); linear probe"]
    common.record("Density-adaptive JEPA: gates and masks", rows, notes, options)


def _cell(scores: list[float]) -> str:
    return f"{statistics.fmean(scores):.3f} ({', '.join(f'{score:.3f}' for score in scores)})"


if __name__ == "__main__":
    main()
