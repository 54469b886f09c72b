"""Each classifier's formula against a plain loop."""

import numpy as np
import pytest
import torch
from classifier_examples import toy
from torch import nn

from birdjepa.benchmark.classifiers import (
    AttentiveConfig,
    CentroidConfig,
    DeepAttentiveConfig,
    Features,
    KnnConfig,
    PrototypicalConfig,
    Rows,
    fit_and_score,
)
from birdjepa.benchmark.classifiers.attentive import _Attentive, _fitting
from birdjepa.benchmark.classifiers.training import HeadModule
from birdjepa.models.vit import EncoderOutput

N_CLASSES, N_TOKENS, WIDTH = 3, 5, 12


def built(config: PrototypicalConfig | AttentiveConfig | DeepAttentiveConfig) -> HeadModule:
    module = config.build(WIDTH, N_CLASSES)
    generator = torch.Generator().manual_seed(0)
    module.initialise(generator)
    with torch.no_grad():
        for value in module.parameters():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    return module


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, N_TOKENS, WIDTH, generator=generator)
    x[0, 0] = 0.0
    weights = torch.ones(4, N_TOKENS)
    weights[1, 3:] = 0
    weights[2, 1:] = 0
    return x, weights


def test_prototypes_add_up_the_best_likeness() -> None:
    module = built(PrototypicalConfig(n_prototypes=4, orthogonality=0.5))
    x, weights = tokens()
    got, penalty = module(x, weights)
    named = {name.split(".")[-1]: value.detach().double().numpy() for name, value in module.named_parameters()}
    expected = np.zeros((4, N_CLASSES))
    for b in range(4):
        for c in range(N_CLASSES):
            expected[b, c] = named["bias"][c]
            for j in range(4):
                prototype = np.r_[named["prototypes"][c, j], 1e-4, 1e-4]
                best = 0.0
                for t in range(N_TOKENS):
                    if weights[b, t]:
                        token = np.r_[x[b, t].double().numpy(), 1e-4, 1e-4]
                        cosine = token @ prototype / np.linalg.norm(token) / np.linalg.norm(prototype)
                        best = max(best, cosine / 1.01)
                expected[b, c] += max(named["weight"][c, j], 0.0) * best
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-5)
    squares = []
    for prototypes in named["prototypes"]:
        unit = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
        gram = unit @ unit.T
        squares += [gram[i, j] ** 2 for i in range(4) for j in range(4) if i != j]
    assert float(penalty.detach()) == pytest.approx(0.5 * np.mean(squares), rel=1e-3)


def test_prototypes_start_as_in_the_recipe() -> None:
    config = PrototypicalConfig()
    module = config.build(WIDTH, N_CLASSES)
    module.initialise(torch.Generator().manual_seed(0))
    named = {name.split(".")[-1]: value for name, value in module.named_parameters()}
    assert named["prototypes"].shape == (N_CLASSES, 20, WIDTH)
    assert 0 <= named["prototypes"].min() < 0.05 < 0.95 < named["prototypes"].max() <= 1
    assert (named["weight"] == 1).all()
    assert (named["bias"] == -2).all()
    rates = {name: config.grid.rates[0] * module.rate_factors.get(name, 1.0) for name, _ in module.named_parameters()}
    assert rates == pytest.approx({"head.prototypes": 0.04, "head.weight": 4e-4, "head.bias": 4e-4})
    assert config.grid.decays == (1e-4,)


def test_one_query_attends() -> None:
    module = built(AttentiveConfig())
    x, weights = tokens()
    named = {name.removeprefix("head."): value.detach() for name, value in module.named_parameters()}
    assert named["queries"].shape == (1, WIDTH)
    for b in range(4):
        real = x[b][weights[b] > 0]
        keys = real @ named["keys.weight"].T  # a width below 64 has one head
        values = real @ named["values.weight"].T + named["values.bias"]
        attention = torch.softmax(keys @ named["queries"][0] / WIDTH**0.5, 0)
        expected = named["linear.weight"] @ (attention @ values) + named["linear.bias"]
        torch.testing.assert_close(module(x, weights)[0][b], expected, atol=1e-5, rtol=1e-4)


def test_the_deep_probe_is_torchs_encoder_layers_and_a_cross_attention() -> None:
    module = built(DeepAttentiveConfig(depth=3, n_heads=4))
    x, weights = tokens()
    named = dict(module.named_parameters())
    padding = weights == 0
    heard = x
    for number in range(2):
        own = {name.removeprefix(f"blocks.{number}."): v for name, v in named.items() if f"blocks.{number}." in name}
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        )
        names = {
            "self_attn.in_proj": "attention.qkv", "self_attn.out_proj": "attention.proj", "linear1": "mlp.fc1",
            "linear2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2",
        }  # fmt: skip
        state = {}
        for theirs, ours in names.items():
            mark = "_" if theirs == "self_attn.in_proj" else "."
            state |= {f"{theirs}{mark}{part}": own[f"{ours}.{part}"] for part in ("weight", "bias")}
        layer.load_state_dict(state)
        heard = layer(heard, src_key_padding_mask=padding)
    cross = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    with torch.no_grad():
        cross.in_proj_weight.copy_(torch.cat([named["ask.weight"], named["keys_values.weight"]]))
        cross.in_proj_bias.copy_(torch.cat([named["ask.bias"], named["keys_values.bias"]]))
        cross.out_proj.weight.copy_(torch.eye(WIDTH))
        cross.out_proj.bias.zero_()
    query = named["query"].expand(4, 1, WIDTH)
    normed = nn.functional.layer_norm(heard, (WIDTH,), named["norm1.weight"], named["norm1.bias"], 1e-6)
    found = query + cross(query, normed, normed, key_padding_mask=padding)[0]
    normed = nn.functional.layer_norm(found, (WIDTH,), named["norm2.weight"], named["norm2.bias"], 1e-6)
    hidden = nn.functional.gelu(normed @ named["mlp.fc1.weight"].T + named["mlp.fc1.bias"])
    found = found + hidden @ named["mlp.fc2.weight"].T + named["mlp.fc2.bias"]
    expected = found[:, 0] @ named["linear.weight"].T + named["linear.bias"]
    torch.testing.assert_close(module(x, weights)[0], expected, atol=1e-4, rtol=1e-4)


def test_the_short_way_is_the_head_of_fine_tuning() -> None:
    module = AttentiveConfig().build(128, N_CLASSES)
    module.initialise(torch.Generator().manual_seed(0))
    assert isinstance(module, _Attentive)
    assert module.head.n_heads == 2
    x = torch.randn(4, N_TOKENS, 128, generator=torch.Generator().manual_seed(1))
    weights = tokens()[1]
    expected = module.head.logits(EncoderOutput(x[:, :0], x, x[:, :0]), weights)
    torch.testing.assert_close(module(x, weights)[0], expected)


@pytest.mark.parametrize(("width", "asked", "n_heads"), [(768, 12, 12), (384, 16, 16), (200, 16, 10), (7, 4, 1)])
def test_heads_divide_the_width(width: int, asked: int, n_heads: int) -> None:
    assert _fitting(width, asked) == n_heads


def test_deep_limits() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DeepAttentiveConfig(depth=0)
    with pytest.raises(ValueError, match="n_prototypes"):
        PrototypicalConfig(n_prototypes=0)


def plain(kind: str) -> tuple[Features, np.ndarray, Rows, list[str], np.ndarray]:
    features, truth, rows, groups = toy(kind)  # pyright: ignore[reportArgumentType]
    assert features.pooled is not None
    train = features.pooled[rows.train].astype(np.float64)
    scaled = (features.pooled - train.mean(0)) / train.std(0)
    return features, truth, rows, groups, scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_centroids_are_means_of_unit_embeddings(kind) -> None:
    features, truth, rows, groups, unit = plain(kind)
    got = fit_and_score(CentroidConfig(temperature=0.5), features, truth, rows, groups, kind=kind, seed=0).scores
    for column in range(truth.shape[1]):
        mean = np.mean([unit[row] for row in rows.train if truth[row, column]], axis=0)
        expected = [unit[row] @ mean / np.linalg.norm(mean) / 0.5 for row in rows.test]
        np.testing.assert_allclose(got[:, column], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_neighbours_vote_by_their_closeness(kind) -> None:
    features, truth, rows, groups, unit = plain(kind)
    got = fit_and_score(KnnConfig(k=7, temperature=0.2), features, truth, rows, groups, kind=kind, seed=0).scores
    train = np.sort(rows.train)
    for place, row in enumerate(rows.test):
        cosines = sorted(((unit[row] @ unit[other], other) for other in train), reverse=True)[:7]
        weights = [np.exp(cosine / 0.2) for cosine, _ in cosines]
        votes = sum(weight * truth[other] for weight, (_, other) in zip(weights, cosines, strict=True)) / sum(weights)
        np.testing.assert_allclose(got[place], votes, atol=1e-4)


def test_similarity_limits_and_scalings() -> None:
    with pytest.raises(ValueError, match="temperature"):
        CentroidConfig(temperature=0.0)
    with pytest.raises(ValueError, match="k >= 1"):
        KnnConfig(k=0)
    features, truth, rows, groups, _ = plain("single-label")
    scores = [
        fit_and_score(
            CentroidConfig(scaling=scaling),
            features, truth, rows, groups, kind="single-label", seed=0,
        ).scores
        for scaling in ("nothing", "standardise", "layernorm")
    ]  # fmt: skip
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
