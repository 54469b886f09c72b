"""Reading: the same clips wherever it starts, in order, whatever the readers; errors end one row only."""

import contextlib
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from birdjepa.audio.clips import ClipConfig, cut
from birdjepa.audio.decode import resample
from birdjepa.core.errors import AudioError, LabelError
from birdjepa.embed.embedders import geometry_of
from birdjepa.embed.reading import Piece, ReadConfig, Request, Stretch, read_ahead, read_stretch
from birdjepa.embed.segments import Geometry
from birdjepa.models.encoder import Encoder

GEOMETRY = Geometry(
    sampling_rate=16_000, clips=ClipConfig(clip_s=1.0, hop_s=1.0), min_samples=2800, token_hop=2560, trim=False
)


def whole(row: int, path: Path, first: int = 0, n_pieces: int = 4) -> Request:
    return Request(row, str(path), 0.0, math.nan, first, n_pieces)


def read_row(geometry: Geometry, request: Request) -> list[Piece]:
    pieces: list[Piece] = []
    while True:
        stretch = read_stretch(geometry, request._replace(first=len(pieces)))
        pieces += stretch.pieces
        if stretch.ended:
            return pieces


@settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n_samples=st.integers(1, 50_000) | st.sampled_from([8_000, 16_000, 8_001, 7_999, 24_000, 22_640, 22_641]),
    hop_s=st.sampled_from([1.0, 0.5, 0.3]),
    n_pieces=st.integers(1, 5),
)
def test_stretches_are_the_clips_of_cut(n_samples: int, hop_s: float, n_pieces: int, tmp_path: Path) -> None:
    clips = ClipConfig(clip_s=1.0, hop_s=hop_s)
    geometry = Geometry(sampling_rate=16_000, clips=clips, min_samples=2800, token_hop=2560, trim=False)
    samples = (np.random.default_rng(0).integers(-3000, 3000, n_samples) / 32768).astype(np.float32)
    path = tmp_path / "one.wav"
    soundfile.write(path, samples, 8_000, subtype="PCM_16")
    pieces = read_row(geometry, whole(0, path, n_pieces=n_pieces))
    expected = list(cut([samples], 8_000, clips, least_s=geometry.least_s))
    assert [piece.start_s for piece in pieces] == [start / 8_000 for start, _ in expected]
    assert [piece.end_s for piece in pieces] == [(start + len(clip)) / 8_000 for start, clip in expected]
    for piece, (_, clip) in zip(pieces, expected, strict=True):
        np.testing.assert_array_equal(piece.samples, resample(clip, 8_000, 16_000))


def test_hour_seven_is_cut_and_embedded_as_alone(encoder: Encoder, tmp_path: Path) -> None:
    """A sparse 16-bit WAV of more than seven hours, silent but for one clip."""
    rate, clip_index = 8_000, 7 * 3600 + 11
    samples = (0.1 * np.random.default_rng(1).standard_normal(rate)).astype(np.float32)
    n_total = (clip_index + 2) * rate + 777
    path = tmp_path / "night.wav"
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + 2 * n_total) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16) + b"data" + struct.pack("<I", 2 * n_total))
        file.seek(44 + 2 * clip_index * rate)
        file.write((samples * 32768).astype("<i2").tobytes())
        file.truncate(44 + 2 * n_total)
    heard = ((samples * 32768).astype(np.int16) / 32768).astype(np.float32)
    geometry = geometry_of(encoder.config)
    stretch = read_stretch(geometry, whole(0, path, first=clip_index - 1))
    assert stretch.ended
    assert [piece.start_s for piece in stretch.pieces] == [clip_index - 1.0, clip_index, clip_index + 1.0]
    piece = stretch.pieces[1]
    alone = encoder.embed(heard, sampling_rate=rate).embedding
    np.testing.assert_array_equal(piece.samples, resample(heard, rate, 16_000)[: len(piece.samples)])
    np.testing.assert_allclose(encoder.pooled(torch.from_numpy(piece.samples[None])), alone, atol=1e-5)


def test_a_stretch_is_no_longer_than_asked_for(write: Callable[..., Path]) -> None:
    stretch = read_stretch(GEOMETRY, whole(0, write("long.flac", 30.0), n_pieces=3))
    assert len(stretch.pieces) == 3
    assert not stretch.ended


@pytest.mark.parametrize("isolate", [False, True])
def test_rows_come_in_order_and_errors_end_their_row_only(write: Callable[..., Path], isolate: bool) -> None:
    paths = [write(f"{index}.wav", 0.7 + 3.1 * (index % 2), seed=index) for index in range(6)]
    paths.insert(2, paths[0].with_name("absent.wav"))
    requests = [whole(row, path, n_pieces=2) for row, path in enumerate(paths)]
    config = ReadConfig(n_readers=2, isolate=isolate)
    got = []
    with contextlib.closing(read_ahead(requests, GEOMETRY, config, clips_ahead=3)) as stretches:
        for request, result in stretches:
            if isinstance(result, Stretch):
                got += [(request.row, piece.start_s) for piece in result.pieces]
            else:
                assert isinstance(result, AudioError)
                got.append((request.row, result.reason.split(":")[0]))
    lengths = {row: (1 if row in (0, 3, 5) else 4) for row in (0, 1, 3, 4, 5, 6)}
    expected = [(row, float(i)) for row in range(7) if row != 2 for i in range(lengths[row])]
    assert [entry for entry in got if entry[0] != 2] == expected
    assert [entry for entry in got if entry[0] == 2] == [(2, "missing")]


def test_a_segment_is_read_in_context_inside_the_recording(write: Callable[..., Path]) -> None:
    path = write("song.wav", 3.0, 8_000)
    samples, _ = soundfile.read(path, dtype="float32")
    for onset_s, offset_s in ((0.0, 0.05), (1.4, 1.5), (2.95, 3.0)):
        stretch = read_stretch(GEOMETRY, Request(0, str(path), onset_s, offset_s, 0, 4))
        [piece] = stretch.pieces
        assert stretch.ended
        assert len(piece.samples) == GEOMETRY.context
        start = round((onset_s - piece.inside_s[0]) * 8_000)
        np.testing.assert_array_equal(
            piece.samples, resample(samples[start : start + 7800], 8_000, 16_000, GEOMETRY.context)
        )
        assert math.isclose(piece.inside_s[1] - piece.inside_s[0], offset_s - onset_s)


def test_a_segment_over_the_end_is_cut_there_and_one_behind_it_refused(write: Callable[..., Path]) -> None:
    path = write("song.wav", 3.0)
    [piece] = read_stretch(GEOMETRY, Request(0, str(path), 2.8, 9.0, 0, 4)).pieces
    assert (piece.start_s, piece.end_s) == (2.8, 3.0)
    with pytest.raises(LabelError, match="behind the recording's end"):
        read_stretch(GEOMETRY, Request(0, str(path), 3.0, 3.5, 0, 4))


def test_config_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="n_readers"):
        ReadConfig(n_readers=0)
    with pytest.raises(ValueError, match="timeout_s"):
        ReadConfig(timeout_s=0.0)
