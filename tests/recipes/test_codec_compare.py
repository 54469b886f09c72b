"""Codecs compared by rate: the numbers are those of the evaluations, in table and page, and unlike data is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from birdjepa import cli
from birdjepa.core.errors import UsageError
from birdjepa.recipes.codec_compare import read_evaluations
from birdjepa.report.codec_comparison import cells_of, codec_page, header_of


def estimate(value: float) -> dict[str, float | None]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def evaluation(frame_hz: float, mel: float, *, rate: int = 24_000, floor: float = 1.5) -> dict[str, Any]:
    """What `birdjepa codec eval --out` writes, as far as it is read."""
    return {
        "codec": {"sampling_rate": rate},
        "data": {"name": "songs", "fingerprint": "f00"},
        "settings": {"n": 2, "max_s": 60.0, "seed": 0, "speech": False},
        "rates": {"frame_hz": frame_hz, "tokens_per_s": 19 * frame_hz, "nominal_bit_s": 256 * frame_hz},
        "n_recordings": 2,
        "seconds": 12.5,
        "means": {
            "codec": {"mel": estimate(mel), "si_sdr_db": estimate(-3.0)},
            "griffin_lim": {"mel": estimate(floor), "si_sdr_db": estimate(-9.0)},
        },
        "codec_minus_floor": {"griffin_lim": {"mel": estimate(mel - floor)}},
        "usage": {"entropy_bit_s": 200 * frame_hz},
        "speed": {"encode_x_real_time": 8.0, "decode_x_real_time": 16.0},
        "recordings": [{"path": "a.wav"}, {"path": "b.wav"}],
        "provenance": {"birdjepa": "0.1.0", "commit": "abc", "cpu": "a CPU"},
    }


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    fine = evaluation(12.5, 0.9)
    fine["means"]["codec"]["stoi"] = {"value": 0.8, "low": None, "high": None}
    return [write(tmp_path / "fine.json", fine), write(tmp_path / "coarse.json", evaluation(2.5, 1.7))]


def test_rows_ascend_in_rate_and_hold_the_numbers(files):
    found = read_evaluations(files)
    assert [row.name for row in found.rows] == ["coarse", "fine"]
    coarse, fine = found.rows
    assert header_of([coarse])[-3:] == ("SI-SDR dB", "enc x", "dec x")
    shown = dict(zip(header_of(found.rows), cells_of(fine, found.rows), strict=True))
    assert shown == {
        "codec": "fine",
        "kHz": "24",
        "frame Hz": "12.5",
        "packed/s": "237.5",
        "bit/s": "3,200",
        "entropy bit/s": "2,500",
        "mel distance": "0.900 [0.800, 1.000]",
        "Griffin-Lim's": "1.500 [1.400, 1.600]",
        "codec - Griffin-Lim": "-0.600 [-0.700, -0.500]",
        "SI-SDR dB": "-3.0 [-3.1, -2.9]",
        "STOI": "0.8",
        "enc x": "8.0",
        "dec x": "16.0",
    }
    assert cells_of(coarse, found.rows)[header_of(found.rows).index("STOI")] == ""
    assert found.described == {
        "data": "songs", "n_recordings": 2, "seconds": 12.5, "origin": "birdjepa 0.1.0 abc, a CPU",
    }  # fmt: skip


def test_the_page_has_the_table_and_a_point_for_each_codec_and_its_floor(files):
    found = read_evaluations(files)
    page = codec_page(found.rows, found.described)
    assert page == codec_page(found.rows, found.described)
    for told in ("fine at 3,200: 0.9", "coarse at 640: 1.7", "Griffin-Lim at the frame rate at 640: 1.5"):
        assert f"<title>{told}</title>" in page
    for told in ("0.900 [0.800, 1.000]", "2,500", "a CPU", "2 recordings of songs", "0 is a copy"):
        assert told in page
    assert "Beware" not in page
    assert "nan" not in page


def test_codecs_of_different_rates_carry_a_caution(files, tmp_path):
    other = write(tmp_path / "low.json", evaluation(50.0, 0.8, rate=16_000))
    found = read_evaluations([*files, other])
    assert "Beware: codecs of 16, 24 kHz" in codec_page(found.rows, found.described)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [write(tmp_path / name / "eval.json", evaluation(2.5, 1.0)) for name in ("one", "two")]
    assert [row.name for row in read_evaluations(paths).rows] == ["one", "two"]
    assert (
        len({row.name for row in read_evaluations([*paths, write(tmp_path / "one" / "b.json", evaluation(5, 1))]).rows})
        == 3
    )


def test_what_cannot_be_compared_is_refused_in_a_line_that_names_the_file(files, tmp_path):
    good = evaluation(12.5, 0.9)

    def changed(*path: str, to: Any) -> dict[str, Any]:
        made = copy.deepcopy(good)
        place: Any = made
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return made

    for value, told in (
        (changed("data", "fingerprint", to="bad"), "other.json: judged on other data"),
        (changed("settings", "max_s", to=5.0), "other.json: --max-s was 5.0, and in .*fine.json 60.0"),
        (changed("settings", "n", to=0), "other.json: --n was 0"),
        (changed("recordings", to=[{"path": "a.wav"}]), "other.json: 1 recordings were judged either .* b.wav"),
        (changed("means", to={"codec": {}, "griffin_lim": {}}), "other.json: damaged: KeyError at 'mel'"),
        ({"accuracy": 1}, "other.json: no evaluation of a codec"),
        ([], "other.json: no evaluation of a codec"),
        ("{", "other.json: not valid JSON"),
    ):
        with pytest.raises(UsageError, match=told):
            read_evaluations([files[0], write(tmp_path / "other.json", value)])
    with pytest.raises(UsageError, match="is named twice"):
        read_evaluations([files[0], files[0]])
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        read_evaluations([tmp_path / "none.json"])
    with pytest.raises(UsageError, match="name the files"):
        read_evaluations([])


def test_the_command_writes_a_page_and_prints_a_table_or_json(files, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["codec", "compare", *map(str, files), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "0.900 [0.800, 1.000]" in told.out
    assert str(out) in told.err
    assert "Codecs by rate" in out.read_text()
    assert cli.main(["codec", "compare", *map(str, files), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["codecs"]] == ["coarse", "fine"]
    assert found["codecs"][1]["speech"]["stoi"] == {"value": 0.8, "low": None, "high": None}
    out.unlink()
    assert cli.main(["codec", "compare", str(files[0]), str(tmp_path / "none.json"), "--out", str(out)]) == 2
    assert not out.exists()
