"""Heads of a grid (learning rate x weight decay), trained side by side on one pass over the features.

All heads start alike and see the same batches; they differ in their optimiser alone, and what one head does never
touches another, so a head of a grid ends as it would have alone. Each is one module; the grid is its weights stacked,
called by `vmap`. A head keeps the weights of its best look at the validation part and leaves once it has not improved
for a while; of the heads' best the best is the classifier. Everything is float32.

Axes: h heads | b examples | e pooled embedding | t tokens | d width | c classes
"""

import abc
import dataclasses
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from birdjepa.benchmark.classifiers import reading
from birdjepa.benchmark.classifiers.base import Classifier, Outcome, Problem
from birdjepa.benchmark.classifiers.loss import LossConfig, losses
from birdjepa.benchmark.classifiers.reading import Batch, Reader, Scaler, Scaling, fit_scaler
from birdjepa.benchmark.classifiers.selection import hold_out, validation_metric
from birdjepa.core import random
from birdjepa.core.errors import UsageError
from birdjepa.optim.schedules import ScheduleConfig, factor

BETAS = (0.9, 0.95)
EPSILON = 1e-8
ACTIVATIONS = 2**27
"""Numbers that a batch's activations may take, about, for all heads together: a larger batch goes in pieces."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The heads and their training: AdamW, a linear warm-up, then half a cosine to 0."""

    rates: tuple[float, ...] = (1e-3,)
    """Peak learning rates."""
    decays: tuple[float, ...] = (0.01,)
    """Weight decays, decoupled as AdamW has them; matrices only. Each rate meets each decay. Where nothing can choose,
    the middle one of both is taken."""
    n_epochs: int = 30
    min_steps: int = 300
    """Few examples are gone through more often than n_epochs: this many updates at least."""
    batch_size: int = 256
    warmup: float = 0.05
    """Share of the updates."""
    n_checks: int = 30
    """Looks at the validation part, evenly spread over the run; one after each epoch where there are fewer epochs."""
    patience: int = 5
    """Looks without a better one after which a head stops."""

    def __post_init__(self) -> None:
        for name, values, least in (("rates", self.rates, 0.0), ("decays", self.decays, -1.0)):
            ascending = list(values) == sorted(set(values))
            if not values or not ascending or not all(least < value < math.inf for value in values) or min(values) < 0:
                raise ValueError(f"{name} must be ascending, different, finite and not negative, got {values}")
        if min(self.n_epochs, self.batch_size, self.n_checks, self.patience) < 1 or self.min_steps < 0:
            raise ValueError(
                "need n_epochs, batch_size, n_checks and patience >= 1 and min_steps >= 0, got "
                f"{self.n_epochs}, {self.batch_size}, {self.n_checks}, {self.patience} and {self.min_steps}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be a share in [0, 1), got {self.warmup}")

    @property
    def heads(self) -> list[tuple[float, float]]:
        """(rate, decay) of each head."""
        return list(itertools.product(self.rates, self.decays))

    @property
    def middle(self) -> int:
        """The head that is taken where nothing can choose."""
        return self.heads.index((self.rates[len(self.rates) // 2], self.decays[len(self.decays) // 2]))


class HeadModule(nn.Module, abc.ABC):
    """One head. Subclasses are final; parameters named in `rate_factors` learn at a multiple of the rate."""

    rate_factors: Mapping[str, float] = MappingProxyType({})

    @abc.abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Sets every parameter, all random ones from the generator."""

    @abc.abstractmethod
    def forward(self, x: Tensor, weights: Tensor) -> tuple[Float[Tensor, "b c"], Float[Tensor, ""]]:
        """Logits, and what is added to the loss."""

    def stack(
        self, parameters: dict[str, Tensor], x: Tensor, weights: Tensor
    ) -> tuple[Float[Tensor, "h b c"], Float[Tensor, " h"]]:
        """What heads with these parameters, one entry each, say of the same examples, and their penalties."""

        def one(of_head: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            return functional_call(self, of_head, (x, weights))

        with sdpa_kernel(SDPBackend.MATH):  # fused kernels of attention cannot be called for a stack
            return torch.vmap(one)(parameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientClassifier(Classifier, abc.ABC):
    """What heads that learn by gradients have in common."""

    scaling: Scaling = "standardise"
    grid: GridConfig = GridConfig()
    loss: LossConfig = LossConfig()

    @abc.abstractmethod
    def build(self, width: int, n_classes: int) -> HeadModule:
        """A head with uninitialised weights for features of this width."""

    @abc.abstractmethod
    def activations(self, n_tokens: int, width: int, n_classes: int) -> int:
        """Numbers that one head keeps for one example in training, about; n_tokens is 1 for pooled features."""

    def solve(self, problem: Problem) -> Outcome:
        return solve(self, problem)


class _Run(NamedTuple):
    """What trained heads are, at their best look."""

    parameters: dict[str, Tensor]
    metric: Float[np.ndarray, " h"]
    loss: Float[np.ndarray, " h"]
    epoch: Int[np.ndarray, " h"]
    """Epochs gone through by then."""


def solve(config: GradientClassifier, problem: Problem) -> Outcome:
    """Trains the grid, chooses a head, and scores the test rows.

    Raises:
      UsageError: features that are not finite, a loss that does not fit the task, a grid of which no head converged.
    """
    train, validation, _ = problem.rows
    heads, notes = config.grid.heads, []
    carved = False
    if not len(validation):
        held = hold_out(problem.truth[train], [str(problem.groups[row]) for row in train.tolist()], problem.seed)
        carved = bool(held.any())
        if carved:
            notes.append(
                f"no validation part: {held.sum()} of {len(held)} training examples chose, then all were learnt"
            )
        else:
            notes.append("no validation part and too few groups to hold out: the middle head of the grid, to its end")
        learn, choose = train[~held], train[held]
    else:
        learn, choose = train, validation
    shape = _Shape(config, problem)
    if len(choose):
        scaler = shape.scaler(learn)
        run = shape.train(scaler, learn, choose, heads)
        best = _best(run)
        if not np.isfinite(run.metric[best]):
            raise UsageError(f"no head converged at learning rates {config.grid.rates}; lower them")
        parameters = {name: value[best : best + 1] for name, value in run.parameters.items()}
        chosen = {"epochs": int(run.epoch[best]), "validation": float(run.metric[best])}
        if carved:
            scaler = shape.scaler(train)
            parameters = shape.train(scaler, train, None, [heads[best]], until=int(run.epoch[best])).parameters
    else:
        best, scaler = config.grid.middle, shape.scaler(train)
        parameters = shape.train(scaler, train, None, [heads[best]]).parameters
        chosen = {}
    rate, decay = heads[best]
    scores = shape.scores(parameters, scaler, problem.rows.test)[0]
    if not np.isfinite(scores).all():
        raise UsageError(f"the head with learning rate {rate:g} did not converge; lower grid.rates")
    return Outcome(scores, {"rate": rate, "decay": decay, **chosen}, tuple(notes))


def _best(run: _Run) -> int:
    """The head of the best metric; of equals the one of the lowest loss, and of those the first."""
    return min(range(len(run.metric)), key=lambda head: (-run.metric[head], run.loss[head]))


class _Shape:
    """A classifier's module, and how the features of a problem meet it."""

    def __init__(self, config: GradientClassifier, problem: Problem) -> None:
        self._config, self._problem, self._device = config, problem, problem.device
        self._tokens = config.needs_tokens
        array = problem.features.tokens if self._tokens else problem.features.pooled
        assert array is not None
        n_tokens, width = (array.shape[1] if self._tokens else 1), array.shape[-1]
        n_classes = problem.truth.shape[1]
        self._module = config.build(width, n_classes)
        self._module.initialise(random.torch_generator(problem.seed, "classifier"))
        self._module.to(self._device)
        self._activations = config.activations(n_tokens, width, n_classes)

    def scaler(self, rows: Int[np.ndarray, " _"]) -> Scaler:
        features = self._problem.features
        return fit_scaler(self._config.scaling, features, rows, tokens=self._tokens, device=self._device)

    def reader(self, rows: Int[np.ndarray, " _"], scaler: Scaler) -> Reader:
        return Reader(self._problem.features, rows, tokens=self._tokens, scale=scaler, device=self._device)

    def train(
        self,
        scaler: Scaler,
        rows: Int[np.ndarray, " b"],
        choose: Int[np.ndarray, " v"] | None,
        heads: list[tuple[float, float]],
        *,
        until: int | None = None,
    ) -> _Run:
        """Heads at their best look; without rows to choose by, at the end of the run or after `until` epochs of it."""
        grid, problem = self._config.grid, self._problem
        wanted = torch.from_numpy((problem.truth[rows] > 0).astype(np.float32)).to(self._device)
        learn = self.reader(rows, scaler)
        judge = None if choose is None else self.reader(choose, scaler)
        n_batches = -(-len(rows) // grid.batch_size)
        n_epochs = max(grid.n_epochs, -(-grid.min_steps // n_batches))
        schedule = ScheduleConfig(shape="cosine", warmup=grid.warmup)
        stack = _Stack(self._module, heads, self._device)
        best = _Best(stack.parameters, len(heads))
        for epoch in range(n_epochs if until is None else until):
            order = random.generator(problem.seed, "classifier", epoch).permutation(len(rows))
            for index, batch in enumerate(np.array_split(order, n_batches)):
                gradients = self._gradients(stack.parameters, learn, wanted, batch)
                stack.step(gradients, factor(epoch * n_batches + index, n_epochs * n_batches, schedule))
            # The last look is at the end.
            if judge is None or (epoch + 1) * grid.n_checks // n_epochs == epoch * grid.n_checks // n_epochs:
                continue
            assert choose is not None
            metric, loss = self._judge(stack.parameters, judge, problem.truth[choose])
            left = best.update(stack, metric, loss, epoch + 1, grid.patience)
            if not left.any():
                break
            stack.keep(left)
        if judge is None:
            nothing = np.zeros(len(heads))
            return _Run(stack.parameters, nothing, nothing, np.full(len(heads), n_epochs))
        return best.run

    def scores(self, parameters: dict[str, Tensor], scaler: Scaler, rows: Int[np.ndarray, " m"]) -> np.ndarray:
        """Logits of any rows, read from the disk once."""
        features, pieces = self._problem.features, []
        for some in reading.chunks(features, rows, tokens=self._tokens):
            batch = scaler(reading.read(features, some, tokens=self._tokens, device=self._device))
            pieces.append(self._logits(parameters, batch))
        return np.concatenate(pieces, axis=1)

    def _piece(self, parameters: dict[str, Tensor]) -> int:
        """Examples whose activations fit, for the heads that are left."""
        n_heads = len(next(iter(parameters.values())))
        return max(1, ACTIVATIONS // (n_heads * self._activations))

    def _gradients(
        self, parameters: dict[str, Tensor], learn: Reader, wanted: Float[Tensor, "n c"], batch: Int[np.ndarray, " b"]
    ) -> dict[str, Tensor]:
        """Of each head's mean loss over the batch; the sum over heads has them all, for heads share nothing."""
        kind, piece = self._problem.kind, self._piece(parameters)
        free = {name: value.requires_grad_() for name, value in parameters.items()}
        total: list[Tensor] = []
        for start in range(0, len(batch), piece):
            part = batch[start : start + piece]
            x, weights = learn.batch(part)
            logits, penalty = self._module.stack(free, x, weights)
            loss = losses(logits, wanted[torch.as_tensor(part, device=self._device)], self._config.loss, kind)
            whole = ((loss + penalty) * (len(part) / len(batch))).sum()
            gradients = torch.autograd.grad(whole, list(free.values()))
            total = list(gradients) if not total else [old + new for old, new in zip(total, gradients, strict=True)]
        for value in free.values():
            value.requires_grad_(False)
        return dict(zip(free, total, strict=True))

    def _judge(
        self, parameters: dict[str, Tensor], judge: Reader, truth: Int[np.ndarray, "v c"]
    ) -> tuple[Float[np.ndarray, " h"], Float[np.ndarray, " h"]]:
        """Metric and mean loss of each head on the validation part."""
        step = max(1, reading.CHUNK // judge.numbers_per_row)
        positions = np.arange(len(judge))
        batches = (judge.batch(positions[start : start + step]) for start in range(0, len(judge), step))
        scores = np.concatenate([self._logits(parameters, batch) for batch in batches], axis=1)
        wanted = torch.from_numpy((truth > 0).astype(np.float32))
        each = [losses(torch.from_numpy(head)[None], wanted, self._config.loss, self._problem.kind) for head in scores]
        return validation_metric(scores, truth, self._problem.kind), torch.cat(each).numpy()

    @torch.no_grad()
    def _logits(self, parameters: dict[str, Tensor], batch: Batch) -> Float[np.ndarray, "h b c"]:
        pieces = []
        for start in range(0, max(1, len(batch.x)), step := self._piece(parameters)):
            rows = slice(start, start + step)
            pieces.append(self._module.stack(parameters, batch.x[rows], batch.weights[rows])[0].cpu())
        return torch.cat(pieces, dim=1).numpy()


class _Stack:
    """The weights of several heads and AdamW's memory of them.

    Source: equals torch.optim.AdamW for each head.
    """

    def __init__(self, module: HeadModule, heads: list[tuple[float, float]], device: str) -> None:
        named = dict(module.named_parameters())
        self.parameters = {
            name: value.detach().expand(len(heads), *value.shape).clone() for name, value in named.items()
        }
        self.which = np.arange(len(heads))
        """Which heads of the grid are left."""
        self._rate = torch.tensor([rate for rate, _ in heads], device=device)
        self._decay = torch.tensor([decay for _, decay in heads], device=device)
        self._factors = {name: module.rate_factors.get(name, 1.0) for name in named}
        self._decays = {name: value.ndim > 1 for name, value in named.items()}
        self._first = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self._second = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self._n_steps = 0

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], factor: float) -> None:
        self._n_steps += 1
        first_bias, second_bias = (1 - beta**self._n_steps for beta in BETAS)
        for name, value in self.parameters.items():
            gradient, first, second = gradients[name], self._first[name], self._second[name]
            rate = (self._rate * (factor * self._factors[name])).view(-1, *[1] * (value.ndim - 1))
            if self._decays[name]:
                value.mul_(1 - rate * self._decay.view_as(rate))
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            value.sub_(first / (second / second_bias).sqrt_().add_(EPSILON) * (rate / first_bias))

    def keep(self, left: np.ndarray) -> None:
        """Lets the other heads go."""
        if left.all():
            return
        index = torch.from_numpy(np.flatnonzero(left)).to(self._rate.device)
        self.which = self.which[left]
        self._rate, self._decay = self._rate[index], self._decay[index]
        for memory in (self.parameters, self._first, self._second):
            memory.update({name: value[index] for name, value in memory.items()})


class _Best:
    """Each head at its best look so far."""

    def __init__(self, parameters: dict[str, Tensor], n_heads: int) -> None:
        self.run = _Run(
            {name: value.clone() for name, value in parameters.items()},
            np.full(n_heads, -np.inf),
            np.full(n_heads, np.inf),
            np.zeros(n_heads, dtype=np.int64),
        )
        self._waited = np.zeros(n_heads, dtype=np.int64)

    def update(self, stack: _Stack, metric: np.ndarray, loss: np.ndarray, epoch: int, patience: int) -> np.ndarray:
        """Takes over what got better; returns which heads of the stack go on."""
        run, which = self.run, stack.which
        better = (metric > run.metric[which]) | ((metric == run.metric[which]) & (loss < run.loss[which]))
        better &= np.isfinite(metric)
        new = which[better]
        run.metric[new], run.loss[new], run.epoch[new] = metric[better], loss[better], epoch
        for name, value in stack.parameters.items():
            index = torch.from_numpy(np.flatnonzero(better)).to(value.device)
            run.parameters[name][torch.from_numpy(new).to(value.device)] = value[index]
        self._waited[which] = np.where(better, 0, self._waited[which] + 1)
        return self._waited[which] < patience
