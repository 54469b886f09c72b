"""The comparison job on nano runs: equal terms, kept predictions, floors, and going on where it was stopped."""

import dataclasses
import json
from pathlib import Path

import pytest
from scipy import stats
from tiny_run import write_songs

from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.recipes.compare import STUDENT, CompareConfig, Comparison, compare, over_seeds

COMMON = """
[loader]
clip_s = 0.9
workers = 0
[front_end]
sampling_rate = 8000
window = 256
hop = 80
n_mels = 32
f_min = 0.0
f_max = 4000.0
[patch]
frames = 8
mels = 16
[encoder]
size = "nano"
[clips]
clip_s = 1.0
hop_s = 1.0
[train]
batch_size = 4
log_every = 1
threads = 1
checkpoint_every = 2
[train.monitor]
bank = 16
every = 2
"""


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), 12)


@pytest.fixture
def common(tmp_path: Path) -> Path:
    (tmp_path / "common.toml").write_text(COMMON)
    return tmp_path / "common.toml"


def make(songs: Path, out: Path, config: Path, *objectives: str, **changes) -> CompareConfig:
    held = songs.parent / "held"
    probed = write_songs(held, 12) if not held.exists() else held / "metadata.csv"
    asked = {"steps": 2, "n_seeds": 2, "strengths": (1.0,), "probe_data": str(probed), **changes}
    return CompareConfig(objectives=objectives, data=(str(songs),), out=out, config=config, **asked)


@pytest.fixture(scope="module")
def finished(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareConfig, Comparison]:
    """Two objectives, two seeds, two steps; the probe's recordings are among those to learn from."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "common.toml").write_text(COMMON)
    config = make(songs, folder / "out", folder / "common.toml", "pixio", "supervised")
    config = dataclasses.replace(config, data=(str(songs), f"{config.probe_data}@2"))
    return config, compare(config, lambda _: None)


def test_a_table_over_seeds_with_both_floors(finished) -> None:
    config, found = finished
    assert [row.name for row in found.rows] == ["pixio", "supervised", "random weights", "log-mel statistics"]
    random = found.rows[2]
    for row in found.rows[:2]:
        assert len(row.seeds) == 2
        assert row.accuracy.value == pytest.approx(sum(row.seeds) / 2)
        assert row.ahead is not None
        assert row.ahead.low <= row.ahead.value <= row.ahead.high
        assert row.ahead.value == pytest.approx(row.accuracy.value - random.accuracy.value)
        assert row.step_s > 0
        assert 50 < row.memory_mib < 10_000
    assert found.differences == ()
    assert json.loads((config.out / "compare.json").read_text())["budget"] == "2 steps"


def test_what_is_finished_is_not_done_again(finished) -> None:
    config, first = finished
    said: list[str] = []
    again = compare(config, said.append)
    assert [row.seeds for row in again.rows] == [row.seeds for row in first.rows]
    assert not any("trained" in line or "embedd" in line for line in said)


def test_objectives_with_labels_never_hear_what_is_probed(finished) -> None:
    config, _ = finished
    heard = {name: json.loads((config.out / f"{name}-seed0" / "config.json").read_text()) for name in config.objectives}
    assert heard["supervised"]["config"]["data"] == [config.data[0]]
    assert heard["supervised"]["config"]["exclude"] == [config.probe_data]
    assert heard["pixio"]["config"]["data"] == list(config.data)


def test_another_comparison_is_not_overwritten(finished) -> None:
    config, _ = finished
    with pytest.raises(UsageError, match="holds another run"):
        compare(dataclasses.replace(config, steps=3), lambda _: None)


def test_the_command_prints_and_writes_a_page(finished, capsys) -> None:
    config, _ = finished
    arguments = [*config.objectives, "--data", *config.data, "--probe-data", config.probe_data, "--steps", "2"]
    more = ["--config", str(config.config), "--n-seeds", "2", "--strengths", "1.0", "--out", str(config.out), "--json"]
    assert main(["compare", *arguments, *more]) == 0
    printed = json.loads(capsys.readouterr().out)
    names = ["pixio", "supervised", "random weights", "log-mel statistics"]
    assert [row["name"] for row in printed["rows"]] == names
    page = (config.out / "compare.html").read_text()
    assert "Objectives compared" in page
    assert all(name in page for name in names)


@pytest.mark.slow
def test_minutes_become_steps_once(songs: Path, common: Path, tmp_path: Path) -> None:
    config = make(songs, tmp_path / "out", common, "pixio", steps=0, minutes=0.002)
    found = compare(config, lambda _: None)
    kept = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert found.rows[0].steps == kept["pixio"] >= 1
    assert found.described["budget"] == "0.002 minutes of training"


@pytest.mark.slow
def test_a_file_can_stand_for_an_objective_and_what_differs_is_told(songs: Path, common: Path, tmp_path: Path) -> None:
    (tmp_path / "mae.toml").write_text('recipe = "pixio"\npooling = "mean"\n[objective]\nblock = [1, 1]\n')
    found = compare(make(songs, tmp_path / "out", common, "pixio", str(tmp_path / "mae.toml")), lambda _: None)
    assert [row.name for row in found.rows[:2]] == ["pixio", "mae"]
    assert len(found.differences) == 1
    assert 'pooling: "rows+std" -> "mean"' in found.differences[0]


def test_intervals_over_seeds_are_students() -> None:
    found = over_seeds([0.5, 0.6, 0.8])
    low, high = stats.t.interval(0.95, 2, loc=0.6333333, scale=stats.sem([0.5, 0.6, 0.8]))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    assert [stats.t.ppf(0.975, n) for n in range(1, 10)] == pytest.approx(list(STUDENT), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 2, "minutes": 1.0}, "either --steps or --minutes"),
        ({"steps": 0}, "either --steps or --minutes"),
        ({"objectives": ("pixio", "pixio")}, "each objective once"),
        ({"n_seeds": 1}, "at least 2"),
        ({"data": ()}, "--data and --probe-data are missing"),
    ],
)
def test_bad_settings_are_refused(changes: dict, told: str) -> None:
    asked = {"objectives": ("pixio",), "data": ("x",), "probe_data": "y", "steps": 1, **changes}
    with pytest.raises(UsageError, match=told):
        CompareConfig(**asked).check()


def test_an_unknown_objective_is_refused(tmp_path: Path) -> None:
    config = CompareConfig(objectives=("pixo",), data=("x",), probe_data="y", steps=1, out=tmp_path)
    with pytest.raises(UsageError, match="'pixo' is neither a recipe"):
        compare(config, print)
