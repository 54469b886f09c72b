"""Multi-label metrics: cmAP against torchmetrics and scikit-learn, and intervals by recording of a big test set.

python benchmarks/metrics.py [--repeats 3 --resamples 10000 --threads N] [--no-record]
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable

import common
import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.classification import MultilabelAveragePrecision

from birdjepa.benchmark.multilabel import mean_average_precision, resample_metrics

SEGMENTS, CLASSES, RECORDINGS = 205_200, 96, 285
"""BirdSet's SSW: 5 s segments of hour-long recordings."""


def drawn(n: int, n_classes: int, positive: float) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores in (0, 1); a share `positive` of all cells, some classes commoner by far than others."""
    generator = np.random.default_rng(0)
    rate = np.exp(1.2 * generator.normal(size=n_classes))
    truth = generator.random((n, n_classes), dtype=np.float32) < positive * rate / rate.mean()
    scores = generator.normal(size=(n, n_classes)).astype(np.float32) + 1.5 * truth
    return truth.astype(np.int64), 1 / (1 + np.exp(-scores, dtype=np.float32))


def ways(truth: np.ndarray, scores: np.ndarray) -> dict[str, Callable[[], float]]:
    """cmAP three times, each given what it takes best."""
    table, labels = torch.from_numpy(scores), torch.from_numpy(truth)
    metric = MultilabelAveragePrecision(truth.shape[1], average="macro", thresholds=None, validate_args=False)
    return {
        "torchmetrics": lambda: float(metric(table, labels)),
        "scikit-learn": lambda: float(average_precision_score(truth, scores, average="macro")),
        "birdjepa": lambda: float(mean_average_precision(truth, scores)),
    }


def cmap(options: argparse.Namespace) -> None:
    calls = ways(*drawn(100_000, 400, 0.01))
    values = {name: call() for name, call in calls.items()}
    times = common.interleave(calls, options.repeats, warm_up=0)
    rows = [
        {
            "way": name,
            "median s": time.median,
            "fastest s": time.minimum,
            "times faster (median)": times["torchmetrics"].median / time.median,
            "off by": abs(values[name] - values["birdjepa"]),
        }
        for name, time in times.items()
    ]
    notes = [
        f"100,000 examples, 400 classes, 1 % of cells positive, float32, {options.repeats} repeats in turns.",
        "Goal: 5 times faster than torchmetrics.",
    ]
    common.record("cmAP of 100,000 x 400", rows, notes, options)


def intervals(options: argparse.Namespace) -> None:
    truth, scores = drawn(SEGMENTS, CLASSES, 0.005)
    groups = [f"{row * RECORDINGS // SEGMENTS:03d}" for row in range(SEGMENTS)]
    start, cpu = time.perf_counter(), time.process_time()
    found = resample_metrics(scores, truth, groups, n_resamples=options.resamples, seed=0)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    rows = [
        {
            "resamples": options.resamples,
            "s": seconds,
            "CPU s": cpu_seconds,
            "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "cmAP": str(found["cmap"].estimate()),
            "AUROC": str(found["auroc"].estimate()),
            "top-1": str(found["top1"].estimate()),
        }
    ]
    notes = [
        f"{SEGMENTS:,} examples of {RECORDINGS} recordings, {CLASSES} classes, {truth.sum():,} labels; all metrics of "
        "`birdjepa.benchmark.multilabel` at once. The peak is that of the whole process.",
        "Goal: minutes on 2 cores.",
    ]
    common.record("Intervals by recording of SSW-sized scores", rows, notes, options)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    cmap(options)
    intervals(options)


def parse() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
