"""Retrieval by exemplars: cosine to their mean, nested draws, species that are skipped."""

import math

import numpy as np
import pytest

from birdjepa.benchmark.retrieval import Exemplars, draw_exemplars, geometric_mean, search


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def drawn(n_species: int = 4, n: int = 80, per_species: int = 6) -> tuple[Exemplars, np.ndarray, np.ndarray]:
    """Exemplars from elsewhere, a corpus and its truth: a centre for each species, and noise."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(n_species, 16))
    truth = (generator.random((n, n_species)) < 0.25).astype(np.int64)
    corpus = (truth @ centres + generator.normal(size=(n, 16))).astype(np.float32)
    species = np.arange(n_species).repeat(per_species)
    embeddings = (centres[species] + generator.normal(size=(len(species), 16))).astype(np.float32)
    return Exemplars(embeddings, species), corpus, truth


def test_equals_cosine_to_the_mean_of_normalised_exemplars():
    exemplars, corpus, _ = drawn()
    chosen = draw_exemplars(exemplars.species, 5, k=2, seed=1)
    scores = search(exemplars, corpus, chosen)
    for species in range(4):
        query = unit(exemplars.embeddings[chosen[species]]).mean(axis=0)
        np.testing.assert_allclose(scores[:, species], unit(corpus) @ query / np.linalg.norm(query), atol=1e-6)
    assert not scores[:, 4].any()  # nobody sings it


def test_lengths_of_exemplars_do_not_matter():
    exemplars, corpus, _ = drawn()
    chosen = draw_exemplars(exemplars.species, 4, k=3, seed=0)
    lengths = np.random.default_rng(4).uniform(0.1, 10, (len(exemplars.embeddings), 1)).astype(np.float32)
    longer = exemplars._replace(embeddings=exemplars.embeddings * lengths)
    np.testing.assert_allclose(search(longer, corpus, chosen), search(exemplars, corpus, chosen), atol=1e-5)


def test_draws_are_nested_and_depend_on_the_seed():
    species = np.arange(3).repeat(8)
    four, two = (draw_exemplars(species, 4, k=k, seed=0) for k in (4, 2))
    assert np.array_equal(four[:, :2], two)
    assert (species[four[:3]] == np.arange(3)[:, None]).all()
    assert four[3].tolist() == [-1] * 4
    assert len(set(four[0])) == 4
    assert not np.array_equal(four, draw_exemplars(species, 4, k=4, seed=1))


def test_geometric_mean():
    assert geometric_mean(np.array([0.5, np.nan, 0.8])) == pytest.approx(math.sqrt(0.4))
    assert geometric_mean(np.array([0.5, 0.0])) == 0.0
    assert math.isnan(geometric_mean(np.array([np.nan])))
