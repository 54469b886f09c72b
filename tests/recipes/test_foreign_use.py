"""Converted encoders in every job that takes an encoder: embedding, probes, fine-tuning; and where they are refused."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from pyarrow import parquet
from tiny_run import tiny, tiny_finetune, write_folds

from birdjepa.audio.recording import Recording
from birdjepa.checkpoint.foreign import convert
from birdjepa.cli import main
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UsageError
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.embed.embedders import LogMelStatistics, Pooled
from birdjepa.embed.rows import embed_rows
from birdjepa.models.classifier import load_classifier
from birdjepa.models.encoder import Encoder
from birdjepa.models.loading import load, read_provenance
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.base import Chance, DataSize
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.recipes import finetune
from birdjepa.recipes.probe import ProbeConfig, probe
from tests.checkpoint import reference_mae as reference

KINDS = ("bird-mae", "audio-mae")


def silent(_):
    pass


def batch_of(clips):
    numbers = torch.arange(len(clips))
    return ClipBatch(
        clips=clips,
        lengths=torch.full((len(clips),), clips.shape[1]),
        label=numbers % 2,
        labels=torch.eye(2).bool()[numbers % 2],
        recording=numbers,
        refused=(),
    )


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_folds(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    found = {}
    for kind in KINDS:
        norms = ("norm", "fc_norm") if kind == "bird-mae" else ("norm",)
        hub = reference.write(tmp_path_factory.mktemp(kind), kind, reference.checkpoint(kind, 32, 2, norms), 2)
        encoder, card, provenance = convert(kind, str(hub))
        found[kind] = encoder.save(tmp_path_factory.mktemp("encoders") / kind, card=card, provenance=provenance)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_a_collection_equals_embedding_waveforms(kind, encoders, songs, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    songs = songs.with_name("metadata.csv")
    assert main(["embed", str(encoders[kind]), str(songs), "--out", str(out)]) == 0
    rows = parquet.read_table(out).to_pylist()
    encoder, manifest = load(encoders[kind]), open_data(str(songs), ColumnConfig())
    assert len(rows) == len(manifest)
    for row in (0, 5):
        with Recording(manifest.source(row)) as recording:
            wave, rate = recording.crop(0, 10**9, None), recording.sampling_rate
        alone = encoder.embed(wave, sampling_rate=rate).embedding[0].numpy()
        np.testing.assert_allclose(rows[row]["embedding"], alone, rtol=0, atol=1e-5)
    again = ["embed", str(encoders[kind]), str(songs), "--out", str(tmp_path / "x")]
    assert main([*again, "config:clip-config", "--clip-s", "11", "--hop-s", "11"]) == 2
    assert "clips.clip_s=11 s is too long: this encoder takes clips of at most" in capsys.readouterr().err
    if kind == "audio-mae":
        assert (
            main(["embed", str(encoders[kind]), str(songs), "--out", str(tmp_path / "x"), "--pooling", "fc_norm"]) == 2
        )
        assert "pooling=fc_norm needs an encoder with that norm" in capsys.readouterr().err


def test_a_whole_clip_of_a_recording_is_not_trimmed(encoders, tmp_path):
    """Five seconds are 31 whole patch columns and a part: the encoder must hear all of them."""
    wave = np.random.default_rng(0).standard_normal(2 * 160_000).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "long.wav", wave, 32_000, subtype="FLOAT")
    encoder = load(encoders["bird-mae"])
    embedded = embed_rows([Pooled(encoder, "fc_norm")], open_data(str(tmp_path), ColumnConfig()))
    expected = encoder.pooled(torch.from_numpy(wave).reshape(2, 160_000)).mean(0)
    torch.testing.assert_close(torch.from_numpy(embedded.tables[0][0]), expected, rtol=0, atol=1e-5)


def test_segments_are_pooled_inside_and_cls_sees_too_much(encoders, songs, tmp_path):
    labelled = tmp_path / "segments.csv"
    rows = [f"{songs.parent}/000.wav,a,0.1,0.3", f"{songs.parent}/001.wav,b,0.2,0.6"]
    labelled.write_text("\n".join(["path,label,onset_s,offset_s", *rows]))
    encoder = load(encoders["bird-mae"])
    embedded = embed_rows([Pooled(encoder, "fc_norm")], open_data(str(labelled), ColumnConfig()))
    assert np.isfinite(embedded.tables[0]).all()
    assert len(embedded.tables[0]) == 2


def test_the_floor_of_log_mel_statistics_hears_no_padding(encoders):
    encoder, wave = load(encoders["audio-mae"]), 0.1 * torch.randn(1, 16_000)
    statistics = LogMelStatistics(encoder.config).embed(wave, np.array([[0.0, np.inf]]))
    frames = encoder.front_end(wave)[0, :98]
    torch.testing.assert_close(statistics[0, :128], frames.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_probe_runs_on_it(kind, encoders, songs):
    config = ProbeConfig(data=str(songs), folds="fold", layers=True, columns=ColumnConfig(labels="none"))
    result = probe(encoders[kind], config, silent)
    assert result.score.accuracy.value > 0.8
    assert len(result.layers) == 2
    assert result.described["embedding_width"] == 32


@pytest.mark.parametrize(
    ("kind", "head"), [("bird-mae", "pooled"), ("audio-mae", "pooled"), ("bird-mae", "prototypical")]
)
def test_fine_tuning_trains_all_but_the_positions(kind, head, encoders, songs, tmp_path):
    config = tiny_finetune(encoders[kind], songs, tmp_path / "run", folds="fold", test="a", steps=4)
    chosen = dataclasses.replace(config.objective, head=dataclasses.replace(config.objective.head, form=head))
    config = dataclasses.replace(config, objective=chosen)
    result = finetune.start(config, silent)
    before, after = load(encoders[kind]).state_dict(), load(result.folder / "last").state_dict()
    still = {name for name, tensor in before.items() if tensor.numel() and torch.equal(tensor, after[name])}
    unused = {("bird-mae", "pooled"): "vit.norm", ("bird-mae", "prototypical"): "vit.fc_norm"}.get((kind, head), "none")
    assert {name for name in still if not name.startswith(unused)} == {"vit.positions"}
    classifier = load_classifier(result.folder / "model")
    found = classifier.predict(np.zeros(20_000, np.float32), sampling_rate=8_000)
    assert found.probability.isfinite().all()
    assert json.loads((result.folder / "model" / "config.json").read_text())["config"]["clips"]["clip_s"] == 0.9
    assert read_provenance(result.folder / "model")["converted"] == read_provenance(encoders[kind])["converted"]
    assert read_provenance(encoders[kind])["converted"]["terms"] in (result.folder / "model" / "README.md").read_text()


def test_padding_does_not_count_in_training_either(encoders):
    encoder = load(encoders["audio-mae"])
    unaltered = AugmentConfig(gain_db=0.0, mix_probability=0.0, mask_mels=0, mask_share=0.0)
    objective = SupervisedConfig(augment=unaltered).build(encoder, 0, DataSize(2, 2)).eval()
    batch = batch_of(0.1 * torch.randn(2, 16_000))
    seen = objective(batch, Chance(0, 0, 1)).embedding
    torch.testing.assert_close(seen, encoder.pooled(batch.clips), rtol=0, atol=1e-5)
    assert (seen - encoder(batch.clips).patches.mean(1)).abs().max() > 1e-3


def test_clips_longer_than_the_encoders_are_refused(encoders, songs, tmp_path):
    config = tiny_finetune(encoders["bird-mae"], songs, tmp_path / "run")
    longer = dataclasses.replace(config, loader=dataclasses.replace(config.loader, clip_s=6.0))
    with pytest.raises(
        UsageError, match=r"loader.clip_s: clips.clip_s=6 s is too long: this encoder takes .* at most 5 s"
    ):
        longer.check()


def test_pretraining_refuses_what_only_converted_encoders_have(songs, tmp_path):
    config = tiny(songs, tmp_path / "run")
    for part, changes in (("encoder", {"fc_norm": True}), ("front_end", {"clip_samples": 8000, "clip_frames": 128})):
        other = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})
        with pytest.raises(UsageError, match="are for converted encoders, which are fine-tuned"):
            other.check()


def test_an_objective_that_shows_a_part_of_a_clip_says_so(encoders):
    encoder: Encoder = load(encoders["bird-mae"])
    objective = LejepaConfig().build(encoder, 0, DataSize(2, 2))
    with pytest.raises(ValueError, match="keeps positions of all 256 patches of a clip, and was given"):
        objective(batch_of(torch.zeros(4, 160_000)), Chance(0, 0, 1))
