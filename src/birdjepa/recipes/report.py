"""The report job: opens what a run was made from, as far as it is still there, and writes report.html."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from birdjepa.checkpoint import store
from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.core import config as configs
from birdjepa.core.errors import InputError, UsageError, UserError
from birdjepa.core.telling import tenths
from birdjepa.data.loader import Batches
from birdjepa.data.manifest import Manifest
from birdjepa.models.codec import Codec, load_codec
from birdjepa.models.loading import load
from birdjepa.objectives.base import Objective
from birdjepa.objectives.codec import CodecObjective
from birdjepa.recipes.any_run import read_run
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.finetune_config import FinetuneConfig
from birdjepa.recipes.finetune_data import folds_to_cross, labelled_data, split_parts
from birdjepa.recipes.finetune_run import open_run
from birdjepa.recipes.pretrain import open_sources
from birdjepa.recipes.run_folder import read_config
from birdjepa.report.build import write_report
from birdjepa.report.contents import Absent, ReportConfig
from birdjepa.report.gather import UNTRAINED, gather


def report(folder: Path, config: ReportConfig, say: Callable[[str], None]) -> Path:
    """Writes the run's report.html with whatever is at hand: the encoder once exported, recordings while they last.

    Raises:
      UsageError: if the folder holds no run.
    """
    opened = _open(folder, say)
    encoder = load(opened.encoder) if (opened.encoder / "config.json").exists() else None
    sources, clips, objective = opened.sources, opened.clips, opened.objective
    trained = restore(objective.requires_grad_(False).eval(), folder, say) if objective else UNTRAINED
    progress = tenths(say, "rows embedded for the report")
    contents = gather(
        folder,
        sources=sources,
        clips=clips,
        objective=objective,
        encoder=encoder,
        codec=_codec(folder / PretrainCodecConfig.exports, objective),
        trained=trained,
        config=config,
        progress=progress,
    )
    return write_report(folder, contents)


def _codec(exported: Path, objective: Objective | None) -> Codec | None:
    """What a run learns as a codec: as trained so far, or as it left it where its recordings have gone."""
    if isinstance(objective, CodecObjective):
        return objective.codec
    return load_codec(exported) if (exported / "config.json").exists() else None


class _Opened(NamedTuple):
    """What a report is made from; without recordings there are no sources, clips or objective."""

    sources: list[Manifest]
    clips: Batches | None
    objective: Objective | None
    encoder: Path
    """Folder of the exported encoder; may not be there yet."""


def _open(folder: Path, say: Callable[[str], None]) -> _Opened:
    """The run's data and objective; none of it when a source has gone: a report without sound is better than none."""
    path = folder / "config.json"
    tuned = path.is_file() and configs.read_file(path).get("kind") == FinetuneConfig.__name__
    config = read_config(FinetuneConfig, folder) if tuned else read_run(folder)
    encoder = folder / "model" if isinstance(config, FinetuneConfig) else config.encoder_folder(folder)
    try:
        if isinstance(config, FinetuneConfig):
            labelled = labelled_data(config)
            crossed = folds_to_cross(labelled, config)
            opened = _Opened([], None, None, encoder) if crossed else _tuned(config, labelled, encoder)
        else:
            sources = open_sources(config)
            clips = config.open_clips(sources)
            crossed, opened = (), _Opened(sources, clips, config.make_objective(clips), encoder)
    except (UserError, InputError) as error:
        say(f"the recordings are not at hand, so the report shows none: {error}")
        return _Opened([], None, None, encoder)
    if crossed:
        raise UsageError(f"{folder}: holds a run for each of {len(crossed)} folds; name one of its folders")
    return opened


def _tuned(config: FinetuneConfig, labelled: Manifest, encoder: Path) -> _Opened:
    return _Opened([labelled], *open_run(config, split_parts(labelled, config)), encoder)


def restore(objective: Objective, folder: Path, say: Callable[[str], None]) -> int | Absent:
    """Puts the weights of the run's newest intact checkpoint into its objective, and returns their step.

    Where there is none, or it belongs to an objective of another shape (data has come or gone since), the objective is
    left as it is, and the reason is returned: a report without predictions is better than none.
    """
    try:
        found = store.latest(folder / "checkpoints", warn=say)
    except CheckpointError as error:
        return Absent(str(error))
    if found is None:
        return UNTRAINED
    prefix = "objective."
    saved = {name.removeprefix(prefix): each for name, each in found.tensors.items() if name.startswith(prefix)}
    own = objective.state_dict()
    odd = sorted({name for name, _ in _shapes(own) ^ _shapes(saved)})
    if odd:
        return Absent(
            f"{found.path.name} does not fit the data as it is now: {len(odd)} tensors differ, {odd[0]} first"
        )
    objective.load_state_dict(saved)
    return found.step


def _shapes(tensors: Mapping[str, Tensor]) -> set[tuple[str, torch.Size]]:
    return {(name, tensor.shape) for name, tensor in tensors.items()}
