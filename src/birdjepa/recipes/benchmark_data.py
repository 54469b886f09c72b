"""Where the data of the benchmark's tasks are on this machine."""

from collections.abc import Callable
from pathlib import Path

from birdjepa.benchmark.tasks import Examples, Task
from birdjepa.core.errors import UsageError
from birdjepa.data.catalog import CATALOG, Dataset, prepare
from birdjepa.data.catalog.base import NotADownload, miscounted
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import open_data

Say = Callable[[str], None]


def read_examples(task: Task, root: Path, *, partial: bool, say: Say) -> tuple[Examples, tuple[str, ...]]:
    """The examples of a task, and in what its data sets are not complete.

    Raises:
      UsageError: if a data set is not there, or is not complete and that was not allowed.
    """
    manifests, problems = [], []
    for name in task.datasets:
        if name in CATALOG:
            dataset = CATALOG[name]
            manifest = open_data(str(manifest_of(dataset, root, partial=partial, say=say)))
            lacking = miscounted(dataset, _rows(manifest))
            if lacking and not partial:
                raise UsageError(
                    f"{manifest.name}: not the whole of {name}: {'; '.join(lacking)}; or take it --partial"
                )
            manifests.append(manifest)
            problems += [f"{name} is not complete: {each}" for each in lacking]
        else:
            manifests.append(open_data(name))
    return task.read(manifests), tuple(problems)


def manifest_of(dataset: Dataset, root: Path, *, partial: bool, say: Say) -> Path:
    """The manifest of a data set in root; made from its download where that is in root, or in a folder there.

    Raises:
      UsageError: saying how to get the data set, if it is not there.
    """
    manifest = root / f"{dataset.name}.csv"
    if manifest.is_file():
        return manifest
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())] if root.is_dir() else []
    for folder in folders:
        try:
            prepare(dataset, folder, manifest, partial=partial)
        except NotADownload:
            continue
        say(f"{manifest}: made from {folder}")
        return manifest
    raise UsageError(
        f"{manifest}: missing, and {root} holds no download of {dataset.name}; "
        f"`birdjepa data describe {dataset.name}` says how to get it"
    )


def _rows(manifest: Manifest) -> list[dict[str, str]]:
    names = ("split", "label", "labels")
    return [dict(zip(names, cells, strict=True)) for cells in zip(*(manifest.columns[n] for n in names), strict=True)]
