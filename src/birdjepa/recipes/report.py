"""The report job: opens what a run was made from, as far as it is still there, and writes report.html."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from birdjepa.checkpoint import store
from birdjepa.checkpoint.manifest import CheckpointError
from birdjepa.core.errors import InputError, UserError
from birdjepa.core.telling import tenths
from birdjepa.data.sources import Manifest
from birdjepa.models.encoder import Encoder, load
from birdjepa.objectives.base import Objective
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.pretrain import make_clips, make_objective, open_sources
from birdjepa.recipes.run_folder import read_config
from birdjepa.report.build import write_report
from birdjepa.report.contents import Absent, ReportConfig
from birdjepa.report.gather import UNTRAINED, gather


def report(folder: Path, config: ReportConfig, say: Callable[[str], None]) -> Path:
    """Writes the run's report.html with whatever is at hand: the encoder once exported, recordings while they last.

    Raises:
      UsageError: if the folder holds no run.
    """
    run = read_config(PretrainConfig, folder)
    sources = _sources_at_hand(run, say)
    encoder = load(folder / "encoder") if (folder / "encoder" / "config.json").exists() else None
    clips = make_clips(run, sources) if sources else None
    objective = make_objective(run, _twin(run), clips).requires_grad_(False).eval() if clips else None
    trained = restore(objective, folder, say) if objective else UNTRAINED
    progress = tenths(say, "rows embedded for the report")
    contents = gather(
        folder,
        sources=sources,
        clips=clips,
        objective=objective,
        encoder=encoder,
        trained=trained,
        config=config,
        progress=progress,
    )
    return write_report(folder, contents)


def _sources_at_hand(run: PretrainConfig, say: Callable[[str], None]) -> list[Manifest]:
    """The run's sources, or none when one of them has gone: a report without sound is better than none."""
    try:
        return open_sources(run)
    except (UserError, InputError) as error:
        say(f"the recordings are not at hand, so the report shows none: {error}")
        return []


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


def _twin(run: PretrainConfig) -> Encoder:
    """The run's encoder before its first step."""
    return run.encoder_config().build().initialise(run.seed)
