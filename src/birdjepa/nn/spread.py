"""How many dimensions a cloud of embeddings is spread over.

Axes: n embeddings | e dimensions
"""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(embedding: Float[Tensor, "n e"]) -> float:
    """Exponential of the entropy of the normalised singular values of the centred embeddings: from 1 (a line, or a
    point) to min(n - 1, e).

    Source: Roy & Vetterli 2007; RankMe (Garrido et al. 2023) is the same without centring.
    """
    values = torch.linalg.svdvals((embedding - embedding.mean(0)).double())
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum()))
