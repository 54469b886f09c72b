"""The benchmark on real recordings, through the command line: ESC-10 in its folds, 22 bird species in theirs, and the
syllables of two Bengalese finches, each by an exported encoder, its random twin and log-mel statistics.

    python benchmarks/tasks_real.py --encoder runs/first/encoder --out /tmp/bench

Comparisons are paired over recordings, corrected by Holm's method within each task and classifier.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common

MODELS = ("birdjepa", "random", "logmel")
GRIDS = (
    (("esc10", "birds"), ("linear", "knn", "centroid"), ("all",)),
    (("bird0", "bf2"), ("linear",), ("1", "5", "all")),
    (("esc10",), ("linear",), ("1", "5", "10")),
    (("esc10",), ("attentive", "prototypical"), ("all",)),
)
TASKS = """
[tasks.esc10]
data = "{shared}/esc10/metadata.csv"
suite = "general"
folds = "split"

[tasks.birds]
data = "{shared}/birds_species/metadata.csv"
folds = "fold"
clip_s = 10.0

[tasks.bird0]
data = "{shared}/birdsong_syllables/annotations.csv"
suite = "syllables"
protocol = "frames"
only = "koumura_bird0/*"
skip = ["koumura_bird0/032.flac", "koumura_bird0/067.flac"]

[tasks.bf2]
data = "{shared}/birdsong_syllables/annotations.csv"
suite = "syllables"
protocol = "frames"
only = "katahira_bf2/*"
without = ["0", "@", "\\t"]
"""


def birdjepa(*arguments: str) -> str:
    """Output of a birdjepa command; its progress goes to the terminal."""
    command = [sys.executable, "-c", "import sys; from birdjepa.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="exported encoder")
    parser.add_argument("--out", type=Path, help="where results and features go; a temporary folder by default")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.toml").write_text(TASKS.format(shared=options.shared.resolve()))
    rows = []
    for tasks, classifiers, shots in GRIDS:
        for task in tasks:
            lines = birdjepa(
                *("benchmark", "--config", str(out / "bench.toml"), "--encoder", str(options.encoder), "--json"),
                *("--results", str(out / "results.sqlite"), "--cache", str(out / "features")),
                *("--task", task, "--model", *MODELS, "--classifier", *classifiers, "--n-train", *shots),
            )
            found = [json.loads(line) for line in lines.splitlines()]
            for classifier in classifiers:
                for n_train in shots:
                    rows.append(_row(found, task, classifier, n_train))
    notes = [
        f"encoder: {options.encoder}; models in columns: it, the same architecture at random, log-mel statistics",
        "ESC-10 and birds: accuracy (higher is better); bird0 and bf2: macro frame error at 1 ms (lower is better)",
        "95 % intervals over recordings; one seed",
    ]
    common.record("The benchmark on real recordings", rows, notes, options)
    print(birdjepa("report", str(out / "results.sqlite"), "--out", str(out / "report")))


def _row(found: list[dict], task: str, classifier: str, n_train: str) -> dict[str, object]:
    """One line of the table: what each model reached."""
    row: dict[str, object] = {"task": task, "classifier": classifier, "n_train": n_train}
    for model in MODELS:
        asked = (model, classifier, None if n_train == "all" else int(n_train))
        (line,) = [each for each in found if (each["model"], each["classifier"], each["n_train"]) == asked]
        metric = "macro_frame_error" if task in ("bird0", "bf2") else "accuracy"
        row[model] = _interval(line["metrics"][metric]) if line["metrics"] else f"{line['status']}: {line['reason']}"
    return row


def _interval(estimate: dict) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


if __name__ == "__main__":
    main()
