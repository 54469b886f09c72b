import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from birdjepa.benchmark.standardise import fit_standardiser


def test_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    train, test = generator.normal(3, 5, (20, 4)), generator.normal(size=(7, 4))
    ours = fit_standardiser(torch.from_numpy(train))(torch.from_numpy(test)).numpy()
    assert ours == pytest.approx(StandardScaler().fit(train).transform(test))


def test_dimensions_that_are_constant_in_training_become_zero() -> None:
    train = torch.full((10, 2), 0.1, dtype=torch.float64)
    train[:, 1] += 1e-9 * torch.arange(10)  # rounding of a float32 constant
    test = torch.tensor([[5.0, -5.0]], dtype=torch.float64)
    assert fit_standardiser(train)(test).tolist() == [[0.0, 0.0]]
    assert fit_standardiser(torch.zeros(3, 2))(torch.ones(1, 2)).tolist() == [[0.0, 0.0]]
