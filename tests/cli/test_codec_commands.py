"""`birdjepa tokenize`, `detokenize` and `codec`: every file accounted for, the same after any kill, exact lengths."""

import csv
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_tokenizer
from tiny_tokenizer import HOP, RATE, noise

import birdjepa
from birdjepa import cli
from birdjepa.audio.decode import resample
from birdjepa.codec import collection
from birdjepa.codec.collection import COLUMNS, detokenize, tokenize
from birdjepa.codec.container import read_codes, write_codes
from birdjepa.codec.folder import filling, place_of
from birdjepa.core.errors import Interrupted, UsageError
from birdjepa.data.sources import open_data

LENGTHS = {"a.wav": 1, "b/c.flac": HOP - 1, "b/c.wav": HOP, "d.wav": 10 * HOP + 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_tokenizer.write(tmp_path_factory.mktemp("codec") / "codec")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return tiny_tokenizer.write(tmp_path_factory.mktemp("other") / "codec", seed=1)


@pytest.fixture
def songs(tmp_path):
    """Recordings of odd lengths, in stereo and at another rate too."""
    for seed, (name, n_samples) in enumerate(LENGTHS.items()):
        path = tmp_path / "songs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(n_samples, seed=seed), RATE)
    stereo = np.stack([noise(4410, seed=8), noise(4410, seed=9)], 1)
    soundfile.write(tmp_path / "songs" / "stereo.wav", stereo, 44_100)
    return tmp_path / "songs"


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_there_and_back_through_the_command_line(folder, songs, tmp_path, capsys):
    tokens, wavs = tmp_path / "tokens", tmp_path / "wavs"
    assert run("tokenize", folder, songs, "--out", tokens) == 0
    assert capsys.readouterr().out.strip() == str(tokens)
    rows = rows_of(tokens / "tokens.csv")
    assert tuple(rows[0]) == COLUMNS
    codec = birdjepa.load_codec(folder)
    assert [row["path"] for row in rows] == sorted([*LENGTHS, "stereo.wav"])
    for row in rows:
        samples, rate = soundfile.read(songs / row["path"], dtype="float32", always_2d=True)
        codes = read_codes(tokens / row["codes"])
        np.testing.assert_array_equal(codes.packed, codec.encode(samples.mean(1), sampling_rate=rate).packed)
        assert (codes.source, codes.n_samples) == (row["path"], len(resample(samples[:, 0], rate, RATE)))
        assert (int(row["n_frames"]), int(row["n_samples"])) == (codes.n_frames, codes.n_samples)
        assert float(row["seconds"]) == pytest.approx(codes.n_samples / RATE, abs=1e-6)
    assert run("detokenize", folder, tokens, "--out", wavs) == 0
    there = set(wavs.rglob("*.wav"))
    assert {str(path.relative_to(wavs)) for path in there} == {
        "a.wav",
        "b/c.flac.wav",
        "b/c.wav",
        "d.wav",
        "stereo.wav",
    }
    for path in there:
        samples, rate = soundfile.read(path, dtype="int16")
        name = str(path.relative_to(wavs)).replace(".flac.wav", ".flac")
        sound = codec.decode(read_codes(tokens / f"{name}.bjt"))
        assert (rate, len(samples), soundfile.info(path).subtype) == (RATE, len(sound), "PCM_16")
        np.testing.assert_allclose(samples / 32768, sound, atol=0.51 / 32768)


@pytest.mark.parametrize(("kind", "suffix", "subtype"), [("wav-float", ".wav", "FLOAT"), ("flac", ".flac", "PCM_16")])
def test_other_formats_and_a_single_file(folder, songs, tmp_path, kind, suffix, subtype):
    run("tokenize", folder, songs, "--out", tmp_path / "tokens")
    token = tmp_path / "tokens" / "b" / "c.flac.bjt"
    assert run("detokenize", folder, token, "--out", tmp_path / "out", "--format", kind) == 0
    [made] = [path for path in (tmp_path / "out").iterdir() if path.suffix == suffix]
    assert made.name == ("c.flac" if kind == "flac" else "c.flac.wav")
    info = soundfile.info(made)
    assert (info.frames, info.subtype) == (HOP - 1, subtype)


def test_a_damaged_recording_costs_itself_only(folder, songs, tmp_path, capsys):
    (songs / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    (songs / "d.wav").write_bytes((songs / "d.wav").read_bytes()[:20])
    assert run("tokenize", folder, songs, "--out", tmp_path / "tokens") == 3
    assert "2 were refused" in capsys.readouterr().err
    refused = {row["path"]: row["stage"] for row in rows_of(tmp_path / "tokens" / "failures.csv")}
    assert refused == {"broken.wav": "decode", "d.wav": "decode"}
    assert len(rows_of(tmp_path / "tokens" / "tokens.csv")) == 4
    soundfile.write(songs / "d.wav", noise(HOP), RATE)
    (songs / "broken.wav").unlink()
    assert run("tokenize", folder, songs, "--out", tmp_path / "tokens") == 0
    assert not (tmp_path / "tokens" / "failures.csv").exists()


def test_a_killed_job_goes_on_and_ends_as_if_it_had_not_been(folder, songs, tmp_path, monkeypatch):
    codec, data = birdjepa.load_codec(folder), open_data(str(songs))
    whole = tokenize(codec, data, tmp_path / "whole")
    assert (whole.n_done, whole.n_resumed) == (5, 0)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="2 of 5 files are done"):
        tokenize(codec, data, tmp_path / "cut", stop=lambda: next(asked))
    (tmp_path / "cut" / "b" / ".c.wav.bjt.0123abcd.tmp").write_bytes(b"half")  # as SIGKILL leaves one
    made = []
    encode = codec.encode_recording

    def counted(recording, *, source, before_chunk):
        made.append(source)
        return encode(recording, source=source, before_chunk=before_chunk)

    monkeypatch.setattr(codec, "encode_recording", counted)
    seen = []
    summary = tokenize(codec, data, tmp_path / "cut", progress=seen.append)
    assert (summary.n_resumed, len(made)) == (2, 3)
    assert [each.n_done for each in seen] == [1, 2, 3, 4, 5]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    made.clear()
    assert tokenize(codec, data, tmp_path / "cut").n_resumed == 5
    (tmp_path / "cut" / "a.wav.bjt").write_bytes(b"\x89BJT")
    later = (tmp_path / "cut" / "d.wav.bjt").stat().st_mtime + 10
    os.utime(songs / "d.wav", (later, later))
    tokenize(codec, data, tmp_path / "cut")
    assert made == ["a.wav", "d.wav"]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_detokenizing_goes_on_too(folder, songs, tmp_path):
    codec = birdjepa.load_codec(folder)
    tokenize(codec, open_data(str(songs)), tmp_path / "tokens")
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match="2 of 5"):
        detokenize(codec, tmp_path / "tokens", tmp_path / "cut", stop=lambda: next(asked))
    assert detokenize(codec, tmp_path / "tokens", tmp_path / "cut").n_resumed == 2
    detokenize(codec, tmp_path / "tokens", tmp_path / "whole")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_folders_of_something_else_are_refused(folder, other, songs, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    assert run("tokenize", folder, songs, "--out", tokens) == 0
    before = content(tokens)
    capsys.readouterr()
    for arguments, told in (
        (("tokenize", other, songs, "--out", tokens), "belongs to something else (codec:"),
        (("tokenize", folder, songs, "--out", tokens, "--group-size", 4), "settings.group_size: 0 -> 4"),
        (("tokenize", folder, songs / "a.wav", "--out", tokens), "belongs to something else (data:"),
        (("tokenize", folder, songs, "--out", songs), "holds files already"),
        (("tokenize", folder, songs, "--out", songs / "a.wav"), "is a file"),
        (("tokenize", songs, songs, "--out", tmp_path / "x"), "give a codec folder"),
        (("tokenize", folder, songs, "--out", tmp_path / "x", "--group-size", -1), "group_size must be 0 or positive"),
        (("tokenize", folder, tmp_path / "none", "--out", tmp_path / "x"), "not found"),
        (("detokenize", other, tokens, "--out", tmp_path / "x"), "take the codec it is of"),
        (("detokenize", folder, songs, "--out", tmp_path / "x"), "no files of codes"),
        (("codec", "sing", folder), "codec eval|compare|info"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1
        assert told in error[0]
    assert content(tokens) == before
    assert not (tmp_path / "x").exists()


def test_single_codes_of_another_codec_and_damaged_ones_are_listed(folder, other, tmp_path):
    for name, made_by in (("ours", folder), ("theirs", other)):
        codes = birdjepa.load_codec(made_by).encode(noise(HOP), sampling_rate=RATE, source="a.wav")
        write_codes(tmp_path / "tokens" / f"{name}.bjt", codes)
    (tmp_path / "tokens" / "cut.bjt").write_bytes((tmp_path / "tokens" / "ours.bjt").read_bytes()[:-1])
    assert run("detokenize", folder, tmp_path / "tokens", "--out", tmp_path / "wavs") == 3
    reasons = [row["reason"] for row in rows_of(tmp_path / "wavs" / "failures.csv")]
    assert [reason.split()[1] for reason in reasons] == ["cut", "made"]
    assert [path.name for path in (tmp_path / "wavs").glob("*.wav")] == ["ours.wav"]


def test_recordings_outside_the_data_do_not_leave_the_folder(folder, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    soundfile.write(tmp_path / "x.wav", noise(HOP), RATE)
    soundfile.write(work / "x.wav", noise(2 * HOP), RATE)
    (work / "data.csv").write_text(f"path\n../x.wav\n{tmp_path / 'x.wav'}\nx.wav\n")
    assert run("tokenize", folder, work / "data.csv", "--out", work / "tokens") == 0
    rows = rows_of(work / "tokens" / "tokens.csv")
    assert [int(row["n_frames"]) for row in rows] == [1, 1, 2]
    assert len({row["codes"] for row in rows}) == 3
    assert all((work / "tokens" / row["codes"]).resolve().is_relative_to(work / "tokens") for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["work", "x.wav"]


@pytest.mark.parametrize(
    "key", ["../../x.wav", "/etc/x.wav", "a/../x.wav", "./x.wav", "..", "é" * 300, "k" * 999 + "/x", "a//b"]
)
def test_places_are_inside_short_and_apart(key):
    place = place_of(key)
    assert not place.is_absolute()
    assert ".." not in place.parts
    assert max(len(part.encode()) for part in place.parts) <= 200
    assert re.search("-[0-9a-f]{12}$", str(place))


def test_two_jobs_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("birdjepa.core.files.try_lock", lambda path: None)
    with pytest.raises(UsageError, match="another process is tokenizing there"), filling(tmp_path, {}, "tokenizing"):
        pass


def test_a_stop_signal_is_exit_code_75(folder, songs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("birdjepa.cli.tokenize.StopSignal.stop", lambda self: True)
    assert run("tokenize", folder, songs, "--out", tmp_path / "tokens") == 75
    assert "run the same command again" in capsys.readouterr().err


def test_sound_beyond_what_wav_can_hold_is_rf64(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "_LARGEST_WAV", 100)
    codec = birdjepa.load_codec(folder)
    write_codes(tmp_path / "t" / "a.bjt", codec.encode(noise(HOP), sampling_rate=RATE))
    detokenize(codec, tmp_path / "t", tmp_path / "wavs")
    assert soundfile.info(tmp_path / "wavs" / "a.wav").format == "RF64"


def numbers(value) -> list[float]:
    if isinstance(value, dict):
        return [each for inner in value.values() for each in numbers(inner)]
    if isinstance(value, list):
        return [each for inner in value for each in numbers(inner)]
    return [value] if isinstance(value, float) else []


def test_eval_gives_sane_numbers_also_for_silence(folder, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for seed in range(3):
        soundfile.write(data / f"{seed}.wav", noise(4000 + seed, seed=seed), RATE)
    soundfile.write(data / "silence.wav", np.zeros(2000, np.float32), RATE)
    (data / "damaged.wav").write_bytes(b"nothing")
    out = tmp_path / "eval.json"
    assert run("codec", "eval", folder, data, "--out", out, "--n-resamples", 50, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    kept = json.loads(out.read_text())
    assert {**found, "provenance": 0} == {**kept, "provenance": 0}
    assert (found["n_recordings"], found["n_refused"]) == (4, 1)
    assert rows_of(tmp_path / "failures.csv")[0]["path"] == "damaged.wav"
    assert all(map(math.isfinite, numbers(found)))
    assert found["rates"]["frame_hz"] == 50
    assert found["rates"]["tokens_per_s"] == 150
    assert found["rates"]["nominal_bit_s"] == 50 * 16 * 2
    silent = next(row for row in found["recordings"] if row["path"] == "silence.wav")
    assert silent["silence"]["mel"] == 0
    assert silent["silence"]["si_sdr_db"] == 100
    means = found["means"]
    assert means["griffin_lim"]["mel"]["value"] < means["silence"]["mel"]["value"]
    assert means["codec"]["mel"]["low"] <= means["codec"]["mel"]["value"] <= means["codec"]["mel"]["high"]
    difference = found["codec_minus_floor"]["griffin_lim"]["mel"]["value"]
    assert difference == pytest.approx(means["codec"]["mel"]["value"] - means["griffin_lim"]["mel"]["value"])
    usage = found["usage"]
    assert 0.25 <= usage["least_used"] <= usage["mean_used"] <= 1
    assert len(usage["levels_used"]) == 16
    assert found["chunks"] is None


def test_eval_of_some_recordings_and_in_chunks(tmp_path, capsys):
    made = tiny_tokenizer.write(tmp_path / "codec", reach=0)
    data = tmp_path / "data"
    data.mkdir()
    for seed in range(3):
        soundfile.write(data / f"{seed}.wav", noise(RATE, seed=seed), RATE)
    arguments = ("codec", "eval", made, data, "--n", 1, "--max-s", 0.9, "--n-resamples", 10, "--json")
    assert run(*arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["seconds"] for row in found["recordings"]] == [0.9]
    assert found["chunks"]["n_frames"] == 45
    assert 0 < found["chunks"]["differing"] < 1
    assert found["means"]["codec"]["mel"]["low"] is None  # of one recording
    assert run(*arguments[:-1]) == 0
    told = capsys.readouterr().out
    for words in ("griffin_lim", "150 tokens", "levels used", "x real time", "looks at whole clips"):
        assert words in told
    assert run("codec", "eval", made, data, "--n", -1) == 2


def test_eval_of_nothing_readable_is_a_usage_error(folder, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.wav").write_bytes(b"")
    assert run("codec", "eval", folder, tmp_path / "data") == 2
    assert "not one of 1 recordings can be read" in capsys.readouterr().err


def test_speech_measures_are_there_on_request(folder, tmp_path, capsys):
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq")
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.wav", noise(RATE), RATE)
    assert run("codec", "eval", folder, tmp_path / "data", "--speech", "--n-resamples", 10, "--json") == 0
    assert "stoi" in json.loads(capsys.readouterr().out)["means"]["codec"]


def test_info_says_what_a_codec_is(folder, tmp_path, capsys):
    assert run("codec", "info", folder) == 0
    told = capsys.readouterr().out
    described = birdjepa.load_codec(folder).describe()
    for words in (
        described["sha256"],
        "50 a second",
        "150 tokens",
        "1600 bit",
        "no streaming",
        "chunks give the whole",
    ):
        assert words in told
    assert run("codec", "info", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == described
    assert run("codec", "info", tiny_tokenizer.write(tmp_path / "c", reach=0)) == 0
    assert "chunks give other codes" in capsys.readouterr().out
    assert run("codec", "--help") == 0
