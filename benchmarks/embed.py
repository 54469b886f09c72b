"""Embedding a folder of files against the encoder's bare forward pass, in the same run: at least 0.8 for ViT-S.

Folders of WAV, FLAC and OGG (44.1 kHz mono, half of the clips in files of their own, half in long recordings) are
synthesised, then embedded end to end (decode, resample, mel, transformer, Parquet), in turns with `encoder.pooled` on
as many clips in memory.

    python benchmarks/embed.py [--quick] [--no-record]
"""

import tempfile
from pathlib import Path

import common
import numpy as np
import soundfile
import torch

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.data.sources import open_data
from birdjepa.embed.collection import EmbedConfig, embed_collection
from birdjepa.embed.embedders import geometry_of
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig

RATE = 44_100
BATCH = 16
CLIP_S = 5.0
SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS"}
N_CLIPS = {"tiny": 96, "small": 32}


def write(path: Path, duration_s: float, seed: int) -> None:
    """A noisy chirp; Vorbis takes small blocks only."""
    time_s = np.arange(round(duration_s * RATE)) / RATE
    rng = np.random.default_rng(seed)
    sound = 0.2 * np.sin(2 * np.pi * (2000 + 1500 * np.sin(3 * time_s)) * time_s) + 0.05 * rng.standard_normal(
        len(time_s)
    )
    suffix = path.suffix[1:]
    with soundfile.SoundFile(path, "w", RATE, 1, format=suffix.upper(), subtype=SUBTYPES[suffix]) as file:
        for start in range(0, len(sound), 8000):
            file.write(sound[start : start + 8000].astype(np.float32))


def synthesise(folder: Path, suffix: str, n_clips: int) -> None:
    """Half of the clips in files of their own, half in recordings of 8 clips."""
    folder.mkdir()
    for index in range(n_clips // 2):
        write(folder / f"short{index:03d}.{suffix}", CLIP_S, index)
    for index in range(n_clips // 2 // 8):
        write(folder / f"long{index:03d}.{suffix}", 8 * CLIP_S, 1000 + index)


def make_encoder(size: str) -> Encoder:
    config = EncoderConfig(
        front_end=LogMelConfig(),
        patch=PatchConfig(),
        vit=VitConfig(size=size),
        clips=ClipConfig(clip_s=CLIP_S, hop_s=CLIP_S),
        pooling="mean",
    )
    return config.build().initialise(0).requires_grad_(False).eval()


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    options = parser.parse_args()
    rows = []
    for size, n_clips in N_CLIPS.items():
        encoder = make_encoder(size)
        n_samples = geometry_of(encoder.config).seen(round(CLIP_S * encoder.sampling_rate))
        batches = 0.1 * torch.randn(n_clips // BATCH, BATCH, n_samples)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def bare(encoder: Encoder = encoder, batches: torch.Tensor = batches) -> None:
                for batch in batches:
                    encoder.pooled(batch)

            def end_to_end(suffix: str, folder: Path = folder, encoder: Encoder = encoder, n: int = n_clips) -> None:
                out = folder / f"{suffix}.parquet"
                out.unlink(missing_ok=True)
                config = EmbedConfig(batch_size=BATCH)
                summary = embed_collection(encoder, open_data(str(folder / suffix)), out, config, provenance={})
                assert summary.n_rows == n, summary

            for suffix in SUBTYPES:
                synthesise(folder / suffix, suffix, n_clips)
            ways = {"bare": bare, **{suffix: lambda suffix=suffix: end_to_end(suffix) for suffix in SUBTYPES}}
            times = common.interleave(ways, repeats=1 if options.quick else 3)
        for suffix in SUBTYPES:
            rows.append(
                {
                    "encoder": size,
                    "folder of": suffix,
                    "bare forward, clips/s": n_clips / times["bare"].median,
                    "end to end, clips/s": n_clips / times[suffix].median,
                    "ratio": times["bare"].median / times[suffix].median,
                }
            )
    notes = [
        f"{CLIP_S:g} s clips at 32 kHz, 248 patches of 16x16, batch {BATCH}, float32; files at 44.1 kHz, resampled.",
        "End to end: decode, resample, log-mel, transformer, parts and table on disk. Target for small: 0.8.",
    ]
    common.record("Embedding a folder against the bare forward pass", rows, notes, options)


if __name__ == "__main__":
    main()
