"""Runs small enough for tests, of pretraining and of fine-tuning: tones in noise, a nano encoder, quick steps."""

import contextlib
import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.checkpoint import store
from birdjepa.core import config as configs
from birdjepa.core import random
from birdjepa.data.loader import LoaderConfig
from birdjepa.data.manifest import ColumnConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.projector import ProjectorConfig
from birdjepa.models.vit import VitConfig
from birdjepa.nn.sigreg import SigregConfig
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.views import ViewsConfig
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.finetune_config import FinetuneConfig, for_encoder
from birdjepa.train.config import MonitorConfig, TrainConfig

torch.set_num_threads(1)  # what is this small only waits for its threads

RATE = 8_000
COMMAND = [sys.executable, "-c", "import sys; from birdjepa.cli import main; sys.exit(main())"]
"""The command line in a process of its own, wherever the script was installed."""


@contextlib.contextmanager
def running(command: list[str], *, stdout: int | None = None, env: dict[str, str] | None = None) -> Iterator[Any]:
    """A command in a process group of its own, which is ended with the block."""
    child = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def write_songs(folder: Path, n: int = 8, *, damaged: int = 0) -> Path:
    """n recordings of tones in noise between 0.7 and 2.4 s, of two labels, and some that no decoder takes. Returns the
    manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(n + damaged):
        rng = random.generator(7, "song", number)
        time_s = np.arange(round(RATE * rng.uniform(0.7, 2.4))) / RATE
        label = ("low", "high")[number % 2]
        tone = np.sin(2 * np.pi * (500 if label == "low" else 2000) * time_s) * 0.3
        name = f"{number:03d}.wav"
        soundfile.write(folder / name, tone + 0.05 * rng.standard_normal(len(time_s)), RATE)
        if number >= n:
            (folder / name).write_bytes(b"<html>not found</html>")
        rows.append({"path": name, "label": label})
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["path", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "metadata.csv"


def tiny(data: Path, out: Path, *, workers: int = 0, **train: Any) -> PretrainConfig:
    """A whole configuration; train takes fields of TrainConfig."""
    settings = {
        "steps": 4,
        "batch_size": 4,
        "accumulate": 2,
        "ema_decay": 0.9,
        "checkpoint_every": 2,
        "log_every": 1,
        "threads": 1,
        "monitor": MonitorConfig(every=2, bank=16),
    }
    return PretrainConfig(
        data=(str(data),),
        out=out,
        seed=3,
        loader=LoaderConfig(clip_s=0.9, workers=workers),
        front_end=LogMelConfig(sampling_rate=RATE, window=256, hop=80, n_mels=32, f_min=0.0, f_max=4_000.0),
        patch=PatchConfig(frames=8, mels=16),
        encoder=VitConfig(size="nano", n_registers=1, drop_path=0.3),
        clips=ClipConfig(clip_s=1.0, hop_s=1.0),
        objective=LejepaConfig(
            views=ViewsConfig(global_s=0.48, local_s=0.24, augment=AugmentConfig(mask_mels=6, tilt_db=2.0)),
            projector=ProjectorConfig(hidden=32, width=8),
            sigreg=SigregConfig(n_slices=16),
        ),
        train=TrainConfig(**{**settings, **train}),
        report=False,
    )


def write_config(config: PretrainConfig, path: Path) -> Path:
    """The configuration as a file for --config."""
    path.write_text(json.dumps(configs.to_json(config)))
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics, without the times, which no two runs share."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = ("clips_per_s", "step_s", "data_wait")
    return [{name: value for name, value in row.items() if name not in times} for row in rows]


def final_state(run: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Every tensor of the newest checkpoint as bytes, and what else it holds."""
    found = store.latest(run / "checkpoints", warn=print)
    assert found is not None
    return {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()}, found.meta


def differences(one: Path, other: Path) -> list[str]:
    """Names of all that differs between two runs: metrics, tensors, exported weights. Empty for equal ones."""
    (tensors, meta), (others, other_meta) = final_state(one), final_state(other)
    found = [name for name in sorted(tensors.keys() | others.keys()) if tensors.get(name) != others.get(name)]
    found += [] if meta == other_meta else ["meta"]
    found += [] if metrics(one) == metrics(other) else ["metrics.jsonl"]
    exported = [(run / "encoder" / "model.safetensors").read_bytes() for run in (one, other)]
    return found + ([] if exported[0] == exported[1] else ["encoder"])


def write_folds(folder: Path, n: int = 12, *, damaged: int = 0) -> Path:
    """The recordings of `write_songs` with folds a and b, splits train / val / test, and labels of which one has two.
    Returns the manifest.
    """
    songs = write_songs(folder, n, damaged=damaged)
    with songs.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["fold"] = "ab"[number // 2 % 2]
        row["split"] = ("train", "train", "val", "test")[number // 2 % 4]
        row["labels"] = "low;high" if number == 1 else row["label"]
    with (folder / "folds.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["path", "label", "fold", "split", "labels"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "folds.csv"


def write_encoder(folder: Path) -> Path:
    """An encoder folder as pretraining leaves it, of random weights."""
    config = tiny(Path("none"), folder).encoder_config()
    return config.build().initialise(5).save(folder, card="", provenance={})


def tiny_finetune(encoder: Path, data: Path, out: Path, **changes: Any) -> FinetuneConfig:
    """A whole fine-tuning configuration; changes are fields of FinetuneConfig or, behind them, of its TrainConfig."""
    settings: dict[str, Any] = {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "log_every": 1, "threads": 1}
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    train = {**settings, **{name: value for name, value in changes.items() if name in names}}
    default = for_encoder(encoder)
    made = dataclasses.replace(
        default,
        data=str(data),
        out=out,
        seed=3,
        columns=ColumnConfig(labels="none"),
        loader=dataclasses.replace(default.loader, clip_s=0.9, workers=0),
        evaluate_every=2,
        validation=0.25,
        train=dataclasses.replace(default.train, **train, monitor=MonitorConfig(every=2, bank=16, least_rank=0.0)),
    )
    return dataclasses.replace(made, **{name: value for name, value in changes.items() if name not in names})
