import math

import numpy as np
import pytest
from sklearn import metrics as reference

from birdjepa.benchmark.retrieval import Exemplars, draw_exemplars, retrieve, search


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(
    n_species: int = 4, n: int = 80, per_species: int = 6, seed: int = 0
) -> tuple[Exemplars, np.ndarray, np.ndarray]:
    """Exemplars from elsewhere, a corpus and its truth: a centre for each species, and noise."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(n_species, 16))
    truth = (generator.random((n, n_species)) < 0.25).astype(np.int64)
    corpus = unit(truth @ centres + generator.normal(size=(n, 16))).astype(np.float32)
    species = np.arange(n_species).repeat(per_species)
    embeddings = unit(centres[species] + generator.normal(size=(len(species), 16))).astype(np.float32)
    return Exemplars(embeddings, species, np.full(len(species), -1)), corpus, truth


def test_equals_cosine_to_the_mean_exemplar_judged_by_scikit_learn() -> None:
    exemplars, corpus, truth = drawn()
    found = retrieve(exemplars, corpus, truth, k=2, seeds=(0, 1))
    assert found.auroc.shape == (2, 4)
    for number, seed in enumerate(found.seeds):
        chosen = draw_exemplars(exemplars.species, 4, k=2, seed=seed)
        for species in range(4):
            query = exemplars.embeddings[chosen[species]].mean(axis=0)
            cosine = corpus @ (query / np.linalg.norm(query))
            assert found.auroc[number, species] == pytest.approx(reference.roc_auc_score(truth[:, species], cosine))
            assert found.ap[number, species] == pytest.approx(
                reference.average_precision_score(truth[:, species], cosine)
            )
    assert not np.array_equal(found.auroc[0], found.auroc[1])
    values = found.metrics()
    assert values["auroc"] == pytest.approx(found.auroc.mean(axis=1))
    assert values["auroc_geometric"] == pytest.approx(found.auroc.prod(axis=1) ** 0.25)
    assert values["map"] == pytest.approx(found.ap.mean(axis=1))
    assert values["auroc_geometric"][0] < values["auroc"][0]
    assert found.n_species_scored == (4, 4)


def test_more_exemplars_find_more() -> None:
    exemplars, corpus, truth = drawn(n=400, per_species=16)
    one, sixteen = (np.mean(retrieve(exemplars, corpus, truth, k=k, seeds=range(5)).auroc) for k in (1, 16))
    assert sixteen > one + 0.02


def test_a_species_that_cannot_be_searched_for_is_skipped() -> None:
    exemplars, corpus, truth = drawn()
    exemplars = Exemplars(*(x[2:] for x in exemplars))  # 4 exemplars of species 0 are left, 6 of the others
    truth[:, 1], truth[:, 2] = 0, 1
    found = retrieve(exemplars, corpus, truth, k=5, seeds=(0,))
    assert np.isnan(found.auroc[0]).tolist() == np.isnan(found.ap[0]).tolist() == [True, True, True, False]
    assert found.n_species_scored == (1,)
    assert found.metrics()["auroc"] == pytest.approx([found.auroc[0, 3]])
    assert math.isnan(retrieve(exemplars, corpus, truth, k=7, seeds=(0,)).metrics()["auroc_geometric"][0])


def test_a_query_does_not_find_its_own_exemplars() -> None:
    generator = np.random.default_rng(2)
    corpus = unit(generator.normal(size=(200, 32))).astype(np.float32)
    truth = (np.arange(200) < 20).astype(np.int64)[:, None]
    rows = np.arange(20)
    found = retrieve(Exemplars(corpus[:20], np.zeros(20, dtype=np.int64), rows), corpus, truth, k=4, seeds=range(30))
    leaking = Exemplars(corpus[:20], np.zeros(20, dtype=np.int64), np.full(20, -1))
    assert found.auroc.mean() == pytest.approx(0.5, abs=0.06)  # noise finds nothing
    assert retrieve(leaking, corpus, truth, k=4, seeds=range(30)).auroc.mean() > 0.57
    everything = retrieve(Exemplars(corpus[:20], np.zeros(20, dtype=np.int64), rows), corpus, truth, k=20, seeds=(0,))
    assert everything.n_species_scored == (0,)  # no positive is left


def test_a_masked_corpus_is_searched_where_allowed() -> None:
    exemplars, corpus, truth = drawn()
    searched = np.random.default_rng(3).random(truth.shape) < 0.6
    found = retrieve(exemplars, corpus, truth, k=2, seeds=(0,), searched=searched)
    scores = search(exemplars, corpus, draw_exemplars(exemplars.species, 4, k=2, seed=0))
    assert scores.dtype == np.float32
    for species in range(4):
        use = searched[:, species]
        expected = reference.roc_auc_score(truth[use, species], scores[use, species])
        assert found.auroc[0, species] == pytest.approx(expected)


def test_exemplars_are_normalised_before_they_are_averaged() -> None:
    exemplars, corpus, truth = drawn()
    lengths = np.random.default_rng(4).uniform(0.1, 10, len(exemplars.embeddings)).astype(np.float32)
    longer = exemplars._replace(embeddings=exemplars.embeddings * lengths[:, None])
    one, other = (retrieve(each, corpus, truth, k=3, seeds=(0,)).auroc for each in (exemplars, longer))
    assert one == pytest.approx(other)


def test_draws_are_nested_and_depend_on_the_seed() -> None:
    species = np.arange(3).repeat(8)
    four, two = (draw_exemplars(species, 4, k=k, seed=0) for k in (4, 2))
    assert np.array_equal(four[:, :2], two)
    assert (species[four[:3]] == np.arange(3)[:, None]).all()
    assert four[3].tolist() == [-1] * 4
    assert len(set(four[0])) == 4
    assert not np.array_equal(four, draw_exemplars(species, 4, k=4, seed=1))


@pytest.mark.parametrize(
    ("change", "match"),
    [({"k": 0}, "k >= 1"), ({"seeds": ()}, "a seed"), ({"species": 9}, "columns of the truth"), ({"rows": 80}, "rows")],
)
def test_bad_input_is_refused(change: dict, match: str) -> None:
    exemplars, corpus, truth = drawn()
    for name in ("species", "rows"):
        if name in change:
            exemplars = exemplars._replace(**{name: np.full(len(exemplars.species), change.pop(name))})
    with pytest.raises(ValueError, match=match):
        retrieve(exemplars, corpus, truth, **{"k": 2, "seeds": (0,), **change})
