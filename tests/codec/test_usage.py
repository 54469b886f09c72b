"""Rates and use of codes: the sheet's numbers, counts that add up, entropies that can be told by hand."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from birdjepa.codec.container import Codes, write_codes
from birdjepa.codec.usage import CodeCounts, rates
from birdjepa.nn.packing import Packing

DEFAULT = Packing(radices=(4,) * 128)


def codes(n_frames: int, packing: Packing = DEFAULT, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, packing.radices, (n_frames, len(packing.radices)))


def test_rates_of_the_public_preset():
    found = rates(DEFAULT, 24_000, 9600)
    assert found == {"frame_hz": 2.5, "tokens_per_s": 47.5, "nominal_bit_s": 640.0, "stored_bit_s": 760.0}


@pytest.mark.parametrize(("group_size", "tokens"), [(1, 320), (4, 80), (5, 65), (6, 55), (7, 47.5), (8, 40), (16, 20)])
def test_rates_by_group_size(group_size, tokens):
    found = rates(Packing(radices=(4,) * 128, group_size=group_size), 24_000, 9600)
    assert (found["tokens_per_s"], found["nominal_bit_s"]) == (tokens, 640)


def test_nominal_bits_of_other_levels():
    found = rates(Packing(radices=(8, 8, 8, 5, 5, 5), group_size=6), 16_000, 320)
    assert found["nominal_bit_s"] == pytest.approx(50 * np.log2(64_000))


def test_counts_add_up_whatever_the_pieces():
    packing = Packing(radices=(4, 4, 3, 2, 5), group_size=2)
    whole, first, second = (CodeCounts(packing) for _ in range(3))
    all_codes = codes(50, packing)
    whole.add(all_codes)
    for start in range(0, 30, 10):
        first.add(all_codes[start : start + 10])
    second.add(all_codes[30:])
    first.merge(second)
    assert first.n_frames == whole.n_frames == 50
    assert (first.levels == whole.levels).all()
    assert first.groups == whole.groups
    for d in range(5):
        assert whole.levels[d].tolist() == np.bincount(all_codes[:, d], minlength=5).tolist()
    assert first.summary(16_000, 320) == whole.summary(16_000, 320)


def test_shares_entropy_and_use_by_hand():
    packing = Packing(radices=(4, 2, 3), group_size=2)
    counts = CodeCounts(packing)
    counts.add(np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]]))
    assert counts.shares().tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [1, 0, 0, 0]]
    assert counts.levels_used().tolist() == [2, 2, 1]
    assert counts.level_bits().tolist() == [1, 1, 0]
    assert counts.group_bits().tolist() == [2, 0]
    assert counts.groups_used().tolist() == [4, 1]
    found = counts.summary(1000, 100)
    assert found["least_used"] == pytest.approx(1 / 3)
    assert (found["entropy_bit_s"], found["entropy_bit_s_packed"]) == (20, 20)


def test_what_goes_together_shows_in_groups_only():
    packing = Packing(radices=(4, 4), group_size=2)
    counts = CodeCounts(packing)
    level = codes(1000, Packing(radices=(4,)))
    counts.add(np.concatenate((level, level), 1))
    found = counts.summary(1000, 1000)
    assert found["entropy_bit_s"] == pytest.approx(4, abs=0.02)
    assert found["entropy_bit_s_packed"] == pytest.approx(2, abs=0.02)


def test_equally_likely_levels_reach_the_nominal_rate():
    counts = CodeCounts(DEFAULT)
    counts.add(codes(4000))
    found = counts.summary(24_000, 9600)
    assert found["least_used"] == 1
    assert found["entropy_bit_s"] == pytest.approx(640, rel=2e-3)
    assert counts.group_bits()[:-1].max() <= np.log2(4000)


def test_nothing_counted():
    found = CodeCounts(DEFAULT).summary(24_000, 9600)
    assert set(found.values()) == {0.0}
    assert not CodeCounts(DEFAULT).shares().any()


def test_refuses_other_codes():
    counts = CodeCounts(DEFAULT)
    with pytest.raises(ValueError, match=r"code 4 of dimension 0 is not in \[0, 4\)"):
        counts.add(np.full((1, 128), 4))
    assert counts.n_frames == counts.levels.sum() == 0
    with pytest.raises(ValueError, match="packed in different ways"):
        counts.merge(CodeCounts(Packing(radices=(4,) * 128, order="big")))


def test_the_example_in_the_docs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "CodeCounts" in block)
    packed = DEFAULT.pack(codes(9))
    given = {"sampling_rate": 24_000, "hop": 9600, "n_samples": 9 * 9600, "codec": "0" * 64, "source": "a.wav"}
    write_codes(tmp_path / "tokens" / "a.bjt", Codes(packing=DEFAULT, packed=packed, **given))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    assert names["counts"].n_frames == 9


def test_needs_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; import birdjepa.codec.usage"
    assert subprocess.run([sys.executable, "-c", blocked], check=False).returncode == 0
