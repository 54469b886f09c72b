"""Miniatures of the benchmark's data sets with recordings that a classifier can tell apart, and a tiny encoder."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import soundfile
from tiny_sets import RATE, write_tar

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark.tasks import Task
from birdjepa.data.catalog import CATALOG
from birdjepa.data.catalog.beans import SETS
from birdjepa.data.catalog.birdset_tasks import TASKS as BIRDSET
from birdjepa.data.catalog.birdsong_recognition import BIRDS
from birdjepa.data.catalog.events import Event, write_events
from birdjepa.models.encoder import EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig

HERTZ = (400.0, 1000.0, 2200.0)
"""Of the tones that stand for classes."""


def tone(which: int, seconds: float = 0.6, seed: int = 0, form: str = "WAV") -> bytes:
    """A class's tone in a little noise."""
    time = np.arange(round(RATE * seconds)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    wave = 0.3 * np.sin(2 * np.pi * HERTZ[which % len(HERTZ)] * time) + 0.01 * noise
    boxed = io.BytesIO()
    with soundfile.SoundFile(boxed, "w", RATE, 1, format=form, subtype="VORBIS" if form == "OGG" else None) as file:
        for start in range(0, len(wave), 8_000):
            file.write(wave[start : start + 8_000])
    return boxed.getvalue()


def pow_hub(root: Path) -> Path:
    """POW as its makers put it on the Hub, small: its metadata are as long as published, but recordings are there only
    of 12 focal ones of three species and of 9 clips of 3 soundscapes.
    """
    task = next(each for each in BIRDSET if each.name == "POW")
    species = task.classes[:3]
    train = [(f"XC{number}.ogg", number % 3) for number in range(12)]
    clips = [
        (f"POW_{site:03d}_20200501_050000_{start}_{start + 5}.ogg", start // 5)
        for site in range(3)
        for start in (0, 5, 10)
    ]
    cells = [
        {
            "filepath": name,
            "ebird_code": species[which],
            "ebird_code_multilabel": [species[which]],
            "detected_events": [[0.1, 0.3], [0.35, 0.5]],
        }
        for name, which in train
    ]
    tested = [
        {"filepath": name, "ebird_code_multilabel": [] if which == 2 and "_002_" in name else [species[which]]}
        for name, which in clips
    ]
    cells += [{**cells[0], "filepath": f"XC{number}.ogg"} for number in range(len(cells), task.n_train)]
    tested += [{**tested[0], "filepath": f"POW_9_{n}_{n + 5}.ogg"} for n in range(len(tested), task.n_test_5s)]
    for split, rows in (("train", cells), ("test_5s", tested)):
        (root / "POW").mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), root / f"POW/POW_metadata_{split}.parquet")
    sounds = {name: tone(which, seed=number, form="OGG") for number, (name, which) in enumerate([*train, *clips])}
    shards = task.archives("train")
    for number, shard in enumerate(shards):
        own = [name for place, (name, _) in enumerate(train) if place % len(shards) == number]
        write_tar(root / "POW" / shard, {name: sounds[name] for name in own})
    write_tar(root / "POW" / task.archives("test_5s")[0], {name: sounds[name] for name, _ in clips})
    return root


def write_manifest(root: Path, name: str, rows: list[dict[str, str]]) -> Path:
    """ROOT/NAME.csv."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=header, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return root / f"{name}.csv"


def prepared(root: Path, task: Task) -> None:
    """A small manifest of each data set of a task, as `birdjepa data prepare` would write it."""
    for name in task.datasets:
        if task.protocol == "frames":
            write_manifest(root, name, _notes(root))
            continue
        classes = _classes(name)
        test = "test_5s" if task.suite in ("birdset", "birb-style") else "test"
        rows = []
        for number in range(24):
            which = number % min(3, len(classes))
            path = root / "audio" / f"{which}-{number}.wav"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tone(which, seed=number))
            row = {
                "path": f"audio/{path.name}",
                "label": classes[which],
                "split": "train" if number < 12 else "valid" if number < 15 else test,
                "group": f"g{number}",
                "fold": str(number % 5 + 1),
                "duration_s": "0.6",
            }
            of = next((each for each in SETS if name == f"beans-{each.name}"), None)
            if of is not None and of.hop_s is not None:  # one window
                row["duration_s"] = str(of.clip_s - of.hop_s / 2)
                row |= {
                    "label": "",
                    "labels": classes[which],
                    "events": write_events([Event(0.1, 0.5, classes[which])]),
                }
            rows.append(row)
        write_manifest(root, name, rows)


def _notes(root: Path) -> list[dict[str, str]]:
    """Songs of three notes, silence between them, by every bird."""
    rows = []
    for number in range(6):
        wave = np.zeros(round(1.2 * RATE), dtype=np.float32)
        for note in range(3):
            time = np.arange(round(0.2 * RATE)) / RATE
            first = round((0.1 + 0.35 * note) * RATE)
            wave[first : first + len(time)] = 0.3 * np.sin(2 * np.pi * HERTZ[note] * time)
        wave += 0.001 * np.random.default_rng(number).standard_normal(len(wave)).astype(np.float32)
        for bird in BIRDS:
            path = root / bird / "Wave" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE)
            about = {"path": f"{bird}/Wave/{number}.wav", "split": "all"}
            rows += [
                {**about, "onset_s": f"{0.1 + 0.35 * n:.2f}", "offset_s": f"{0.3 + 0.35 * n:.2f}", "label": "abc"[n]}
                for n in range(3)
            ]
    return rows


def _classes(dataset: str) -> tuple[str, ...]:
    for task in BIRDSET:
        if dataset == f"birdset-{task.name.lower()}":
            return task.classes
    for of in SETS:
        if dataset == f"beans-{of.name}":
            return of.classes
    assert dataset in CATALOG
    return ("one", "three", "two")


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """An encoder of random weights for 8 kHz."""
    config = EncoderConfig(
        front_end=LogMelConfig(sampling_rate=RATE, window=200, hop=80, n_mels=16, f_max=4_000.0),
        patch=PatchConfig(frames=8, mels=8),
        vit=VitConfig(size="16x2x2"),
        clips=ClipConfig(clip_s=0.5, hop_s=0.5),
        pooling="mean",
    )
    config.build().initialise(seed).save(folder, card="tiny\n", provenance={})
    assert json.loads((folder / "config.json").read_text())["model_type"] == "birdjepa-encoder"
    return folder
