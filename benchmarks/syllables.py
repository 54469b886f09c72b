"""What fine time patches are for: Bengalese finch syllables, frame by frame, with patches of several shapes.

Pretrains one tiny encoder per patch geometry (frames x mel bands at a hop of 5 ms) without labels: on Koumura's songs
of split train, which are not tested, two great tits, and recordings of many species. Then the patch columns of each,
of its random twin, and log-mel frames of equal length are evaluated on Koumura's other songs, and on those of
Katahira's bird, which pretraining did not hear. Runs and scores of --out are kept: the same command goes on where it
was stopped.

    python benchmarks/syllables.py --out /tmp/syllables --no-record
"""

import argparse
import csv
import dataclasses
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import common
import numpy as np

from birdjepa.audio.labels import read_recordings
from birdjepa.audio.logmel import fine
from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.evaluate_frames import FrameScore, FrameTask, compare_frames, evaluate_frames, pool_seeds
from birdjepa.benchmark.folds import Folds
from birdjepa.benchmark.frame_embedders import EncoderFrames, FrameEmbedder, LogMelFrames
from birdjepa.benchmark.frame_probe import FrameProbe
from birdjepa.benchmark.frames import FrameSequence, Song
from birdjepa.benchmark.songs import embed_songs, songs_of
from birdjepa.core import files
from birdjepa.embed.embedders import random_twin
from birdjepa.models.loading import load

NOISY = ("032.flac", "067.flac")
"""Loud sounds in these that nobody annotated."""
PROBE = FrameProbe(most_frames=10_000)
COLUMNS = (
    *("frame_error", "macro_frame_error", "parsing_error", "identity_error"),
    *("segment_f1_5ms", "segment_f1_10ms", "segment_f1_20ms", "syllable_error_rate"),
    *("v_measure", "ari", "knn_purity"),
)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A patch of frames x mels, how many patches are hidden together (160 ms for all), and a clip of 128 tokens."""

    frames: int
    mels: int
    block: tuple[int, int]
    clip_s: float = 1.31
    """256 frames of 5 ms and a window; patches that are finer and no higher have shorter clips for as many tokens."""

    @property
    def name(self) -> str:
        return f"{self.frames}x{self.mels}"


GEOMETRIES = {
    geometry.name: geometry
    for geometry in (
        Geometry(16, 16, (2, 2)),
        Geometry(8, 32, (4, 1)),
        Geometry(4, 64, (8, 1)),
        Geometry(4, 32, (8, 1), clip_s=0.67),
        Geometry(2, 32, (16, 1), clip_s=0.35),
    )
}


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=["16x16", "8x32", "4x64", "4x32"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--objective", choices=["pixio", "ajepa"], default="pixio")
    parser.add_argument(
        "--few", nargs="*", type=int, default=[1, 5, 10], help="numbers of songs that teach, beside all"
    )
    parser.add_argument("--seeds", type=int, default=3, help="draws of the few songs that teach")
    parser.add_argument("--pretrain-only", action="store_true", help="stop before the evaluation")
    parser.add_argument(
        "--out", type=Path, help="where the runs go, and are found again; a temporary folder by default"
    )
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    for name in options.geometries:
        pretrain(GEOMETRIES[name], out / f"{options.objective}-{name}", options)
    if options.pretrain_only:
        return
    folder = options.shared / "birdsong_syllables"
    collections = read_collections(folder)
    models = choose_models(collections["choosing"], folder, out, options)
    for bird in ("koumura", "katahira"):
        songs, folds = collections[bird], thirds(len(collections[bird]))
        scores: dict[str, dict[int, FrameScore]] = {}
        for model in models:
            embedded: list[FrameSequence] = []
            per_number = {}
            for n_songs in (0, *options.few) if bird == "koumura" else (0,):
                task = FrameTask(n_train_songs=n_songs, probe=PROBE)
                seeds = range(options.seeds if n_songs else 1)
                stores = [out / "scores" / f"{bird}-{model.key}-{n_songs}-{seed}.pkl" for seed in seeds]
                for seed, store in zip(seeds, stores, strict=True):
                    if not store.exists():
                        embedded = embedded or embed_songs(model.embedder, folder, songs)
                        score = evaluate_frames(songs, embedded, folds, task, seed=seed)
                        files.write_bytes(store, pickle.dumps(score))
                        print(f"{store.stem}: {score.metrics['frame_error']}", flush=True)
                per_number[n_songs] = pool_seeds([pickle.loads(store.read_bytes()) for store in stores])
            scores[model.name] = per_number
        report(bird, scores, options)


@dataclasses.dataclass(frozen=True)
class Model:
    """Something to evaluate: its name in the tables, a name for files, and what embeds."""

    name: str
    key: str
    embedder: FrameEmbedder


def read_collections(folder: Path) -> dict[str, list[Song]]:
    """Koumura's songs that pretraining did not hear, all of Katahira's (a bird it did not hear), and a few songs that
    it did hear, on which layers and contexts are chosen."""
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if not row["path"].endswith(NOISY)]
    koumura = [row for row in rows if row["path"].startswith("koumura")]
    names = {
        "koumura": [row["path"] for row in koumura if row["split"] != "train"],
        "katahira": [row["path"] for row in rows if row["path"].startswith("katahira")],
        "choosing": [row["path"] for row in koumura if row["split"] == "train"][:9],
    }
    labels = read_recordings(folder / "annotations.csv")
    marks = {"koumura": (), "katahira": ("0", "@", "\t"), "choosing": ()}
    return {name: songs_of(labels, folder, paths, without=marks[name]) for name, paths in names.items()}


def choose_models(songs: Sequence[Song], folder: Path, out: Path, options: argparse.Namespace) -> list[Model]:
    """Floors and encoders, each with the context or the layer that errs least on songs that are not tested."""
    front_end = fine(5.0)
    models = [
        choose("log-mel, 5 ms", "logmel", {k: LogMelFrames(front_end, context=k) for k in (0, 4, 8)}, songs, folder)
    ]
    for name in options.geometries:
        frames = GEOMETRIES[name].frames
        patches = {k: LogMelFrames(front_end, frames=frames, context=k) for k in (0, 4)}
        if not any(model.key == f"logmel-{frames}" for model in models):
            models.append(choose(f"log-mel, {5 * frames} ms", f"logmel-{frames}", patches, songs, folder))
        trained = load(out / f"{options.objective}-{name}" / "encoder")
        for kind, encoder in (("random", random_twin(trained, 0)), (options.objective, trained)):
            layers = {layer + 1: EncoderFrames(encoder, layer=layer) for layer in range(encoder.config.n_layers)}
            models.append(choose(f"{name} {kind}", f"{name}-{kind}", layers, songs, folder))
    return models


def choose(name: str, key: str, candidates: Mapping[int, FrameEmbedder], songs: Sequence[Song], folder: Path) -> Model:
    """The candidate with the least frame error on every third song, taught by the others."""
    holdout = dataclasses.replace(thirds(len(songs)), tested=(0,))
    probe = FrameProbe(strengths=(1e-2,), windows_s=(0.0,), least_s=(0.0,), most_frames=5000)
    errors = {}
    for setting, embedder in candidates.items():
        embedded = embed_songs(embedder, folder, songs)
        score = evaluate_frames(songs, embedded, holdout, FrameTask(probe=probe, n_resamples=10), seed=0)
        errors[setting] = score.metrics["frame_error"].value
    best = min(errors, key=errors.__getitem__)
    what = "context" if isinstance(candidates[best], LogMelFrames) else "block"
    print(f"{name}: {what} {best} of {errors}", flush=True)
    return Model(f"{name} ({what} {best})", key, candidates[best])


def thirds(n_songs: int) -> Folds:
    return Folds(np.arange(n_songs) % 3, ("one", "two", "three"), (0, 1, 2), given=True)


def report(bird: str, scores: Mapping[str, Mapping[int, FrameScore]], options: argparse.Namespace) -> None:
    """Tables of one bird: everything with all songs, then errors by the number of songs that teach."""
    floor = next(iter(scores.values()))[0]
    rows = []
    for name, of_model in scores.items():
        score, difference = of_model[0], compare_frames(of_model[0], floor)
        rows.append(
            {
                "frames": name,
                "oracle": percent(score.metrics["oracle_frame_error"]),
                **{metric: percent(score.metrics[metric]) for metric in COLUMNS},
                "frame error minus first row": percent(difference["frame_error"]),
            }
        )
    n_train = len(floor.choices[0].songs)
    notes = [
        f"{floor.counts['n_songs']} songs, {floor.counts['n_segments']} syllables of {floor.counts['n_classes']} "
        f"kinds, 3 folds by song ({n_train} teach); per cent, intervals over songs; oracle: best label for each frame",
        f"encoders: {options.steps} steps of {options.batch} clips of {options.objective}, tiny, no labels; "
        "layers and contexts chosen on other songs; penalty and smoothing inside each training part",
        *dict.fromkeys(f"{name}: {note}" for name, of_model in scores.items() for note in of_model[0].notes),
    ]
    common.record(f"Syllables, {bird}: all songs teach", rows, notes, options)
    if len(next(iter(scores.values()))) == 1:
        return
    for metric in ("macro_frame_error", "syllable_error_rate"):
        few = [
            {"frames": name, **{f"{n or 'all'} songs": percent(score.metrics[metric]) for n, score in of_model.items()}}
            for name, of_model in scores.items()
        ]
        title = f"Syllables, {bird}: {metric} by songs that teach"
        common.record(title, few, [f"mean over {options.seeds} draws of songs, intervals over test songs"], options)


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def pretrain(geometry: Geometry, run: Path, options: argparse.Namespace) -> None:
    """Trains what is not yet trained, and goes on with what was stopped."""
    if (run / "encoder" / "config.json").exists():
        return
    if (run / "config.json").exists():
        birdjepa("pretrain", "--resume", str(run))
        return
    songs, birds = (options.shared / name for name in ("birdsong_syllables", "birds_species"))
    clip_s = str(geometry.clip_s)
    masks = ["--objective.block", *map(str, geometry.block)] if options.objective == "pixio" else []
    birdjepa(
        *("pretrain", options.objective, "--data", f"{songs / 'metadata.csv'}@5", str(birds / "metadata.csv")),
        *("--splits", "train", "pool", "--exclude", str(songs / "katahira_bf2"), "--out", str(run)),
        *("--front-end.window", "1024", "--front-end.hop", "160", "--front-end.f-min", "0"),
        *("--patch.frames", str(geometry.frames), "--patch.mels", str(geometry.mels), *masks),
        *("--loader.clip-s", clip_s, "--clips.clip-s", clip_s, "--clips.hop-s", clip_s),
        *("--loader.workers", "0", "--pooling", "mean", "--train.probe.enabled", "False"),
        *("--train.steps", str(options.steps), "--train.batch-size", str(options.batch), "--train.threads", "1"),
        *("--train.checkpoint-every", "50", "--report", "False"),
    )


def birdjepa(*arguments: str) -> None:
    command = [sys.executable, "-c", "import sys; from birdjepa.cli import main; sys.exit(main())", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
