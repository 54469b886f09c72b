"""Miniatures of public data sets in their own layouts, with real little recordings, and what holds for each of them."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import soundfile

from birdjepa.core.batch import ClipBatch
from birdjepa.data.catalog import CATALOG, Dataset
from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.sources import open_data

RATE = 8_000


def write_sound(path: Path) -> None:
    """A fifth of a second of noise, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix not in _SOUNDS:
        noise = np.random.default_rng(0).standard_normal(RATE // 5) * 0.1
        box = io.BytesIO()
        soundfile.write(box, noise, RATE, format=path.suffix[1:])
        _SOUNDS[path.suffix] = box.getvalue()
    path.write_bytes(_SOUNDS[path.suffix])


_SOUNDS: dict[str, bytes] = {}


def hear(manifest: Path) -> ClipBatch:
    """A batch of clips as training loads it; none of them refused."""
    data = open_data(str(manifest))
    assert [key for row, key in enumerate(data.keys) if not data.path(row).is_file()] == []
    config = LoaderConfig(clip_s=0.1, draw="recording", max_refused=0.0)
    batch = Clips([data], [1.0], config, sampling_rate=RATE, batch_size=4, seed=0).batch(0)
    assert batch.refused == ()
    assert batch.clips.shape == (4, RATE // 10)
    assert batch.labels.any(dim=1).all()
    return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Miniature:
    """A whole miniature of a data set, and files of it that a download may lack."""

    build: Callable[[Path], None]
    counts: Mapping[str, tuple[int, int]]
    """Rows and classes of each split."""
    recording: str
    """One that the set's lists name, of the first split."""
    listed: str
    """A list without which it is no download of the set; empty where it has none."""

    def dataset(self, name: str) -> Dataset:
        """The entry of the catalog with the counts of the miniature."""
        return with_counts(CATALOG[name], self.counts)


def with_counts(dataset: Dataset, counts: Mapping[str, tuple[int, int]]) -> Dataset:
    """An entry whose complete splits are as small as a miniature's."""
    splits = [dataclasses.replace(s, n_rows=counts[s.name][0], n_classes=counts[s.name][1]) for s in dataset.splits]
    return dataclasses.replace(dataset, splits=tuple(splits))


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def esc50(folder: Path) -> None:
    rows = []
    for number, (category, esc10) in enumerate([("dog", True), ("dog", True), ("rain", True), ("frog", False)]):
        name = f"{number + 1}-1000{number}-A-{number}.wav"
        write_sound(folder / "audio" / name)
        row = {"filename": name, "fold": number + 1, "target": number, "category": category, "esc10": esc10}
        rows.append({**row, "src_file": 1000 + number, "take": "A"})
    write_table(folder / "meta" / "esc50.csv", rows)


def fsdd(folder: Path) -> None:
    for digit in range(10):
        for take in range(50):
            write_sound(folder / "recordings" / f"{digit}_george_{take}.wav")


def speech_commands(folder: Path, words: tuple[str, ...]) -> None:
    """Three words of each, by three speakers, one of them in each list."""
    for word in words:
        for speaker in ("aaaa0001", "bbbb0002", "cccc0003"):
            write_sound(folder / word / f"{speaker}_nohash_0.wav")
    write_sound(folder / "_background_noise_" / "running_tap.wav")
    (folder / "validation_list.txt").write_text("".join(f"{word}/bbbb0002_nohash_0.wav\n" for word in words))
    (folder / "testing_list.txt").write_text("".join(f"{word}/cccc0003_nohash_0.wav\n" for word in words))


def speech_commands_v1(folder: Path) -> None:
    from birdjepa.data.catalog.speech_commands import WORDS_V1

    speech_commands(folder, WORDS_V1)


def speech_commands_v2(folder: Path) -> None:
    from birdjepa.data.catalog.speech_commands import WORDS_V2

    speech_commands(folder, WORDS_V2)


def voxceleb1(folder: Path) -> None:
    lines = []
    for speaker in ("id10001", "id10270"):
        for split, video in ((3, "-K1nFIaGRWA"), (1, "1zcIwhmdeo4"), (1, "7gWzIy6yIIk"), (2, "9mQ11vBs1wc")):
            write_sound(folder / "wav" / speaker / video / "00001.wav")
            lines.append(f"{split} {speaker}/{video}/00001.wav\n")
    (folder / "iden_split.txt").write_text("".join(lines))


def fsd50k(folder: Path) -> None:
    classes = {"Bark": "/m/05tny_", "Bark,Dog,Animal": "/m/05tny_,/m/0bt9lr,/m/0jbk", "Rain": "/m/06mb1"}
    dev, evaluated = [], []
    for number, (labels, mids) in enumerate(classes.items()):
        for split in ("train", "val"):
            fname = 64000 + 2 * number + (split == "val")
            dev.append({"fname": fname, "labels": labels, "mids": mids, "split": split})
            write_sound(folder / "FSD50K.dev_audio" / f"{fname}.wav")
        evaluated.append({"fname": 37100 + number, "labels": labels, "mids": mids})
        write_sound(folder / "FSD50K.eval_audio" / f"{37100 + number}.wav")
    write_table(folder / "FSD50K.ground_truth" / "dev.csv", dev)
    write_table(folder / "FSD50K.ground_truth" / "eval.csv", evaluated)


MIDS = {"/m/09x0r": "Speech", "/m/05zppz": "Male speech, man speaking", "/t/dd00088": "Gush"}


def audioset_list(path: Path, segments: list[tuple[str, float, str]]) -> None:
    lines = ["# Segments csv created Sun Mar  5 10:54:31 2017"]
    lines += [f"# num_ytids={len(segments)}, num_segs={len(segments)}, num_unique_labels=3, num_positive_labels=9"]
    lines += ["# YTID, start_seconds, end_seconds, positive_labels"]
    lines += [f'{video}, {start:.3f}, {start + 10:.3f}, "{mids}"' for video, start, mids in segments]
    path.write_text("\n".join([*lines, ""]))


def audioset(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_table(
        folder / "class_labels_indices.csv",
        [{"index": i, "mid": mid, "display_name": name} for i, (mid, name) in enumerate(MIDS.items())],
    )
    two = "/m/09x0r,/m/05zppz"
    audioset_list(folder / "balanced_train_segments.csv", [("--PJHxphWEs", 30, two), ("Y_aE2O5G5WE", 0, "/t/dd00088")])
    audioset_list(folder / "unbalanced_train_segments.csv", [("---1_cCGK4M", 0, "/m/09x0r"), ("0123456789a", 5, two)])
    audioset_list(folder / "eval_segments.csv", [("-0RWZT-miFs", 420, two), ("zzzz_zzzz-Z", 12.5, "/t/dd00088")])
    write_sound(folder / "audio" / "balanced_train_segments" / "--PJHxphWEs.wav")
    write_sound(folder / "audio" / "balanced_train_segments" / "YY_aE2O5G5WE.wav")
    write_sound(folder / "audio" / "unbalanced" / "part00" / "---1_cCGK4M_0_10000.flac")
    write_sound(folder / "audio" / "unbalanced" / "part01" / "0123456789a_5.000.flac")
    write_sound(folder / "audio" / "eval" / "Y-0RWZT-miFs.flac")
    write_sound(folder / "zzzz_zzzz-Z.wav")
    for other in ("of no video.wav", "elevenchars.wav", "more/elevenchars.wav"):
        write_sound(folder / "audio" / "eval" / other)


def librispeech(folder: Path, parts: tuple[str, ...] = ()) -> None:
    from birdjepa.data.catalog.librispeech import PARTS

    for number, part in enumerate(parts or PARTS):
        for speaker in (str(100 + number), str(200 + number)):
            where = folder / part / speaker / "1240"
            names = [f"{speaker}-1240-{utterance:04d}" for utterance in range(2)]
            for name in names:
                write_sound(where / f"{name}.flac")
            (where / f"{speaker}-1240.trans.txt").write_text("".join(f"{name} WHAT, IT'S SAID\n" for name in names))
    (folder / "SPEAKERS.TXT").write_text("; not read\n")


def librilight(folder: Path) -> None:
    for part in ("small", "medium", "large"):
        for speaker in ("960", "1182"):
            path = folder / part / speaker / "history_holland_librivox_64kb_mp3" / "holland_01_edmundson_64kb.flac"
            write_sound(path)
            book = {"id": "319", "title": "History of Holland", "meta_genre": "Literature"}
            described = {
                "speaker": speaker,
                "book_meta": book,
                "snr": 5.391,
                "voice_activity": [[0.0, 0.05], [0.1, 0.2]],
            }
            path.with_suffix(".json").write_text(json.dumps(described))


SPECIES = (("Turdus merula", "Common Blackbird"), ("Hyla arborea", "European Tree Frog"))


def inatsounds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    categories = [
        {"id": i, "name": name, "common_name": common, "supercategory": "Aves", "audio_dir_name": f"0000{i}_Animalia"}
        for i, (name, common) in enumerate(SPECIES)
    ]
    for split in ("train", "val", "test"):
        audio, annotations = [], []
        for number in range(4):
            name = f"{split}/0000{number % 2}_Animalia/{split}-{number}.wav"
            write_sound(folder / name)
            place = {"latitude": 10.5, "longitude": -71.25, "location_uncertainty": None, "date": "2020-05-01"}
            audio.append({"id": 10 + number, "duration": 0.2, "file_name": name, "license": 1, **place})
            annotations.append({"id": number, "audio_id": 10 + number, "category_id": number % 2})
        found = {"info": {}, "audio": audio, "categories": categories, "annotations": annotations, "licenses": []}
        (folder / f"{split}.json").write_text(json.dumps(found))


def birdsong_recognition(folder: Path) -> None:
    """Three songs of one bird, a note each."""
    sequences = ""
    for song in range(3):
        write_sound(folder / "Bird0" / "Wave" / f"{song}.wav")
        note = f"<Note><Position>160</Position><Length>320</Length><Label>{song % 2}</Label></Note>"
        wave = f"<WaveFileName>{song}.wav</WaveFileName>"
        sequences += f"<Sequence>{wave}<Position>320</Position>{note}</Sequence>"
    (folder / "Bird0" / "Annotation.xml").write_text(f"<Sequences>{sequences}</Sequences>")


def _three(rows: int, classes: int) -> dict[str, tuple[int, int]]:
    return dict.fromkeys(("train", "val", "test"), (rows, classes))


MINIATURES: dict[str, Miniature] = {
    "esc50": Miniature(build=esc50, counts={"all": (4, 3)}, recording="audio/1-10000-A-0.wav", listed="meta/esc50.csv"),
    "esc10": Miniature(build=esc50, counts={"all": (3, 2)}, recording="audio/1-10000-A-0.wav", listed="meta/esc50.csv"),
    "fsdd": Miniature(
        build=fsdd, counts={"train": (450, 10), "test": (50, 10)}, recording="recordings/3_george_7.wav", listed=""
    ),
    "speech-commands-v1": Miniature(
        build=speech_commands_v1,
        counts=_three(30, 30),
        recording="yes/bbbb0002_nohash_0.wav",
        listed="testing_list.txt",
    ),
    "speech-commands-v2": Miniature(
        build=speech_commands_v2,
        counts=_three(35, 35),
        recording="visual/cccc0003_nohash_0.wav",
        listed="validation_list.txt",
    ),
    "voxceleb1": Miniature(
        build=voxceleb1,
        counts={"train": (4, 2), "val": (2, 2), "test": (2, 2)},
        recording="wav/id10270/1zcIwhmdeo4/00001.wav",
        listed="iden_split.txt",
    ),
    "fsd50k": Miniature(
        build=fsd50k,
        counts=_three(3, 4),
        recording="FSD50K.dev_audio/64000.wav",
        listed="FSD50K.ground_truth/eval.csv",
    ),
    "audioset-20k": Miniature(
        build=audioset,
        counts={"train": (2, 3), "test": (2, 3)},
        recording="audio/balanced_train_segments/--PJHxphWEs.wav",
        listed="balanced_train_segments.csv",
    ),
    "audioset-2m": Miniature(
        build=audioset,
        counts={"train": (4, 3), "test": (2, 3)},
        recording="audio/unbalanced/part01/0123456789a_5.000.flac",
        listed="class_labels_indices.csv",
    ),
    "librispeech": Miniature(
        build=librispeech,
        counts=dict.fromkeys([split.name for split in CATALOG["librispeech"].splits], (4, 2)),
        recording="train-clean-100/100/1240/100-1240-0001.flac",
        listed="train-clean-100/100/1240/100-1240.trans.txt",
    ),
    "librilight": Miniature(
        build=librilight,
        counts=dict.fromkeys(("small", "medium", "large"), (2, 2)),
        recording="small/960/history_holland_librivox_64kb_mp3/holland_01_edmundson_64kb.flac",
        listed="small/960/history_holland_librivox_64kb_mp3/holland_01_edmundson_64kb.json",
    ),
    "birdsong-recognition": Miniature(
        build=birdsong_recognition,
        counts={"all": (3, 2)},
        recording="Bird0/Wave/0.wav",
        listed="Bird0/Annotation.xml",
    ),
    "inatsounds": Miniature(
        build=inatsounds,
        counts=_three(4, 2),
        recording="train/00000_Animalia/train-0.wav",
        listed="train.json",
    ),
}
