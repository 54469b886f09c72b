"""The comparison job on nano runs: equal terms, kept predictions, floors, and going on where it was stopped."""

import json
from pathlib import Path

import pytest
from scipy import stats
from tiny_run import write_songs

from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.recipes.compare import STUDENT, CompareConfig, compare, over_seeds

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


def test_a_table_over_seeds_with_both_floors(songs: Path, common: Path, tmp_path: Path) -> None:
    config, said = make(songs, tmp_path / "out", common, "pixio", "supervised"), []
    first = compare(config, said.append)
    assert [row.name for row in first.rows] == ["pixio", "supervised", "random weights", "log-mel statistics"]
    for row in first.rows[:2]:
        assert len(row.seeds) == 2
        assert row.accuracy.value == pytest.approx(sum(row.seeds) / 2)
        assert row.ahead is not None
        assert row.ahead.low <= row.ahead.value <= row.ahead.high
        assert row.step_s > 0
        assert 50 < row.memory_mib < 10_000
    random = first.rows[2]
    for row in first.rows[:2]:
        assert row.ahead.value == pytest.approx(row.accuracy.value - random.accuracy.value)
    assert first.differences == ()
    saved = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert saved["budget"] == "2 steps"
    said.clear()
    again = compare(config, said.append)  # nothing is trained or probed twice
    assert [row.seeds for row in again.rows] == [row.seeds for row in first.rows]
    assert not any("trained" in line or "embedd" in line for line in said)


def test_objectives_with_labels_never_hear_what_is_probed(songs: Path, common: Path, tmp_path: Path) -> None:
    config = make(songs, tmp_path / "out", common, "supervised", "pixio")
    mixed = CompareConfig(**{**vars(config), "data": (str(songs), f"{config.probe_data}@2")})
    compare(mixed, lambda _: None)
    heard = {
        name: json.loads((tmp_path / "out" / f"{name}-seed0" / "config.json").read_text()) for name in mixed.objectives
    }
    assert heard["supervised"]["config"]["data"] == [str(songs)]
    assert heard["supervised"]["config"]["exclude"] == [config.probe_data]
    assert heard["pixio"]["config"]["data"] == list(mixed.data)


def test_minutes_become_steps_once(songs: Path, common: Path, tmp_path: Path) -> None:
    config = make(songs, tmp_path / "out", common, "pixio", steps=0, minutes=0.002)
    found = compare(config, lambda _: None)
    kept = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert found.rows[0].steps == kept["pixio"] >= 1
    assert found.described["budget"] == "0.002 minutes of training"


def test_a_file_can_stand_for_an_objective_and_what_differs_is_told(songs: Path, common: Path, tmp_path: Path) -> None:
    (tmp_path / "mae.toml").write_text('recipe = "pixio"\npooling = "mean"\n[objective]\nblock = [1, 1]\n')
    found = compare(make(songs, tmp_path / "out", common, "pixio", str(tmp_path / "mae.toml")), lambda _: None)
    assert [row.name for row in found.rows[:2]] == ["pixio", "mae"]
    assert len(found.differences) == 1
    assert 'pooling: "rows+std" -> "mean"' in found.differences[0]


def test_another_comparison_is_not_overwritten(songs: Path, common: Path, tmp_path: Path) -> None:
    compare(make(songs, tmp_path / "out", common, "pixio"), lambda _: None)
    with pytest.raises(UsageError, match="holds another run"):
        compare(make(songs, tmp_path / "out", common, "pixio", steps=3), lambda _: None)


def test_the_command_writes_a_page(songs: Path, common: Path, tmp_path: Path, capsys) -> None:
    config = make(songs, tmp_path / "out", common, "pixio")
    arguments = ["pixio", "--data", str(songs), "--probe-data", config.probe_data, "--config", str(common)]
    budget = ["--steps", "2", "--n-seeds", "2", "--strengths", "1.0", "--out", str(tmp_path / "out")]
    assert main(["compare", *arguments, *budget, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in printed["rows"]] == ["pixio", "random weights", "log-mel statistics"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Objectives compared" in page
    assert "log-mel statistics" in page


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
