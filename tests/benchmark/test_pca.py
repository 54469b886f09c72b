import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from birdjepa.benchmark.pca import fit_pca

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "d"), [(200, 20), (15, 40)])
def test_projection_equals_scikit_learn_but_for_signs(n: int, d: int) -> None:
    rows = RNG.normal(size=(n, d)) * np.geomspace(5, 0.5, d) + 3
    ours = fit_pca(torch.from_numpy(rows), 8)(torch.from_numpy(rows)).numpy()
    assert np.abs(ours) == pytest.approx(np.abs(PCA(8).fit_transform(rows)), abs=1e-8)


def test_no_more_axes_than_rows_or_columns() -> None:
    assert fit_pca(torch.randn(50, 4), 128).axes.shape == (4, 4)
    assert fit_pca(torch.randn(3, 9), 128).axes.shape == (9, 3)
    with pytest.raises(ValueError, match="n_components"):
        fit_pca(torch.randn(3, 9), 0)
