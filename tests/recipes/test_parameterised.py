"""Runs by Muon and in muP: stopped and resumed they end like uninterrupted ones, and the table says what was done."""

import dataclasses

import pytest
from test_resume import train
from tiny_run import differences, metrics, tiny, write_songs

from birdjepa.core.errors import UsageError
from birdjepa.models.vit import VitConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.muon import MuonConfig
from birdjepa.recipes import pretrain

MUON = MuonConfig(lr=1e-2)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def whole(songs, said, tmp_path_factory):
    """An uninterrupted run by both algorithms, twice as wide as its base."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    pretrain.start(configuration(songs, folder, MUON, 32), said.append)
    return folder


def configuration(songs, out, optim, base_width):
    return dataclasses.replace(tiny(songs, out), optim=optim, mup_base_width=base_width)


def test_nothing_of_it_is_lost_on_save(songs, whole, tmp_path, monkeypatch):
    """The rates come from the configuration again."""
    train(configuration(songs, tmp_path / "resumed", MUON, 32), monkeypatch, stops=(2,))
    assert differences(whole, tmp_path / "resumed") == []


def test_it_makes_a_difference(songs, whole, tmp_path):
    """Without which the test above would mean nothing."""
    pretrain.start(configuration(songs, tmp_path / "standard", MUON, 0), lambda _: None)
    assert metrics(whole)[0]["loss"] != metrics(tmp_path / "standard")[0]["loss"]


def test_the_table_shows_who_learns_how_fast(whole, said):
    assert "muP: the encoder is 2 times as wide as its base" in said
    (muon,) = (line for line in said if line.startswith("optimiser: Muon  muon x0.707 wd x1.41 "))
    assert "8 tensors" in muon
    assert "lr 0.00707" in muon
    assert "weight decay 0.0707" in muon
    (readout,) = (line for line in said if line.startswith("optimiser: AdamW decay x0.5 wd x2 "))
    assert "1 tensors" in readout  # the projector's first layer reads what grows with the encoder


def test_at_the_base_width_it_is_the_standard_parameterisation(songs, tmp_path):
    for name, width in (("mup", 64), ("standard", 0)):
        pretrain.start(configuration(songs, tmp_path / name, AdamWConfig(), width), lambda _: None)
    assert differences(tmp_path / "mup", tmp_path / "standard") == []


def test_a_base_of_other_heads_is_refused(songs, tmp_path):
    wide = configuration(songs, tmp_path / "run", AdamWConfig(), 48)
    with pytest.raises(UsageError, match="mup_base_width=48 must be a positive multiple of 32, the width of one head"):
        dataclasses.replace(wide, encoder=VitConfig(size="64x1x2")).check()
