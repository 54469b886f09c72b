"""What `birdjepa benchmark` runs: every combination of tasks, models, classifiers, shots, seeds and layers.

A TOML file adds to the named tasks, models and classifiers, or changes them:

    [tasks.my-frogs]
    data = "frogs/labels.csv"

    [models.perch-v2]
    model = "models/perch_v2.onnx"

    [classifiers.linear-asymmetric]
    kind = "LinearConfig"
    loss = {kind = "AsymmetricConfig"}
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from birdjepa.benchmark.backbones.named import MODELS, EncoderSpec, RandomSpec, Spec, with_tables
from birdjepa.benchmark.classifiers import CLASSIFIERS, AnyClassifier
from birdjepa.benchmark.classifiers.restricted import RestrictedConfig
from birdjepa.benchmark.features import ExtractConfig
from birdjepa.benchmark.tasks import TASKS, Task
from birdjepa.benchmark.tasks.own import OwnTask, own_task
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.recipes.benchmark_finetune import FinetunedConfig

ALL = "all"
LAST = "last"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is run, on what, and where results go."""

    task: tuple[str, ...] = ()
    """Names of tasks; without any, they are listed."""
    model: tuple[str, ...] = ("birdjepa",)
    """Names of models, or encoder folders."""
    classifier: tuple[str, ...] = ("linear",)
    n_train: tuple[str, ...] = (ALL,)
    """Training examples per class (1 5 10 ...), or all; exemplars per class for retrieval, songs for syllables."""
    seed: tuple[int, ...] = (0,)
    """Of what is drawn: shots, heads, batches."""
    layer: tuple[str, ...] = (LAST,)
    """Layers from 1; last; or all."""
    encoder: Path | None = None
    """Encoder folder of the models birdjepa and random; by default the only one in runs/."""
    config: Path | None = None
    """TOML file with tables [tasks.NAME], [models.NAME] and [classifiers.NAME]."""
    data: Path = Path("data")
    """Folder with the tasks' manifests (birdset-pow.csv, ...) as `birdjepa data prepare` writes them, or with the
    downloads themselves, which are then prepared."""
    partial: bool = False
    """Take data sets that are not complete; results say what is missing."""
    results: Path = Path("results.sqlite")
    cache: Path | None = None
    """Folder for frozen features; by default birdjepa/features in the user's cache folder."""
    scores_mb: float = 500.0
    """Largest file of scores kept beside the results of one experiment; 0 keeps none, and then nothing can be
    compared in pairs later."""
    n_resamples: int = 2000
    """Of the bootstrap over recordings."""
    device: str = "cpu"
    extract: ExtractConfig = ExtractConfig()

    def __post_init__(self) -> None:
        for name in ("model", "classifier", "n_train", "seed", "layer"):
            if not getattr(self, name):
                raise ValueError(f"{name} needs at least one value")
        for value in self.n_train:
            if value != ALL and not (value.isdecimal() and int(value) > 0):
                raise ValueError(f"n_train must be positive numbers or {ALL}, got {value!r}")
        for value in self.layer:
            if value not in (ALL, LAST) and not (value.isdecimal() and int(value) > 0):
                raise ValueError(f"layer must be numbers from 1, {LAST} or {ALL}, got {value!r}")
        if self.n_resamples < 1 or self.scores_mb < 0:
            raise ValueError(f"need n_resamples >= 1 and scores_mb >= 0, got {self.n_resamples}, {self.scores_mb}")

    @property
    def shots(self) -> tuple[int | None, ...]:
        """Training examples per class; None for all."""
        return tuple(None if value == ALL else int(value) for value in self.n_train)

    @property
    def cache_folder(self) -> Path:
        return self.cache or files.user_caches() / "birdjepa" / "features"


AnyConfig = AnyClassifier | RestrictedConfig | FinetunedConfig


@dataclasses.dataclass(frozen=True)
class Named:
    """The tasks, models and classifiers that can be asked for by name."""

    tasks: dict[str, Task]
    models: dict[str, Spec]
    classifiers: dict[str, AnyConfig]

    def task(self, name: str) -> Task:
        return _pick(self.tasks, name, "task")

    def classifier(self, name: str) -> AnyConfig:
        return _pick(self.classifiers, name, "classifier")

    def model(self, name: str, encoder: Path | None) -> Spec:
        """The model of a name, or the encoder in a folder.

        Raises:
          UsageError: if there is neither, or it is not said which encoder birdjepa is.
        """
        if name not in self.models and (Path(name) / "config.json").is_file():
            return EncoderSpec(folder=name)
        spec = _pick(self.models, name, "model", " (or give an encoder folder)")
        if isinstance(spec, EncoderSpec) and not spec.folder:
            return dataclasses.replace(spec, folder=str(encoder or only_encoder()))
        if isinstance(spec, RandomSpec) and not spec.like:
            return dataclasses.replace(spec, like=str(encoder or (_encoders() or [""])[0]))
        return spec


def only_encoder() -> Path:
    """The one encoder in runs/.

    Raises:
      UsageError: if there is none, or several.
    """
    found = _encoders()
    if len(found) == 1:
        return found[0]
    which = f"runs/ has {len(found)}: {', '.join(map(str, found[:5]))}" if found else "runs/ has none"
    raise UsageError(f"which encoder is birdjepa? Name it with --encoder, or give its folder as --model; {which}")


def _encoders() -> list[Path]:
    return sorted(path.parent for path in Path("runs").glob("*/encoder/config.json"))


def read_named(path: Path | None) -> Named:
    """What there is by name, with the tables of a TOML file laid over it.

    Raises:
      UsageError: naming the table and the setting that cannot be.
    """
    named = Named(
        dict(TASKS), dict(MODELS), {**CLASSIFIERS, "restricted": RestrictedConfig(), "finetune": FinetunedConfig()}
    )
    if path is None:
        return named
    tables = configs.read_file(path)
    if unknown := sorted(tables.keys() - {"tasks", "models", "classifiers"}):
        raise UsageError(
            f"{path}: has no use for [{unknown[0]}]; it may have [tasks.NAME], [models.NAME], [classifiers.NAME]"
        )
    for name, table in _tables(tables, "tasks", path):
        spec = configs.overlay(OwnTask(data=""), table, where=f"{path}: tasks.{name}")
        if not spec.data:
            raise UsageError(f"{path}: tasks.{name} has no data")
        beside = path.parent / spec.data
        named.tasks[name] = own_task(name, dataclasses.replace(spec, data=str(beside)) if beside.exists() else spec)
    models = with_tables(dict(_tables(tables, "models", path)), named.models)
    for name, table in _tables(tables, "classifiers", path):
        named.classifiers[name] = _laid_over(named.classifiers.get(name), table, f"{path}: classifiers.{name}")
    return dataclasses.replace(named, models=models)


def _tables(tables: Mapping[str, Any], group: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    inside = tables.get(group, {})
    for name, table in inside.items() if isinstance(inside, Mapping) else [(group, inside)]:
        if not isinstance(table, Mapping):
            raise UsageError(f"{path}: {group}.{name} must be a table: [{group}.{name}]")
    return list(inside.items())


def _laid_over(present: AnyConfig | None, table: Mapping[str, Any], where: str) -> AnyConfig:
    """The classifier of a name changed, or a new one of the table's kind."""
    kinds: dict[str, type[AnyConfig]] = {kind.__name__: kind for kind in get_args(AnyConfig)}
    kind = table.get("kind", type(present).__name__ if present is not None else "")
    if kind not in kinds:
        raise UsageError(f"{where} needs kind, one of {', '.join(kinds)}; got {kind!r}")
    start = present if present is not None and type(present).__name__ == kind else kinds[kind]()
    return configs.overlay(start, table, where=where)


def _pick(there: Mapping[str, Any], name: str, what: str, more: str = "") -> Any:
    if name not in there:
        raise UsageError(f"{name!r} is not a {what}; there are {', '.join(there)}{more}")
    return there[name]
