"""The benchmark job: every experiment of a grid that has no result yet, once, into one file of results.

Tasks are read once, models opened once, features computed once; each result is kept as soon as it is there. What cannot
be run says why and the next one begins. The same command again returns what is stored.
"""

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from birdjepa.benchmark import experiment, song_frames
from birdjepa.benchmark.backbones.base import Backbone
from birdjepa.benchmark.backbones.named import open_backbone
from birdjepa.benchmark.backbones.ours import EncoderBackbone
from birdjepa.benchmark.classifiers.restricted import RestrictedConfig
from birdjepa.benchmark.experiment import Coordinates, Tested
from birdjepa.benchmark.features import Extracted, extract
from birdjepa.benchmark.frames import FrameSequence, Song
from birdjepa.benchmark.results import Result, Store, key_of
from birdjepa.benchmark.tasks import Examples, Task
from birdjepa.core import config as configs
from birdjepa.core.errors import Interrupted, UserError
from birdjepa.core.failures import Failure
from birdjepa.core.provenance import provenance
from birdjepa.models.loading import require_spectrogram
from birdjepa.recipes.benchmark_config import ALL, LAST, BenchmarkConfig, Named, read_named
from birdjepa.recipes.benchmark_data import read_examples
from birdjepa.recipes.benchmark_finetune import FinetunedConfig, finetuned
from birdjepa.train.signals import StopSignal

Say = Callable[[str], None]
Status = Literal["ran", "stored", "would run", "n/a", "no data", "no model", "failed", "elsewhere"]


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of one experiment."""

    at: Coordinates
    status: Status
    reason: str = ""
    result: Result | None = None


@dataclasses.dataclass(frozen=True)
class Benchmarked:
    """All experiments of a grid, and the recordings that could not be read."""

    lines: tuple[Line, ...]
    refused: tuple[Failure, ...]


def benchmark(config: BenchmarkConfig, say: Say, *, dry_run: bool = False) -> Benchmarked:
    """Runs the grid; with dry_run nothing is computed, and what would be is told.

    Raises:
      UsageError: if a task, model or classifier is named that there is not.
      Interrupted: a signal asked for it; everything finished is stored, and the same command goes on.
    """
    named = read_named(config.config)
    tasks = [named.task(name) for name in config.task]
    for name in config.classifier:  # a name that there is not is refused before anything runs
        named.classifier(name)
    for name in config.model:
        if name not in named.models:
            named.model(name, config.encoder)
    models: dict[str, Backbone | UserError] = {}
    refused: dict[tuple[str, str], Failure] = {}
    lines: list[Line] = []
    with StopSignal() as signal, Store.open(config.results) as store:
        if not dry_run:
            say(f"results go to {store.describe()}")
        for task in tasks:
            bench = _Bench(config, named, models, task, store, signal, say, dry_run)
            lines += bench.lines()
            refused |= {(each.path, each.reason): each for each in bench.refused}
    return Benchmarked(tuple(lines), tuple(refused.values()))


class _Bench:
    """The experiments of one task."""

    def __init__(
        self,
        config: BenchmarkConfig,
        named: Named,
        models: dict[str, Backbone | UserError],
        task: Task,
        store: Store,
        signal: StopSignal,
        say: Say,
        dry_run: bool,
    ) -> None:
        self.config, self.named, self.task, self.store = config, named, task, store
        self.models = models
        """Those that were opened, or why they could not be; all tasks share them."""
        self.signal, self.say, self.dry_run = signal, say, dry_run
        self.refused: tuple[Failure, ...] = ()
        self.examples: Examples
        self.problems: tuple[str, ...] = ()
        self._framed: tuple[Backbone, int, list[FrameSequence]] | None = None
        """Songs as a model's layer frames them: shots and seeds come one after the other."""

    def lines(self) -> Iterator[Line]:
        """Runs what there is to run, model by model."""
        try:
            self.examples, self.problems = read_examples(
                self.task, self.config.data, partial=self.config.partial, say=self.say
            )
            self.data = self.examples.fingerprint()
        except UserError as error:
            yield from (Line(at, "no data", str(error)) for name in self.config.model for at in self._grid(name, 1))
            return
        for name in self.config.model:
            model = self._model(name)
            if isinstance(model, UserError):
                yield from (Line(at, "no model", str(model)) for at in self._grid(name, 1))
            else:
                yield from self._with_model(name, model)

    def _model(self, name: str) -> Backbone | UserError:
        if name not in self.models:
            try:
                spec = self.named.model(name, self.config.encoder)
                self.models[name] = open_backbone(name, spec, device=self.config.device)
            except UserError as error:
                self.models[name] = error
        return self.models[name]

    def _with_model(self, name: str, backbone: Backbone) -> Iterator[Line]:
        left: list[tuple[Coordinates, str, dict[str, Any]]] = []
        for at in self._grid(name, backbone.card.n_layers):
            classifier = self.named.classifier(at.classifier)
            if why := _not_applicable(self.task, backbone, classifier, at):
                yield Line(at, "n/a", why)
                continue
            described = experiment.described(at, self.task, self.data, backbone, classifier, self.config.n_resamples)
            key = key_of(described)
            if (found := self.store.find(key)) is not None:
                yield Line(at, "stored", "", found)
            elif self.dry_run:
                yield Line(at, "would run")
            else:
                left.append((at, key, described))
        for at, key, described in left:
            yield self._one(at, key, described, backbone, [each for each, _, _ in left])

    def _one(
        self, at: Coordinates, key: str, described: dict[str, Any], backbone: Backbone, left: list[Coordinates]
    ) -> Line:
        """One experiment, unless another process has it or has done it meanwhile."""
        if self.signal.stop():
            raise Interrupted("stopped between two experiments; the same command goes on")
        claim = self.store.claim(key, str(at))
        if claim is None:
            found = self.store.find(key)
            if found:
                return Line(at, "stored", "", found)
            owner = self.store.holder(key)
            who = f"process {owner.pid} on {owner.host}, since {owner.since}" if owner else "another process"
            return Line(at, "elsewhere", f"{who} is at it; the same command later shows its result")
        try:
            if (found := self.store.find(key)) is not None:
                return Line(at, "stored", "", found)
            self.say(f"running {at}")
            tested = self._run(at, backbone, left)
            result = self._result(at, described, tested, _warnings(self.task, backbone))
            if tested.scores is not None:
                arrays = {
                    "scores": tested.scores,
                    "truth": self.examples.truth[tested.rows],
                    "classes": np.array(self.examples.classes),
                    "groups": np.array([self.examples.groups[row] for row in tested.rows]),
                    "ids": np.array([self.examples.ids[row] for row in tested.rows]),
                }
                kept = self.store.write_scores(key, arrays, round(self.config.scores_mb * 1e6))
                result = dataclasses.replace(result, scores=kept)
            self.store.add(result)
            headline = result.metrics[self.task.metric]
            self.say(f"{at}: {self.task.metric} {headline}, {tested.seconds:.1f} s")
            return Line(at, "ran", "", result)
        except Interrupted:
            raise
        except UserError as error:
            self.say(f"{at}: failed: {error}")
            return Line(at, "failed", str(error))
        finally:
            self.store.release(claim)

    def _run(self, at: Coordinates, backbone: Backbone, left: list[Coordinates]) -> Tested:
        classifier = self.named.classifier(at.classifier)
        if isinstance(classifier, FinetunedConfig):
            return self._finetune(at, classifier, backbone)
        if self.task.protocol == "frames":
            return self._label_frames(at, backbone)
        layers = sorted({each.layer or backbone.card.n_layers for each in left})
        layer = at.layer or backbone.card.n_layers
        is_restricted = isinstance(classifier, RestrictedConfig)
        extracted = self._extract(
            backbone,
            [layer] if classifier.needs_tokens else layers,
            tokens=classifier.needs_tokens,
            logits=is_restricted,
        )
        common: dict[str, Any] = {"n_resamples": self.config.n_resamples}
        if self.task.protocol == "retrieve":
            return experiment.retrieve(at, self.task, self.examples, extracted, layer=layer, **common)
        if isinstance(classifier, RestrictedConfig):
            return experiment.restrict(at, self.task, self.examples, extracted, backbone.card.classes, **common)
        return experiment.classify(
            at, self.task, self.examples, extracted, classifier, layer=layer, device=self.config.device, **common
        )

    def _label_frames(self, at: Coordinates, backbone: Backbone) -> Tested:
        layer = at.layer or backbone.card.n_layers
        if self._framed is None or self._framed[:2] != (backbone, layer):
            self.say(f"framing {len(self.examples)} songs by {at.model}, layer {layer}")
            self._framed = (backbone, layer, song_frames.embed(song_frames.framer(backbone, layer), self.examples))
        return song_frames.label(
            at,
            self.examples,
            self._songs,
            self._framed[2],
            n_resamples=self.config.n_resamples,
            device=self.config.device,
        )

    @functools.cached_property
    def _songs(self) -> list[Song]:
        return song_frames.songs(self.examples)

    def _extract(self, backbone: Backbone, layers: list[int], *, tokens: bool, logits: bool) -> Extracted:
        extracted = extract(
            backbone,
            self.examples,
            layers=layers,
            tokens=tokens,
            logits=logits,
            cache=self.config.cache_folder,
            config=self.config.extract,
            say=self.say,
            stop=self.signal.stop,
        )
        self.refused = tuple({*self.refused, *extracted.refused})
        return extracted

    def _finetune(self, at: Coordinates, config: FinetunedConfig, backbone: Backbone) -> Tested:
        began = time.monotonic()
        assert isinstance(backbone, EncoderBackbone)
        examples, counts, tested = self.examples, Counter[str](), []
        for part in examples.parts:
            rows = experiment.drawn(at, examples, part)
            counts.update(experiment.counted(rows))
            origin = {
                "model": backbone.identity,
                "data": self.data,
                "part": part.name,
                "config": configs.to_json(config),
            }
            name = configs.fingerprint({**origin, "n_train": at.n_train, "seed": at.seed})
            said = finetuned(
                config,
                require_spectrogram(backbone.encoder, "fine-tuning"),
                examples,
                self.task,
                rows,
                self.config.cache_folder / "finetuned" / name,
                seed=at.seed,
                device=self.config.device,
                extract=self.config.extract,
                say=self.say,
            )
            self.refused = tuple({*self.refused, *said.refused})
            tested.append((rows.test[said.heard], said.logits[said.heard]))
        return experiment.pooled(
            self.task,
            examples,
            tested,
            counts=counts,
            notes=(),
            chosen=(),
            n_resamples=self.config.n_resamples,
            began=began,
        )

    def _result(self, at: Coordinates, described: dict[str, Any], tested: Tested, warnings: Sequence[str]) -> Result:
        return Result(
            experiment=described,
            task=at.task,
            suite=self.task.suite,
            model=at.model,
            classifier=at.classifier,
            n_train=at.n_train,
            seed=at.seed,
            layer=at.layer,
            metric=self.task.metric,
            metrics=tested.metrics,
            per_class=tested.per_class,
            counts=tested.counts,
            notes=(*warnings, *self.task.notes, *self.problems, *self.examples.notes, *tested.notes),
            scores=None,
            seconds=tested.seconds,
            provenance={**provenance(), "chosen": list(tested.chosen)},
        )

    def _grid(self, model: str, n_layers: int) -> Iterator[Coordinates]:
        """The experiments of a model, those that share features together."""
        for classifier in self.config.classifier:
            for layer in _layers(self.config.layer, n_layers):
                for n_train in self.config.shots:
                    for seed in self.config.seed:
                        yield Coordinates(
                            task=self.task.name,
                            model=model,
                            classifier=classifier,
                            n_train=n_train,
                            seed=seed,
                            layer=layer,
                        )


def _layers(asked: tuple[str, ...], n_layers: int) -> list[int | None]:
    """Numbers of layers; None for the last, as long as it is not asked for by number."""
    found: list[int | None] = []
    for value in asked:
        found += range(1, n_layers + 1) if value == ALL else [None] if value == LAST else [int(value)]
    return list(dict.fromkeys(found))


def _not_applicable(task: Task, backbone: Backbone, classifier: Any, at: Coordinates) -> str:
    """Why an experiment makes no sense; empty where it does."""
    card = backbone.card
    if at.layer is not None and at.layer > card.n_layers:
        return f"{card.name} has {card.n_layers} layers to choose from"
    if task.protocol == "retrieve":
        if at.classifier != "centroid":
            return "retrieval ranks by likeness to exemplars: --classifier centroid"
        return "" if at.n_train is not None else "retrieval needs a number of exemplars: --n-train 1 2 4 8 16"
    if task.protocol == "frames":
        if at.classifier != "linear":
            return "moments are labelled by a linear probe: --classifier linear"
        return "" if card.token_hop_s is not None else f"{card.name} does not say what its tokens stand for in time"
    if isinstance(classifier, FinetunedConfig):
        if at.layer is not None:
            return "fine-tuning learns all layers: leave --layer last"
        return card.no_finetuning
    if isinstance(classifier, RestrictedConfig) and not card.classes:
        return f"{card.name} has no classes of its own"
    if classifier.needs_tokens and card.token_width is None:
        return f"{card.name} gives no tokens"
    return ""


def _warnings(task: Task, backbone: Backbone) -> tuple[str, ...]:
    """What a reader must know of this model on this task."""
    card = backbone.card
    warnings = card.warnings(task.name, task.suite)
    if task.sampling_rate is not None and card.sampling_rate < task.sampling_rate / 2:
        hears = f"{card.name} hears up to {card.sampling_rate / 2000:g} kHz"
        warnings += (f"recorded at {task.sampling_rate / 1000:g} kHz, of which {hears}",)
    return warnings


def results_beside(results: Path) -> Path:
    """Where what could not be read is listed."""
    return results.with_name(f"{results.name}.failures.csv")
