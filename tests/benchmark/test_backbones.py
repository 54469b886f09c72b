"""What every adapter must pass, whatever is behind it: each line of it has been somebody's public bug."""

import json
from functools import cache
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from birdjepa.benchmark.backbones.base import Backbone, Card, Heard, Want, cover, unpadded
from birdjepa.benchmark.backbones.named import open_backbone
from birdjepa.core.errors import UserError
from birdjepa.models.loading import load
from tests.benchmark.backbones import tiny_models
from tests.benchmark.backbones.tiny_models import FRONT_END, RATE, SPECS, waves

SHORT_S = 0.375

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Adapters by name, each made once."""

    @cache
    def open_named(name: str) -> Backbone:
        return open_backbone(name, SPECS[name](tmp_path_factory.mktemp("models")))

    return open_named


@pytest.fixture(params=sorted(SPECS))
def backbone(request, opened) -> Backbone:
    return opened(request.param)


def everything(backbone: Backbone) -> Want:
    card = backbone.card
    layers = tuple(range(1, card.n_layers + 1))
    return Want(layers=layers, tokens=card.token_width is not None, logits=bool(card.classes))


def seconds(backbone: Backbone, length_s: float = 1.0) -> int:
    """As samples."""
    return round(length_s * backbone.card.sampling_rate)


def embed(backbone: Backbone, examples, want: Want | None = None) -> Heard:
    return backbone.embed(examples, want or everything(backbone), sampling_rate=backbone.card.sampling_rate)


def assert_equal(got: Heard, expected: Heard, rows=slice(None), of=slice(None)):
    np.testing.assert_allclose(got.pooled[:, rows], expected.pooled[:, of], **CLOSE)
    for name in ("tokens", "real", "logits"):
        a, b = getattr(got, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a[rows], b[of], **CLOSE)


def test_outputs_are_what_the_card_declares(backbone):
    card, heard = backbone.card, embed(backbone, waves(3, seconds(backbone)))
    assert heard.pooled.shape == (card.n_layers, 3, card.width)
    assert {each.dtype for each in (heard.pooled, heard.tokens)} == {torch.float32}
    assert heard.tokens.shape[::2] == (3, card.token_width)
    assert heard.tokens.shape[1] % card.token_rows == 0
    assert heard.real[0].sum() / card.token_rows * card.token_hop_s == pytest.approx(1.0, abs=2.6 * card.token_hop_s)
    if card.classes:
        assert heard.logits.shape == (3, len(card.classes))
    assert card.licence
    assert card.preprocessing
    assert backbone.device.type == "cpu"


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_and_constants_give_numbers(backbone, level):
    heard = embed(backbone, [np.full(seconds(backbone, each), level, dtype=np.float32) for each in (1.0, 0.5)])
    assert all(each.isfinite().all() for each in heard if each is not None)


def test_different_sounds_differ_in_every_layer(backbone):
    pooled = embed(backbone, waves(3, seconds(backbone))).pooled
    assert ((pooled[:, 0] - pooled[:, 1]).abs().amax(1) > 1e-4).all()
    assert ((pooled[:, 1] - pooled[:, 2]).abs().amax(1) > 1e-4).all()


def test_what_else_is_in_the_batch_does_not_matter(backbone):
    clips = [*waves(3), *waves(2, 9_000, seed=1), *waves(1, 40_000, seed=2), *waves(2, seed=3)]
    together = embed(backbone, clips)
    for row, clip in enumerate(clips):
        alone = embed(backbone, [clip])
        n_tokens = alone.tokens.shape[1]
        np.testing.assert_allclose(together.pooled[:, row], alone.pooled[:, 0], **CLOSE)
        np.testing.assert_allclose(together.tokens[row, :n_tokens], alone.tokens[0], **CLOSE)
        assert not together.real[row, n_tokens:].any()


def test_padding_changes_nothing_but_length(backbone):
    card = backbone.card
    n_short = seconds(backbone, SHORT_S)
    short = waves(1, n_short)[0]
    length = card.clip_samples if card.fixed_length else seconds(backbone, 0.6)
    padded = torch.zeros(2, length)
    padded[0, :n_short] = torch.from_numpy(short)
    padded[1] = torch.from_numpy(waves(1, length, seed=4)[0])
    heard = backbone.hear(padded, torch.tensor([n_short, length]), everything(backbone))
    alone = embed(backbone, [short])
    n_real = int(alone.real[0].sum())
    assert heard.real[0].sum() == n_real
    assert heard.real[0, :n_real].all()
    assert n_real / card.token_rows * card.token_hop_s == pytest.approx(SHORT_S, abs=2.6 * card.token_hop_s)
    np.testing.assert_allclose(heard.tokens[0, :n_real], alone.tokens[0, :n_real], **CLOSE)
    np.testing.assert_allclose(heard.pooled[:, 0], alone.pooled[:, 0], **CLOSE)
    assert_equal(heard, embed(backbone, [padded[1].numpy()]), [1], [0])


def test_other_lengths_and_rates_are_refused(backbone):
    card = backbone.card
    long = torch.zeros(1, card.clip_samples + 1)
    with pytest.raises(ValueError, match=rf"{card.name} hears clips of \d+ to {card.clip_samples} samples, got"):
        backbone.hear(long, torch.tensor([4]), Want())
    with pytest.raises(ValueError, match="n_samples must be in"):
        backbone.hear(torch.zeros(1, card.clip_samples), torch.tensor([card.clip_samples + 1]), Want())
    if card.least_samples > 1:
        with pytest.raises(ValueError, match="hears clips of"):
            backbone.hear(torch.zeros(1, card.least_samples - 1), torch.tensor([1]), Want())
    with pytest.raises(ValueError, match=r"hears \d+ Hz, got 8000 Hz: resample first"):
        backbone.embed(waves(1), Want(), sampling_rate=8_000)


def test_one_sample_is_an_example(backbone):
    heard = embed(backbone, [np.full(1, 0.5, dtype=np.float32)])
    assert heard.real.any()
    assert heard.pooled.isfinite().all()


def test_layers_are_numbered_from_one_and_come_in_the_order_asked(backbone):
    n_layers = backbone.card.n_layers
    every = embed(backbone, waves()).pooled
    last = embed(backbone, waves(), Want())
    np.testing.assert_allclose(last.pooled[0], every[-1], **CLOSE)
    assert last.tokens is last.real is last.logits is None
    if n_layers > 1:
        turned = embed(backbone, waves(), Want(layers=(n_layers, 1)))
        np.testing.assert_allclose(turned.pooled, every[[-1, 0]], **CLOSE)
        first = embed(backbone, waves(), Want(layers=(1,), tokens=True))
        assert not np.allclose(first.tokens, embed(backbone, waves()).tokens)
    for wrong in (0, n_layers + 1):
        with pytest.raises(ValueError, match=f"layers 1 to {n_layers}, got"):
            embed(backbone, waves(), Want(layers=(wrong,)))


def test_what_the_card_excludes_is_refused(backbone):
    if not backbone.card.classes:
        with pytest.raises(ValueError, match="no classes of its own"):
            embed(backbone, waves(), Want(logits=True))


def test_long_examples_are_heard_in_clips_that_cover_them(backbone):
    card = backbone.card
    clip = card.clip_samples
    long = waves(1, clip * 5 // 2)[0]
    got = embed(backbone, [long])
    middle = (long.size - clip) // 2
    parts = embed(backbone, [long[:clip], long[middle : middle + clip], long[-clip:]])
    np.testing.assert_allclose(got.pooled[:, 0], parts.pooled.mean(1), **CLOSE)
    np.testing.assert_allclose(got.tokens[0], parts.tokens.flatten(0, 1), **CLOSE)
    if card.classes:
        np.testing.assert_allclose(got.logits[0], parts.logits.amax(0), **CLOSE)


def test_two_pitches_can_be_told_apart(backbone):
    """A tiny labelled set: tones in noise, the nearest mean of eight; chance is one half."""
    rng = np.random.default_rng(7)
    hertz = np.repeat([400.0, 3_000.0], 12)
    n_samples = seconds(backbone)
    time_s = np.arange(n_samples) / n_samples
    sounds = [np.sin(2 * np.pi * each * rng.uniform(0.9, 1.1) * time_s + rng.uniform(0, 6)) for each in hertz]
    clips = [(0.3 * each + 0.02 * rng.standard_normal(n_samples)).astype(np.float32) for each in sounds]
    pooled = embed(backbone, clips, Want()).pooled[0].numpy()
    train = np.tile(np.arange(12) < 8, 2)
    pooled = (pooled - pooled[train].mean(0)) / (pooled[train].std(0) + 1e-6)
    low, high = pooled[train & (hertz < 1_000)].mean(0), pooled[train & (hertz > 1_000)].mean(0)
    is_high = ((pooled - high) ** 2).sum(1) < ((pooled - low) ** 2).sum(1)
    assert (is_high == (hertz > 1_000))[~train].mean() >= 0.75


def test_identity_is_json_and_the_same_when_opened_again(backbone, tmp_path):
    name = backbone.card.name
    again = open_backbone(name, SPECS[name](tmp_path))
    assert json.loads(json.dumps(backbone.identity)) == backbone.identity == again.identity
    assert_equal(embed(again, waves()), embed(backbone, waves()))


def test_identities_differ(opened):
    identities = [json.dumps(opened(name).identity, sort_keys=True) for name in SPECS]
    assert len(set(identities)) == len(identities)


def logmel_by_numpy(clip: np.ndarray) -> np.ndarray:
    config = FRONT_END
    starts = range(0, len(clip) - config.window + 1, config.hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    spectra = np.fft.rfft([clip[i : i + config.window] * hann for i in starts], n=config.n_fft)
    bank = librosa.filters.mel(sr=RATE, n_fft=config.n_fft, n_mels=32, fmin=config.f_min, fmax=8_000, norm="slaney")
    frames = (10 * np.log10(np.maximum(np.abs(spectra) ** 2 @ bank.T, config.floor)) - config.mean) / config.std
    return np.concatenate((frames.mean(0), frames.std(0)))


def encoder_by_hand(folder: Path, clip: np.ndarray) -> np.ndarray:
    patches = load(folder)(torch.from_numpy(clip[None])).patches[0].detach().numpy()
    return np.concatenate((patches.mean(0), np.sqrt(patches.var(0) + 1e-8)))


def hubert_by_hand(folder: Path, clip: np.ndarray) -> np.ndarray:
    from transformers import HubertModel

    normal = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    model = HubertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.from_numpy(normal[None])).last_hidden_state[0].mean(0).numpy()


def ast_by_hand(folder: Path, clip: np.ndarray) -> np.ndarray:
    """Patches of 16 x 16 every 10: column 9 of time begins at 900 ms, so all columns of 1 s are heard."""
    from transformers import ASTFeatureExtractor, ASTModel

    inputs = ASTFeatureExtractor.from_pretrained(folder)(clip, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        return ASTModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0, 2:].mean(0).numpy()


def onnx_by_numpy(_: Path, clip: np.ndarray) -> np.ndarray:
    return tiny_models.onnx_map(clip).mean((0, 1))


REFERENCES = {
    "logmel": lambda folder, clip: logmel_by_numpy(clip),
    "export": lambda folder, clip: encoder_by_hand(folder / "encoder", clip),
    "onnx": onnx_by_numpy,
    "onnx-one-by-one": lambda folder, clip: onnx_by_numpy(folder, clip * (0.25 / np.abs(clip).max())),
    "hubert": lambda folder, clip: hubert_by_hand(folder / "hubert", clip),
    "ast": lambda folder, clip: ast_by_hand(folder / "ast", clip),
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_reference_vectors_of_three_clips(name, tmp_path):
    """By other code than the adapter's; for ours and transformers' the model itself is taken as given."""
    backbone = open_backbone(name, SPECS[name](tmp_path))
    got = embed(backbone, waves(), Want()).pooled[0]
    for row, clip in enumerate(waves()):
        np.testing.assert_allclose(got[row], REFERENCES[name](tmp_path, clip), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["export", "random", "bird-mae", "audio-mae"])
@pytest.mark.parametrize("length_s", [0.01, 0.7, 1.0, 5.0, 10.0])
def test_our_encoders_are_pooled_as_they_pool_themselves(opened, name, length_s):
    backbone = opened(name)
    clip = waves(1, min(seconds(backbone, length_s), backbone.card.clip_samples))[0]
    expected = backbone.encoder.pooled(torch.from_numpy(clip[None]), backbone._pooling)
    np.testing.assert_allclose(embed(backbone, [clip], Want()).pooled[0], expected, **CLOSE)


def test_tokens_lie_where_the_card_says(opened):
    """Sound in the second half only leaves the tokens of the first as they were, in models without attention."""
    for name in ("logmel", "onnx"):
        backbone = opened(name)
        card = backbone.card
        quiet = np.zeros(RATE, dtype=np.float32)
        late = quiet.copy()
        late[RATE // 2 :] = waves(1)[0][RATE // 2 :]
        assert card.sampling_rate == RATE
        before, after = embed(backbone, [quiet, late], Want(tokens=True)).tokens
        changed = ((before - after).abs().amax(1) > 1e-3).view(-1, card.token_rows).any(1)
        first = int(torch.nonzero(changed)[0, 0]) * card.token_hop_s
        assert 0.5 - card.token_hop_s - FRONT_END.window / RATE <= first <= 0.5
        assert changed[-1]


@pytest.mark.parametrize(
    ("n_samples", "clip", "starts"),
    [
        (5, 3, [0, 2]),
        (3, 3, [0]),
        (1, 3, [0]),
        (4, 3, [0, 1]),
        (6, 3, [0, 3]),
        (8, 3, [0, 2, 5]),
        (10, 3, [0, 2, 5, 7]),
    ],
)
def test_clips_cover_an_example_evenly(n_samples, clip, starts):
    """Three seconds on five: 0 to 3 and 2 to 5."""
    assert cover(n_samples, clip) == starts


class Broken(Backbone):
    """A model that answers loud clips with NaN, or with too many numbers."""

    def __init__(self, width: int = 1) -> None:
        self.device = torch.device("cpu")
        self.card = Card(
            name="broken",
            sampling_rate=10,
            clip_s=1.0,
            fixed_length=False,
            preprocessing="none",
            width=1,
            licence="none",
        )
        self.width = width

    @property
    def identity(self):
        return {}

    def _hear(self, clips, n_samples, want):
        loudest = clips.amax(1, keepdim=True).expand(-1, self.width)
        return Heard(torch.where(loudest > 1, torch.nan, loudest)[None])


def test_nan_names_the_model_and_the_example():
    loud = np.full(35, 2.0, dtype=np.float32)
    with pytest.raises(UserError, match="broken: NaN or infinite numbers in the embedding of XC7"):
        Broken().embed([loud / 4, loud], Want(), sampling_rate=10, names=["XC6", "XC7"])
    with pytest.raises(UserError, match="embedding of example 0"):
        Broken().embed([loud], Want(), sampling_rate=10)


def test_numbers_that_the_card_does_not_promise_are_refused():
    """A public BirdNET embedding was the waveform itself."""
    with pytest.raises(ValueError, match=r"promises pooled of shape \(1, 1, 1\), the model gives \(1, 1, 7\)"):
        Broken(7).embed([np.zeros(4, dtype=np.float32)], Want(), sampling_rate=10)


def test_examples_must_hold_samples():
    bad = np.array([0, np.nan], dtype=np.float32)
    with pytest.raises(ValueError, match=r"b\.wav holds NaN or infinite samples"):
        Broken().embed([np.zeros(3, np.float32), bad], Want(), sampling_rate=10, names=["a.wav", "b.wav"])
    with pytest.raises(ValueError, match="example 0 is empty"):
        Broken().embed([np.zeros(0, np.float32)], Want(), sampling_rate=10)
    with pytest.raises(ValueError, match="at least one example"):
        Broken().embed([], Want(), sampling_rate=10)


def test_rows_come_back_in_their_order_whatever_their_lengths():
    clips = torch.arange(1.0, 6.0)[:, None].expand(-1, 8)
    heard = unpadded(clips, torch.tensor([3, 8, 2, 3, 8]), lambda own: Heard(own.sum(1, keepdim=True)[None]))
    assert heard.pooled.flatten().tolist() == [3, 16, 6, 12, 40]


def test_warnings_are_those_of_the_task_and_its_suite(opened):
    card = opened("logmel").card
    assert card.warnings("ssw", "birdset") == ()
    seen = type(card)(**{**vars(card), "overlaps": (("birdset", "heard it"), ("ssw", "all of it"), ("hsn", "part"))})
    assert seen.warnings("ssw", "birdset") == ("heard it", "all of it")
