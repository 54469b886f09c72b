import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, v_measure_score

from birdjepa.benchmark.clusters import adjusted_rand_index, assign, kmeans, neighbour_purity, v_measure

RNG = np.random.default_rng(0)


def table_of(classes: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    table = np.zeros((classes.max() + 1, clusters.max() + 1), dtype=np.int64)
    np.add.at(table, (classes, clusters), 1)
    return table


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(5, 7), (1, 3), (3, 1), (1, 1), (40, 2)])
def test_agreements_equal_scikit_learn(n_classes: int, n_clusters: int) -> None:
    classes, noise = RNG.integers(0, n_classes, 300), RNG.integers(0, n_clusters, 300)
    clusters = np.where(RNG.random(300) < 0.5, classes % n_clusters, noise)
    table = table_of(classes, clusters)
    assert v_measure(table) == pytest.approx(v_measure_score(classes, clusters), abs=1e-9)
    assert adjusted_rand_index(table) == pytest.approx(adjusted_rand_score(classes, clusters), abs=1e-9)


def test_every_example_alone_is_perfect_agreement() -> None:
    assert adjusted_rand_index(np.eye(4)) == adjusted_rand_score(range(4), range(4)) == 1.0
    assert v_measure(np.eye(4)) == pytest.approx(1.0)


def test_many_tables_at_once() -> None:
    tables = RNG.integers(0, 20, (6, 3, 4))
    assert v_measure(tables) == pytest.approx(np.array([v_measure(table) for table in tables]))
    assert adjusted_rand_index(tables) == pytest.approx(np.array([adjusted_rand_index(table) for table in tables]))


def blobs(spread: float) -> tuple[torch.Tensor, np.ndarray]:
    centres = RNG.normal(size=(6, 8)) * 4
    classes = RNG.integers(0, 6, 600)
    return torch.from_numpy(centres[classes] + RNG.normal(size=(600, 8)) * spread).float(), classes


def test_kmeans_finds_separate_blobs() -> None:
    rows, classes = blobs(0.2)
    found = assign(rows, kmeans(rows, 6, seed=0)).numpy()
    assert adjusted_rand_index(table_of(classes, found)) == pytest.approx(1.0)


def test_kmeans_is_as_tight_as_scikit_learns() -> None:
    rows, _ = blobs(3.0)
    centres = kmeans(rows, 6, seed=0, n_starts=8)
    ours = float((rows - centres[assign(rows, centres)]).square().sum())
    assert ours <= 1.02 * KMeans(6, n_init=8, random_state=0).fit(rows.numpy()).inertia_


def test_kmeans_is_a_function_of_its_seed_and_fills_every_cluster() -> None:
    rows, _ = blobs(1.0)
    assert torch.equal(kmeans(rows, 5, seed=3), kmeans(rows, 5, seed=3))
    few = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    assert kmeans(few, 2, seed=0).flatten().sort().values.tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="clusters"):
        kmeans(few, 5, seed=0)


def test_purity_passes_over_the_own_group() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.01, 1.0]], dtype=np.float32)
    classes, groups = np.array([0, 1, 0, 1, 1]), np.array([0, 0, 1, 1, 2])
    # Row 0: the neighbours outside group 0 are 2 (class 0), 4, 3; one example of class 0 lies elsewhere.
    purity = neighbour_purity(rows, classes, groups, k=3)
    assert purity[0] == 1.0
    # Row 1: class 1 has two examples elsewhere; the two nearest are 2 (class 0) and 4 (class 1).
    assert purity[1] == 0.5


def test_a_class_of_one_group_has_no_purity() -> None:
    purity = neighbour_purity(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), np.array([0, 0, 1]), k=2)
    assert np.isnan(purity[0])
    assert not np.isnan(purity[1:]).any()
