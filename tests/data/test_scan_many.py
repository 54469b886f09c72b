"""Two thousand small files, one in twenty damaged: every row is true. benchmarks/scan.py does it with 100 000."""

from pathlib import Path

import crowd
import pytest

from birdjepa.data.scan import scan
from birdjepa.data.sources import open_data

N_FILES = 2000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[str, Path]], list[crowd.Truth]]:
    folder = tmp_path_factory.mktemp("many")
    truths = crowd.write(folder, N_FILES, every=20)
    manifest = open_data(str(folder)).recordings()
    return [(key, manifest.path(row)) for row, key in enumerate(manifest.keys)], truths


@pytest.mark.parametrize("deep", [False, True])
def test_every_row_is_true(many: tuple[list[tuple[str, Path]], list[crowd.Truth]], deep: bool) -> None:
    files, truths = many
    assert [key for key, _ in files] == [truth.key for truth in truths]
    report = scan(files, n_workers=2, deep=deep)
    assert crowd.wrong(truths, report) == []
    assert report.n_files == N_FILES
    assert report.hours == pytest.approx(crowd.hours(truths), rel=0.01)  # headers claim what was cut


def test_each_damage_is_in_the_crowd_and_told(many: tuple[list[tuple[str, Path]], list[crowd.Truth]]) -> None:
    _, truths = many
    there = {truth.damage for truth in truths if truth.damage}
    assert there == {
        f"{suffix}: {name}" for suffix in crowd.DAMAGE for name in {**crowd.ANY_DAMAGE, **crowd.DAMAGE[suffix]}
    }
    assert all("" not in truth.by_decoding.split("|") for truth in truths if truth.damage)


def test_the_judge_notices() -> None:
    """What the tests above rely on can fail."""
    truth = crowd.Truth(key="a.wav", n_samples=10, sampling_rate=8000)
    assert len(crowd.wrong([truth], scan([], n_workers=1))) == 1
