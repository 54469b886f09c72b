import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from birdjepa.benchmark import knn
from birdjepa.benchmark.knn import KnnProbe, Neighbours, nearest, predict, vote

RNG = np.random.default_rng(0)
BANK = RNG.normal(size=(200, 16))
QUERIES = RNG.normal(size=(60, 16))
CLASSES = RNG.integers(0, 4, 200)


def test_neighbours_equal_scikit_learn() -> None:
    found = nearest(QUERIES, BANK, 7)
    distance, index = NearestNeighbors(n_neighbors=7, metric="cosine").fit(BANK).kneighbors(QUERIES)
    assert np.array_equal(found.index, index)
    assert found.similarity == pytest.approx(1 - distance, abs=1e-6)


def test_votes_equal_scikit_learn_where_no_two_classes_tie() -> None:
    found = nearest(QUERIES, BANK, 5)
    counts = np.sort([np.bincount(CLASSES[row], minlength=4) for row in found.index], axis=1)
    clear = counts[:, -1] > counts[:, -2]
    expected = KNeighborsClassifier(n_neighbors=5, metric="cosine").fit(BANK, CLASSES).predict(QUERIES)
    assert clear.sum() > 30
    assert np.array_equal(vote(found, CLASSES)[clear], expected[clear])


def test_equal_votes_go_to_the_closer_class() -> None:
    found = Neighbours(np.array([[0, 1, 2, 3]]), np.array([[0.9, 0.5, 0.6, 0.4]], dtype=np.float32))
    assert vote(found, np.array([1, 0, 0, 1])).tolist() == [1]
    assert vote(found, np.array([0, 1, 1, 0])).tolist() == [0]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearest(QUERIES, BANK, 5)
    monkeypatch.setattr(knn, "CHUNK", 200 * 7)
    parts = nearest(QUERIES, BANK, 5)
    assert np.array_equal(whole.index, parts.index)
    assert parts.similarity == pytest.approx(whole.similarity, abs=1e-6)


def test_own_group_is_passed_over() -> None:
    groups = np.arange(200) // 4
    found = nearest(BANK, BANK, 3, query_groups=groups, bank_groups=groups)
    assert not (groups[found.index] == groups[:, None]).any()
    assert (nearest(BANK, BANK, 1).index[:, 0] == np.arange(200)).all()


def test_too_few_neighbours_are_marked() -> None:
    same = np.zeros(2, dtype=np.int64)
    found = nearest(BANK[:2], BANK[:2], 3, query_groups=same, bank_groups=same)
    assert (found.index == -1).all()
    assert np.isneginf(found.similarity).all()
    assert vote(found, np.array([1, 1])).tolist() == [1, 1]
    assert nearest(BANK[:1], BANK[:2], 3).index[0, 2] == -1


def test_zero_vectors_and_large_values_are_no_trap() -> None:
    bank = np.array([[0.0, 0.0], [1e30, 1e30]], dtype=np.float32)
    found = nearest(np.array([[1.0, 1.0], [0.0, 0.0]], dtype=np.float32), bank, 2)
    assert found.similarity.tolist() == [pytest.approx([1.0, 0.0]), [0.0, 0.0]]


def test_standardising_frees_the_cosine_from_large_dimensions() -> None:
    generator, classes = np.random.default_rng(1), np.arange(100) % 2
    embeddings = generator.normal(size=(100, 8))
    embeddings[:, 0] += 5.0 * (classes * 2 - 1)
    embeddings[:, 5:] *= 100.0
    train, test, groups = np.arange(60), np.arange(60, 100), np.arange(100)
    right = predict(embeddings, classes, groups, train, test, KnnProbe()) == classes[test]
    raw = predict(embeddings, classes, groups, train, test, KnnProbe(standardise=False)) == classes[test]
    assert right.mean() > 0.9
    assert raw.mean() < 0.8


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="k must be"):
        KnnProbe(k=0)
    with pytest.raises(ValueError, match="for neither"):
        nearest(QUERIES, BANK, 1, query_groups=np.zeros(60, dtype=np.int64))
