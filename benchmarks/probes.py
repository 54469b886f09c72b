"""Twenty linear heads on frozen features, trained side by side, against scikit-learn's, fitted one by one.

python benchmarks/probes.py [--examples 50000 --width 768 --classes 100 --measured 4 --threads 2] [--no-record]

Both choose one of 20 settings on the same validation examples and are scored on the same test examples: ours among
5 learning rates x 4 weight decays, scikit-learn's among 20 strengths of its penalty, one for all classes, by one
LogisticRegression per class and strength. scikit-learn is run on `--measured` of the classes, from common to rare, and
its time multiplied up; `--measured` equal to `--classes` runs the whole.
"""

import argparse
import time

import common
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from birdjepa.benchmark.classifiers import Features, LinearConfig, Rows, fit_and_score
from birdjepa.benchmark.multilabel import mean_average_precision

N_OTHER = 5_000
"""Validation examples, and again test examples."""
APART = 2.5
"""How many standard deviations the examples of a class lie from the others, along the best direction."""
STRENGTHS = np.logspace(-5, 1, 20)


def task(n: int, width: int, n_classes: int) -> tuple[np.ndarray, np.ndarray, Rows]:
    """Embeddings as models give them: few directions hold most of the variance, classes are rare, uneven and faint."""
    generator = np.random.default_rng(0)
    n_all = n + 2 * N_OTHER
    share = np.geomspace(0.1, 0.002, n_classes)
    truth = (generator.random((n_all, n_classes)) < share).astype(np.int64)
    spectrum = np.geomspace(1.0, 0.05, width).astype(np.float32)
    x = generator.normal(size=(n_all, width)).astype(np.float32) * spectrum
    directions = generator.normal(size=(n_classes, width)).astype(np.float32) * spectrum
    x += truth.astype(np.float32) @ directions * (APART / width**0.5)
    turn = np.linalg.qr(generator.normal(size=(width, width)).astype(np.float32))[0]
    x = x @ turn + generator.normal(size=width).astype(np.float32)
    return x, truth, Rows(*np.split(np.arange(n_all), [n, n + N_OTHER]))


def theirs(x: np.ndarray, truth: np.ndarray, rows: Rows, columns: np.ndarray) -> tuple[np.ndarray, float, float, bool]:
    """Test scores of the columns, the chosen strength, seconds, and whether each fit came to its end."""
    start = time.perf_counter()
    scaler = StandardScaler().fit(x[rows.train])
    train, validation, test = (scaler.transform(x[part]) for part in rows)
    scores = np.empty((2, len(STRENGTHS), N_OTHER, len(columns)))
    ended = True
    for i, strength in enumerate(STRENGTHS):
        for place, column in enumerate(columns):
            model = LogisticRegression(C=strength, max_iter=1000)
            model.fit(train, truth[rows.train, column])
            ended &= bool(model.n_iter_[0] < 1000)
            scores[:, i, :, place] = model.decision_function(validation), model.decision_function(test)
    chosen = np.argmax([mean_average_precision(truth[rows.validation][:, columns], each) for each in scores[0]])
    return scores[1, chosen], float(STRENGTHS[chosen]), time.perf_counter() - start, ended


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    x, truth, rows = task(options.examples, options.width, options.classes)
    config = LinearConfig()
    start = time.perf_counter()
    outcome = fit_and_score(
        config, Features(pooled=x), truth, rows, [str(row) for row in range(len(x))], kind="multi-label", seed=0
    )
    ours = time.perf_counter() - start
    print(f"ours: {ours:.0f} s, {outcome.chosen}", flush=True)
    columns = np.linspace(0, options.classes - 1, options.measured).round().astype(int)
    scores, strength, seconds, ended = theirs(x, truth, rows, columns)
    factor = options.classes / len(columns)
    tested = truth[rows.test]
    measured = {
        "scikit-learn, one by one": (factor * seconds, scores),
        "birdjepa, 20 heads at once": (ours, outcome.scores[:, columns]),
    }
    table = [
        {
            "way": name,
            "seconds": taken,
            "times faster": factor * seconds / taken,
            f"test cmAP ({len(columns)} classes)": float(mean_average_precision(tested[:, columns], said)),
        }
        for name, (taken, said) in measured.items()
    ]
    whole = float(mean_average_precision(tested, outcome.scores))
    how = "run whole" if factor == 1 else f"its {seconds:.0f} s on {len(columns)} classes times {factor:g}"
    notes = [
        f"{options.examples} x {options.width} features, {options.classes} classes, {N_OTHER} validation and as many "
        f"test examples, float32; scikit-learn: {how}{'' if ended else ', some fits ended at 1000 steps'}.",
        f"Ours over all classes: cmAP {whole:.4f}; chosen {outcome.chosen}. scikit-learn chose C = {strength:.2g}.",
        "Goals: at least 10 times faster, cmAP equal or better.",
    ]
    common.record("Linear probe: 20 heads at once", table, notes, options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--measured", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
