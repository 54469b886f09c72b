"""Every objective on real audio, on equal terms: `birdjepa compare` over the shared sets, probed on ESC-10.

Each run of --out is kept, so that a stopped comparison goes on, and a finished one is only put together again. Pooling
is the mean over patches: what training put into the tokens decides, and not what thousands of random features hold.

    python benchmarks/compare_real.py --out /tmp/compare --steps 240 --batch 32
"""

import json
import tempfile
from pathlib import Path

import common
from real_audio import SOURCES, birdjepa, interval

OBJECTIVES = ("lejepa", "pixio", "ajepa", "supervised", "diet")


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder by default")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp()) / "compare"
    common_settings = out.with_name(f"{out.name}-common.toml")
    common_settings.parent.mkdir(parents=True, exist_ok=True)
    train = f"[train]\nbatch_size = {options.batch}\nthreads = {options.threads}\ncheckpoint_every = 1000\n"
    common_settings.write_text(
        f'pooling = "mean"\n[loader]\nworkers = 0\n{train}[train.monitor]\nevery = 60\n', encoding="utf-8"
    )
    data = []
    for name in SOURCES:
        folder, at, weight = name.partition("@")
        data.append(f"{options.shared / folder / 'metadata.csv'}{at}{weight}")
    settings = ["--config", str(common_settings), "--steps", str(options.steps), "--n-seeds", str(options.seeds)]
    probed = ["--probe-data", str(options.shared / "esc10" / "metadata.csv"), "--folds", "split"]
    printed = birdjepa("compare", *OBJECTIVES, "--data", *data, *probed, *settings, "--out", str(out), "--json")
    compared = json.loads(printed)
    rows = [
        {
            "objective": row["name"],
            "accuracy (mean over seeds)": interval(row["accuracy"]),
            "minus random weights": interval(row["ahead"]) if row["ahead"] else "",
            "each seed": " ".join(f"{value:.3f}" for value in row["seeds"]),
            "ms a step": row["step_s"] * 1000 if row["steps"] else "",
            "peak MiB": row["memory_mib"] if row["steps"] else "",
        }
        for row in compared["rows"]
    ]
    notes = [
        f"{options.steps} steps of {options.batch} clips of 5 s each, tiny encoder, on {', '.join(SOURCES)}; ESC-10's "
        "recordings are heard without labels, and not at all by supervised, which learns the labels of the others",
        "linear probe on mean-pooled patches, 5 official folds, C chosen inside each training part",
        "accuracy: Student's interval over seeds; minus random weights: mean over seeds, interval over recordings",
        *compared["differences"],
    ]
    common.record("Objectives on equal terms, ESC-10", rows, notes, options)


if __name__ == "__main__":
    main()
