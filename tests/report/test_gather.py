"""From a run folder, sources and an encoder to contents: on a tiny run made by hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from report_examples import probe_json

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import open_data
from birdjepa.models.encoder import Encoder, EncoderConfig
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.base import DataSize
from birdjepa.objectives.lejepa import Lejepa, LejepaConfig
from birdjepa.objectives.views import ViewsConfig
from birdjepa.report.build import build_report
from birdjepa.report.contents import Absent, ReportConfig, ReportContents, Seen
from birdjepa.report.gather import gather
from birdjepa.report.gather_data import summarise
from birdjepa.report.gather_neighbourhood import narrow, project

RATE = 16_000


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 recordings of 3 pitches, 2 singers each; one more is damaged, one is long, one rate differs."""
    folder = tmp_path_factory.mktemp("songs")
    rows = ["path,label,group,licence"]
    for i in range(12):
        label, rate = ("low", "mid", "high")[i % 3], 22_050 if i == 11 else RATE
        seconds = 3.0 if i == 0 else 0.8
        time = np.arange(round(seconds * rate)) / rate
        tone = np.sin(2 * np.pi * (400 * 2 ** (2 * (i % 3)) + 20 * i) * time) * (1 + np.sin(30 * time)) / 4
        soundfile.write(folder / f"{i}.wav", tone, rate)
        rows.append(f"{i}.wav,{label},bird{i // 3},{'CC0-1.0' if i < 8 else 'CC-BY-4.0'}")
    (folder / "bad.wav").write_bytes(b"<html>not found</html>")
    rows.append("bad.wav,low,bird9,")
    (folder / "songs.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    front_end = LogMelConfig(sampling_rate=RATE, window=400, hop=160, n_mels=32, f_max=8000.0)
    config = EncoderConfig(
        front_end=front_end,
        patch=PatchConfig(frames=8, mels=16),
        vit=VitConfig(size="nano"),
        clips=ClipConfig(clip_s=1.0, hop_s=1.0),
        pooling="mean",
    )
    return config.build().initialise(0).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, songs: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    (folder / "probes").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hash": "abc", "config": {"seed": 5, "train": {"steps": 2}}}))
    provenance = {"birdjepa": "0", "started": "2026-01-01 10:00 UTC", "data": {str(songs / "songs.csv"): "f00"}}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo')
    (folder / "failures.csv").write_text(f"path,stage,reason\n{songs / 'bad.wav'},decode,not audio: a web page\n")
    (folder / "probes" / "songs.json").write_text(json.dumps(probe_json(("high", "low", "mid"))))
    return folder


@pytest.fixture(scope="module")
def source(songs: Path) -> Manifest:
    return open_data(str(songs / "songs.csv"))


@pytest.fixture(scope="module")
def objective(encoder: Encoder) -> Lejepa:
    views = ViewsConfig(global_s=0.32, local_s=0.16, n_local=3, augment=AugmentConfig(mask_mels=8))
    return LejepaConfig(views=views).build(encoder, 5, DataSize(4, 2))


@pytest.fixture(scope="module")
def clips(source: Manifest) -> Clips:
    config = LoaderConfig(clip_s=0.7, max_refused=0.5)
    return Clips([source], [1.0], config, sampling_rate=RATE, batch_size=8, seed=5)


@pytest.fixture(scope="module")
def gathered(run: Path, source: Manifest, clips: Clips, objective: Lejepa, encoder: Encoder) -> ReportContents:
    config = ReportConfig(n_queries=2, n_neighbours=2, n_clips=2)
    return gather(run, sources=[source], clips=clips, objective=objective, encoder=encoder, config=config)


def test_the_folder_is_read(gathered: ReportContents):
    assert gathered.name == "first"
    assert gathered.config_hash == "abc"
    assert [row["loss"] for row in gathered.metrics] == [3.0, 2.0]
    assert gathered.started == "2026-01-01 10:00 UTC"
    assert gathered.finished.endswith("UTC")
    assert [probe.file for probe in gathered.probes] == ["probes/songs.json"]
    assert [(each.path, each.stage) for each in gathered.failures] == [("bad.wav", "decode")]


def test_sources_are_summarised(gathered: ReportContents):
    [source] = gathered.sources
    assert (source.n_recordings, source.n_rows, source.n_looked) == (13, 13, 12)
    assert source.labels == {"low": 5, "high": 4, "mid": 4}
    assert source.sampling_rates == {16_000: 11, 22_050: 1}
    assert source.licences == {"CC0-1.0": 8, "CC-BY-4.0": 4, "not stated": 1}
    assert source.fingerprint == "f00"
    assert source.hours_known
    assert source.hours == pytest.approx((3 + 11 * 0.8) / 12 * 13 / 3600, rel=1e-3)


def test_views_are_windows_of_clips_of_the_first_batch(gathered: ReportContents, clips: Clips):
    assert isinstance(gathered.seen, Seen)
    assert len(gathered.seen.clips) == 2
    assert len({seen.clip.label for seen in gathered.seen.clips}) == 2
    batch = clips.batch(0)
    for seen in gathered.seen.clips:
        [moment] = seen.moments
        assert moment.step == 1
        assert [view.name for view in moment.panels] == ["G1", "G2", "L1", "L2", "L3"]
        assert any(np.array_equal(seen.clip.samples, one) for one in batch.clips.numpy())
        for view in moment.panels:
            assert view.is_window
            assert 0 <= view.start_s <= view.start_s + view.duration_s <= 0.7
            assert len(view.frames) == round(view.duration_s * 100)


def test_the_map_holds_every_readable_row(gathered: ReportContents, source: Manifest):
    made = gathered.map
    assert not isinstance(made, Absent)
    assert made.recordings == tuple(source.keys[:12])
    assert made.labels == tuple(source.columns["label"][:12])
    assert (made.n_rows, made.n_refused) == (13, 1)
    assert 1 >= sum(made.explained) > 0
    assert made.agreement is not None
    assert made.agreement.n == 12
    assert made.agreement.chance == pytest.approx(1 / 3)
    assert made.agreement.rate.value > 0.9  # pitches are far apart, even for random weights


def test_neighbours_come_from_other_groups_and_can_be_heard(gathered: ReportContents):
    assert isinstance(gathered.queries, tuple)
    made = gathered.map
    assert not isinstance(made, Absent)
    place = {number: i for i, number in enumerate(made.heard) if number is not None}
    assert sorted(place) == list(range(len(gathered.heard)))
    for query in gathered.queries:
        assert len(query.hits) == 2
        for hit in query.hits:
            asked, found = gathered.heard[query.heard], gathered.heard[hit.heard]
            assert int(asked.recording[:-4]) // 3 != int(found.recording[:-4]) // 3
            assert hit.same is (asked.label == found.label)
            assert made.recordings[place[hit.heard]] == found.recording
            assert found.duration_s <= 1.0


def test_what_is_heard_is_what_was_embedded(encoder: Encoder, source: Manifest):
    narrowed = narrow(source.select([0, 1]), 1.0)
    assert narrowed.onset_s.tolist() == [1.0, 0.0]
    assert narrowed.offset_s[0] == 2.0
    assert np.isnan(narrowed.offset_s[1])


def test_a_labelled_segment_stays_and_a_long_one_is_cut_to_its_middle(source: Manifest):
    segments = dataclasses.replace(
        source.select([0, 0, 0]), onset_s=np.array([0.5, 0.5, 2.5]), offset_s=np.array([0.75, 2.5, np.nan])
    )
    narrowed = narrow(segments, 1.0)
    np.testing.assert_allclose(narrowed.onset_s, [0.5, 1.0, 2.5])
    np.testing.assert_allclose(narrowed.offset_s, [0.75, 2.0, np.nan])


def test_projection_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA

    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double().numpy() @ np.diag([5, 4, 1, 1, 1, 1])
    rows -= rows.mean(0)
    xy, explained = project(rows)
    theirs = PCA(2).fit(rows)
    np.testing.assert_allclose(np.abs(xy), np.abs(theirs.transform(rows)), rtol=1e-8)
    np.testing.assert_allclose(explained, theirs.explained_variance_ratio_, rtol=1e-8)


def test_flat_embeddings_are_projected():
    xy, explained = project(np.zeros((4, 1)))
    assert not xy.any()
    assert explained == (0.0, 0.0)


def test_fewer_points_are_drawn_by_the_seed(run: Path, source: Manifest, encoder: Encoder):
    config = ReportConfig(n_points=7, n_queries=1, n_neighbours=1)
    one, other = (
        gather(run, sources=[source], clips=None, objective=None, encoder=encoder, config=config) for _ in "ab"
    )
    assert not isinstance(one.map, Absent)
    assert len(one.map.labels) in (6, 7)
    assert build_report(one) == build_report(other)


def test_a_run_that_has_not_finished(run: Path, source: Manifest, clips: Clips, objective: Lejepa):
    contents = gather(run, sources=[source], clips=clips, objective=objective, encoder=None)
    assert isinstance(contents.map, Absent)
    assert "has not finished" in contents.map.reason
    assert isinstance(contents.seen, Seen)


def test_one_group_has_no_neighbours(run: Path, source: Manifest, encoder: Encoder):
    alone = source.select(range(6))
    alone = dataclasses.replace(alone, columns={**alone.columns, "group": ["me"] * 6})
    contents = gather(run, sources=[alone], clips=None, objective=None, encoder=encoder)
    assert isinstance(contents.queries, Absent)
    assert not isinstance(contents.map, Absent)
    assert contents.map.agreement is None
    build_report(contents)


def test_two_readable_rows_make_no_map(run: Path, source: Manifest, encoder: Encoder):
    contents = gather(run, sources=[source.select([1, 2, 12])], clips=None, objective=None, encoder=encoder)
    assert isinstance(contents.map, Absent)
    assert contents.map.reason == "only 2 of 3 rows could be embedded; a map needs at least 3"


def test_recordings_that_are_gone(run: Path, source: Manifest, objective: Lejepa, encoder: Encoder, tmp_path: Path):
    gone = dataclasses.replace(source, root=tmp_path)
    clips = Clips([gone], [1.0], LoaderConfig(clip_s=0.7), sampling_rate=RATE, batch_size=4, seed=5)
    contents = gather(run, sources=[gone], clips=clips, objective=objective, encoder=encoder)
    assert isinstance(contents.seen, Absent)
    assert "cannot be read" in contents.seen.reason
    assert isinstance(contents.map, Absent)
    assert len(contents.failures) == 14  # 13 files that are not there, and the one that the run refused
    build_report(contents)


def test_labels_that_nobody_else_has_are_not_judged(run: Path, source: Manifest, encoder: Encoder):
    some = source.select(range(12))
    labels = ["lonely", *some.columns["label"][1:]]
    some = dataclasses.replace(some, columns={**some.columns, "label": labels})
    config = ReportConfig(n_queries=3, n_neighbours=1)
    contents = gather(run, sources=[some], clips=None, objective=None, encoder=encoder, config=config)
    assert not isinstance(contents.map, Absent)
    assert contents.map.agreement is not None
    assert contents.map.agreement.n == 11
    assert isinstance(contents.queries, tuple)
    assert [contents.heard[query.heard].label for query in contents.queries[:3]] == ["high", "low", "mid"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no run here"):
        gather(tmp_path, sources=[], clips=None, objective=None, encoder=None)


def test_hours_from_the_manifest(source: Manifest):
    told = dataclasses.replace(source, duration_s=np.full(len(source), 360.0))
    assert summarise(told, "").hours == pytest.approx(1.3)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="n_points"):
        ReportConfig(n_points=0)
    with pytest.raises(ValueError, match="n_drawn"):
        ReportConfig(n_drawn=-1)


def test_the_page_of_all_this_is_small(gathered: ReportContents):
    assert len(build_report(gathered)) < 1_000_000
