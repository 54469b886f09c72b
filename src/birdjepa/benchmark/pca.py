"""Principal axes of training rows: wide embeddings in few coordinates, the same number for every model.

Axes: n examples | d width of the embedding | q coordinates
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Pca:
    """Projection onto the principal axes of the rows that it was fitted on, largest variance first."""

    mean: Float[Tensor, " d"]
    axes: Float[Tensor, "d q"]

    def __call__(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n q"]:
        return (embeddings - self.mean) @ self.axes


def fit_pca(rows: Float[Tensor, "n d"], n_components: int) -> Pca:
    """At most n_components axes; fewer where the rows are fewer or narrower.

    Source: equals sklearn.decomposition.PCA but for the signs of the axes.

    Raises:
      ValueError: if n_components < 1 or there is no row.
    """
    if n_components < 1 or len(rows) == 0:
        raise ValueError(f"need n_components >= 1 and a row, got {n_components} and {len(rows)} rows")
    mean = rows.mean(dim=0)
    centred = rows - mean
    n_components = min(n_components, *rows.shape)
    if len(rows) >= rows.shape[1]:
        vectors = torch.linalg.eigh((centred.T @ centred).double()).eigenvectors
        return Pca(mean, vectors[:, -n_components:].flip(1).to(rows.dtype))
    vectors = torch.linalg.eigh((centred @ centred.T).double()).eigenvectors
    axes = centred.T @ vectors[:, -n_components:].flip(1).to(rows.dtype)
    return Pca(mean, axes / axes.norm(dim=0).clamp_min(torch.finfo(rows.dtype).tiny))
