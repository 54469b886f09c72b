"""Frozen features: computed once, resumed after a kill, the same whatever else is asked for; bad recordings cost their
own rows."""

import multiprocessing
import time

import numpy as np
import pytest
import torch
from tiny_sets import RATE
from tiny_tasks import tone, write_manifest

from birdjepa.benchmark import features
from birdjepa.benchmark.backbones.base import Backbone, Card, Heard, Want
from birdjepa.benchmark.features import ExtractConfig, extract
from birdjepa.benchmark.tasks.base import Examples
from birdjepa.core.errors import Interrupted, UserError
from birdjepa.data.sources import open_data

N = 11


class Levels(Backbone):
    """Two layers: each clip's mean square, once and twice; a token for each 0.1 s; counts what it hears."""

    device = torch.device("cpu")

    def __init__(self, name: str = "levels") -> None:
        self.card = Card(
            name=name,
            sampling_rate=RATE,
            clip_s=0.4,
            fixed_length=False,
            preprocessing="none",
            width=1,
            n_layers=2,
            token_width=1,
            classes=("loud", "quiet"),
            licence="none",
        )
        self.n_heard = 0

    @property
    def identity(self):
        return {"name": self.card.name}

    def _hear(self, clips, n_samples, want: Want) -> Heard:
        self.n_heard += len(clips)
        power = clips.square().mean(1, keepdim=True)
        tokens = clips[:, : clips.shape[1] // 800 * 800].unflatten(1, (-1, 800)).square().mean(2, keepdim=True)
        return Heard(
            torch.stack([power * layer for layer in want.layers]),
            tokens if want.tokens else None,
            torch.ones(tokens.shape[:2], dtype=torch.bool) if want.tokens else None,
            torch.cat([power, -power], 1) if want.logits else None,
        )


@pytest.fixture
def examples(tmp_path):
    lengths = [0.6] * N
    lengths[3], lengths[7] = 0.25, 0.6
    for number, seconds in enumerate(lengths):
        (tmp_path / f"{number}.wav").write_bytes(tone(number, seconds, number))
    (tmp_path / "5.wav").write_bytes(b"not audio at all, but long enough to be looked at")
    rows = [{"path": f"{number}.wav", "label": "x", "split": "train"} for number in range(N)]
    manifest = open_data(str(write_manifest(tmp_path, "m", rows)))
    return Examples(
        manifest=manifest,
        row=np.arange(N),
        onset_s=np.zeros(N),
        length_s=np.full(N, 0.6),
        truth=np.ones((N, 1), dtype=np.int8),
        classes=("x",),
        groups=tuple(manifest.keys),
        ids=tuple(manifest.keys),
        parts=(),
    )


def run(backbone, examples, cache, *, layers=(2,), tokens=False, logits=False, batch=4, stop=lambda: False):
    config = ExtractConfig(batch_size=batch)
    return extract(
        backbone,
        examples,
        layers=layers,
        tokens=tokens,
        logits=logits,
        cache=cache,
        config=config,
        say=lambda _: None,
        stop=stop,
    )


def test_values_and_refusals(examples, tmp_path):
    found = run(Levels(), examples, tmp_path / "cache", layers=(1, 2), tokens=True, logits=True)
    assert found.heard.tolist() == [row != 5 for row in range(N)]
    assert [(each.path.endswith("5.wav"), each.stage) for each in found.refused] == [(True, "decode")]
    assert found.refused[0].reason.startswith("not audio")
    np.testing.assert_allclose(found.pooled[2], 2 * found.pooled[1])
    assert found.pooled[1][5] == 0
    assert found.tokens.shape == (N, 8, 1)  # 0.6 s as two clips of 0.4 s
    assert found.tokens.dtype == np.float16
    assert found.real.sum(1).tolist() == [8, 8, 8, 2, 8, 0, 8, 8, 8, 8, 8]
    assert (found.logits[:, 0] >= found.pooled[1][:, 0]).all()  # the highest of two clips, and their mean
    assert (found.logits[:, 0] + found.logits[:, 1] >= 0).all()
    alone = Levels().embed([_wave(examples, 4)], Want(layers=(1,)), sampling_rate=RATE)
    np.testing.assert_array_equal(found.pooled[1][4], alone.pooled[0, 0].numpy())


def _wave(examples, row):
    from birdjepa.audio.decode import read_clip

    return read_clip(examples.manifest.source(row), RATE, duration_s=0.6)


def test_what_is_kept_is_not_computed_again(examples, tmp_path):
    first, second = Levels(), Levels()
    before = run(first, examples, tmp_path, layers=(1,))
    again = run(second, examples, tmp_path, layers=(1,))
    assert second.n_heard == 0
    np.testing.assert_array_equal(before.pooled[1], again.pooled[1])
    more = run(second, examples, tmp_path, layers=(1, 2))
    assert second.n_heard == first.n_heard
    np.testing.assert_array_equal(more.pooled[2], 2 * before.pooled[1])
    other = Levels("other")
    run(other, examples, tmp_path, layers=(1,))
    assert other.n_heard == first.n_heard


def test_a_run_that_ends_half_way_goes_on(examples, tmp_path, monkeypatch):
    whole = run(Levels(), examples, tmp_path / "whole", layers=(1, 2), tokens=True)
    monkeypatch.setattr(features, "SYNC_S", -1.0)

    class Dies(Levels):
        def _hear(self, clips, n_samples, want):
            if self.n_heard > 12:
                raise KeyboardInterrupt
            return super()._hear(clips, n_samples, want)

    with pytest.raises(KeyboardInterrupt):
        run(Dies(), examples, tmp_path / "half", layers=(1, 2), tokens=True, batch=2)
    resumed = Levels()
    found = run(resumed, examples, tmp_path / "half", layers=(1, 2), tokens=True, batch=3)
    assert 0 < resumed.n_heard < 20
    for layer in (1, 2):
        np.testing.assert_array_equal(found.pooled[layer], whole.pooled[layer])
    np.testing.assert_array_equal(found.tokens, whole.tokens)
    np.testing.assert_array_equal(found.real, whole.real)
    assert found.refused == whole.refused


def test_a_stop_is_heeded_and_kept(examples, tmp_path):
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="stopped with 8 of 11"):
        run(Levels(), examples, tmp_path, stop=lambda: next(asked))
    resumed = Levels()
    run(resumed, examples, tmp_path)
    assert resumed.n_heard == 6  # two clips of each of three


def test_nothing_to_hear_is_an_error(examples, tmp_path):
    for number in range(N):
        examples.manifest.path(number).write_bytes(b"x")
    with pytest.raises(UserError, match="none of 11 recordings could be read; the first"):
        run(Levels(), examples, tmp_path)


class Slow(Levels):
    def _hear(self, clips, n_samples, want):
        time.sleep(0.05)
        return super()._hear(clips, n_samples, want)


def _other_process(examples, cache, answer):
    backbone = Slow()
    found = run(backbone, examples, cache)
    answer.put((backbone.n_heard, found.pooled[2].tolist()))


def test_processes_that_want_the_same_share_the_work(examples, tmp_path):
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    others = [context.Process(target=_other_process, args=(examples, tmp_path, answer)) for _ in range(3)]
    for each in others:
        each.start()
    said = [answer.get(timeout=60) for _ in others]
    for each in others:
        each.join()
    assert sorted(n for n, _ in said)[:2] == [0, 0]
    assert said[0][1] == said[1][1] == said[2][1]
