"""What can be added to any objective's loss: terms against collapse, and source prediction.

Each reads the embeddings of the encoder in training. A term of weight 0 is not there at all.

Axes: b clips | e embedding | k projection
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.models.projector import Projector, ProjectorConfig
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.models.source_head import SourceHead, SourceHeadConfig
from birdjepa.nn import synced
from birdjepa.nn.sigreg import SigregConfig, directions, null_floor, sigreg
from birdjepa.objectives.base import Chance, DataSize, Objective, ObjectiveOutput, Panel

PROJECTOR = ProjectorConfig(hidden=256, width=64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedSigregConfig:
    """SIGReg on projections of the embeddings: their cloud should look normal (LeJEPA's regulariser)."""

    weight: float = 0.0
    projector: ProjectorConfig = PROJECTOR
    sigreg: SigregConfig = dataclasses.field(default_factory=SigregConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedVarianceConfig:
    """VICReg's variance and covariance on projections of the embeddings (Bardes et al. 2022)."""

    weight: float = 0.0
    projector: ProjectorConfig = PROJECTOR
    covariance: float = 0.04
    """Weight of the covariance beside the variance; 1 to 25 in the paper."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedDietConfig:
    """Source prediction: which recording is it (see objectives/diet.py)."""

    weight: float = 0.0
    head: SourceHeadConfig = SourceHeadConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedConfig:
    """Terms added to the objective's loss, each by its weight."""

    sigreg: AddedSigregConfig = AddedSigregConfig()
    variance: AddedVarianceConfig = AddedVarianceConfig()
    diet: AddedDietConfig = AddedDietConfig()

    def check(self) -> None:
        """Refuses settings without effect.

        Raises:
          ValueError: naming the term.
        """
        for field in dataclasses.fields(self):
            term = getattr(self, field.name)
            if term.weight < 0:
                raise ValueError(f"{field.name}.weight must be >= 0, got {term.weight}")
            if term.weight == 0 and term != type(term)():
                raise ValueError(f"{field.name} has settings but weight 0: give {field.name}.weight, or leave them out")

    def around(self, objective: Objective, seed: int, data: DataSize) -> Objective:
        """The objective with these terms; itself where there are none."""
        terms: dict[str, nn.Module] = {}
        width = objective.encoder.config.embedding_width
        if self.sigreg.weight:
            terms["sigreg"] = _Sigreg(self.sigreg, width, seed)
        if self.variance.weight:
            terms["variance"] = _Variance(self.variance, width, seed)
        if self.diet.weight:
            terms["diet"] = _Source(self.diet, width, seed, data)
        return WithAdded(objective, terms) if terms else objective


class WithAdded(Objective):
    """An objective whose loss has terms added to it."""

    def __init__(self, objective: Objective, terms: dict[str, nn.Module]) -> None:
        super().__init__()
        self.objective = objective
        self.terms = nn.ModuleDict(terms)

    @property
    def encoder(self) -> SoundEncoder:  # pyright: ignore[reportIncompatibleVariableOverride] - held once, by the objective
        return self.objective.encoder

    @property
    def exported(self) -> nn.Module:
        return self.objective.exported

    def forward(self, batch: ClipBatch, chance: Chance) -> ObjectiveOutput:
        output = self.objective(batch, chance)
        loss, told = output.loss, dict(output.terms)
        for name, term in self.terms.items():
            value, shown = term(output.embedding, batch, chance)
            loss = loss + value
            told[f"added_{name}"] = shown
        return output._replace(loss=loss, terms=told)

    def after_update(self, chance: Chance) -> None:
        self.objective.after_update(chance)

    def panels(self, batch: ClipBatch, chance: Chance) -> list[Panel]:
        return self.objective.panels(batch, chance)


class _Sigreg(nn.Module):
    def __init__(self, config: AddedSigregConfig, width: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config.projector, width)
        self.projector.initialise(random.torch_generator(seed, "initialise", "added_sigreg"))
        self.floor = null_floor(config.sigreg)

    def forward(
        self, embedding: Float[Tensor, "b e"], batch: ClipBatch, chance: Chance
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        z = self.projector(embedding).float().unsqueeze(0)
        slices = directions(chance.seed, chance.step, z.shape[-1], self.config.sigreg.n_slices, z.device)
        value = sigreg(z, slices, self.config.sigreg)
        return self.config.weight * value, value.detach() - self.floor


class _Variance(nn.Module):
    def __init__(self, config: AddedVarianceConfig, width: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config.projector, width)
        self.projector.initialise(random.torch_generator(seed, "initialise", "added_variance"))

    def forward(
        self, embedding: Float[Tensor, "b e"], batch: ClipBatch, chance: Chance
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        variance, covariance = variance_covariance(self.projector(embedding).float())
        value = variance + self.config.covariance * covariance
        return self.config.weight * value, value.detach()


class _Source(nn.Module):
    def __init__(self, config: AddedDietConfig, width: int, seed: int, data: DataSize) -> None:
        super().__init__()
        self.config = config
        self.head = SourceHead(config.head, width, data.n_recordings)
        self.head.initialise(random.torch_generator(seed, "initialise", "added_source"))

    def forward(
        self, embedding: Float[Tensor, "b e"], batch: ClipBatch, chance: Chance
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        loss = self.head(embedding, batch.recording)
        return self.config.weight * loss, self.head.excess(loss)


def variance_covariance(z: Float[Tensor, "b k"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over dimensions of max(0, 1 - std), and sum of the squared off-diagonal covariances over k; over the
    clips of all processes.

    Source: Bardes et al., VICReg, arXiv 2105.04906, equations 1 to 4.
    """
    centred = z - synced.mean(z)
    covariance = synced.summed(centred.T @ centred) / (synced.n_rows(z) - 1)
    spread = (covariance.diagonal() + 1e-4).sqrt()
    off = covariance - torch.diag(covariance.diagonal())
    return torch.relu(1 - spread).mean(), off.square().sum() / z.shape[1]
