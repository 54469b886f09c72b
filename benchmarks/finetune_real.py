"""Fine-tuning against the probe from the same encoder, with and without regularised masking, on real audio.

Cross-validates `birdjepa finetune` in the folds of `birdjepa probe`, on the same rows. No row is kept for early
stopping (--validation 0), so that both learn from the same examples. Runs in --out are kept.

    python benchmarks/finetune_real.py ENCODER --out /tmp/finetuned --steps 80
"""

import json
import tempfile
from pathlib import Path

import common
from real_audio import birdjepa, cells

SETS = (("esc10", "split"), ("birds_species", "fold"))


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sets", nargs="*", default=[name for name, _ in SETS])
    parser.add_argument("--masking", type=float, nargs="*", default=[0.1, 0.0])
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder by default")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp()) / "finetuned"
    rows = []
    for name, column in SETS:
        if name not in options.sets:
            continue
        data = ["--data", str(options.shared / name / "metadata.csv"), "--folds", column]
        probed = json.loads(birdjepa("probe", str(options.encoder), *data, "--json"))
        rows.append({"set": name, "way": "linear probe", **cells(probed)})
        for floor, its in probed["floors"].items():
            rows.append({"set": name, "way": f"linear probe, {floor}", **cells(its)})
        for share in options.masking:
            run = out / f"{name}-masking-{share:g}"
            settings = [
                "--train.steps",
                str(options.steps),
                "--validation",
                "0",
                "--objective.masking.share",
                str(share),
            ]
            settings += ["--train.threads", str(options.threads), "--loader.workers", "0", "--out", str(run), "--json"]
            tuned = json.loads(birdjepa("finetune", str(options.encoder), *data, *settings))
            rows.append({"set": name, "way": f"fine-tuned, {share:.0%} regularised masking", **cells(tuned)})
    notes = [
        f"{options.steps} steps of 32 clips for each fold, whole encoder, head started as the probe, one seed",
        "the same rows, folds and groups for all; intervals over recordings",
    ]
    common.record("Fine-tuning against the probe", rows, notes, options)


if __name__ == "__main__":
    main()
